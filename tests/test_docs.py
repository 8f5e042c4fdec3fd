"""The documentation says what the code does."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_configuration_page_is_the_one_that_the_code_writes():
    script = ROOT / "scripts" / "write_configuration_page.py"
    spec = importlib.util.spec_from_file_location("write_configuration_page", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), f"run python {script.relative_to(ROOT)}"
