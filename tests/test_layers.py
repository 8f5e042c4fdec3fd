"""Imports follow the layers of scripts/check_layers.py, and the check detects violations."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def check(*arguments: str | Path) -> tuple[int, list[str]]:
    """The exit code of scripts/check_layers.py, and the lines it prints."""
    command = [sys.executable, ROOT / "scripts" / "check_layers.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def tree(folder: Path, files: dict[str, str]) -> Path:
    """A package llamita with these modules, and an empty `__init__.py` in every folder that names none."""
    for name, text in files.items():
        path = folder / "llamita" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for package in {path.parent for path in folder.rglob("*.py")} | {folder / "llamita"}:
        (package / "__init__.py").touch()
    return folder / "llamita"


GOOD = {
    "config.py": "import llamita.errors",
    "errors.py": "import torch",
    "model/__init__.py": "from llamita.model.block import Block\nfrom .rope import Rope",
    "model/block.py": "from llamita import config\nfrom . import rope\nfrom llamita.model.rope import Rope",
    "model/rope.py": "from ..errors import UserError",
    "train/loop.py": "def train():\n    from llamita.model import Block\n    import llamita.config",
    "cli/main.py": "from llamita import __version__\nimport llamita.train.loop",
}

VIOLATIONS = {
    "an absolute import": ("model/block.py", "from llamita.train import loop"),
    "a plain import": ("model/block.py", "import llamita.train.loop as loop"),
    "a relative import": ("model/block.py", "from ..train.loop import train"),
    "a relative import of a package": ("model/block.py", "from .. import train"),
    "an import of a package from the root": ("model/block.py", "from llamita import train"),
    "a relative import in a package's own file": ("model/__init__.py", "from ..train import loop"),
    "an import inside a function": ("model/block.py", "def late():\n    if True:\n        import llamita.train"),
    "an import for types only": ("model/block.py", "if TYPE_CHECKING:\n    from llamita.train.loop import train"),
    "one name among others": ("model/block.py", "from llamita import config, train"),
    "the lowest layer": ("errors.py", "from llamita.config import RunConfig"),
    "the root": ("__init__.py", "from llamita.train import loop"),
}


def test_the_imports_of_llamita_follow_the_layers():
    code, lines = check()
    assert code == 0, "\n".join(lines)


def test_a_good_tree_passes(tmp_path):
    assert check(tree(tmp_path, GOOD)) == (0, ["10 modules: all imports follow the layers"])


@pytest.mark.parametrize("case", VIOLATIONS)
def test_a_violation_is_one_line(tmp_path, case):
    name, text = VIOLATIONS[case]
    code, lines = check(tree(tmp_path, {**GOOD, name: text}))
    assert code == 1
    assert len(lines) == 1
    assert f"llamita/{name}:{len(text.splitlines())}: llamita" in lines[0]
    assert " comes before " in lines[0]


def test_every_violation_is_reported(tmp_path):
    code, lines = check(tree(tmp_path, {**GOOD, "model/rope.py": "import llamita.train\nimport llamita.cli.main"}))
    assert code == 1
    assert len(lines) == 2


def test_modules_of_a_package_that_import_each_other_are_a_cycle(tmp_path):
    bad = {"model/a.py": "from llamita.model.b import x", "model/b.py": "from . import c",
           "model/c.py": "def late():\n    from .a import y"}  # fmt: skip
    code, (line,) = check(tree(tmp_path, {**GOOD, **bad}))
    assert code == 1
    assert line.startswith("import cycle: ")
    steps = line.removeprefix("import cycle: ").split(" -> ")
    assert steps[0] == steps[-1]
    named = dict(pairwise(steps))  # each module -> the one that it imports
    assert named == {f"llamita.model.{a}": f"llamita.model.{b}" for a, b in ("ab", "bc", "ca")}


def test_a_module_that_imports_its_own_package_is_a_cycle(tmp_path):
    bad = {"train/__init__.py": "from . import loop", "train/loop.py": "import llamita.train"}
    code, (line,) = check(tree(tmp_path, {**GOOD, **bad}))
    assert code == 1
    assert line.startswith("import cycle: ")


def test_two_cycles_are_two_lines(tmp_path):
    bad = {"model/a.py": "from . import b", "model/b.py": "from . import a",
           "train/a.py": "from . import b", "train/b.py": "from . import a"}  # fmt: skip
    code, lines = check(tree(tmp_path, {**GOOD, **bad}))
    assert code == 1
    assert len(lines) == 2


def test_a_package_without_a_layer_is_reported(tmp_path):
    code, (line,) = check(tree(tmp_path, {**GOOD, "attic/chest.py": ""}))
    assert code == 1
    assert "attic" in line


def test_an_import_of_a_missing_module_is_reported(tmp_path):
    code, (line,) = check(tree(tmp_path, {**GOOD, "model/rope.py": "import llamita.attic"}))
    assert code == 1
    assert "does not exist" in line
