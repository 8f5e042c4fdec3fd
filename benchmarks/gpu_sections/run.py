"""The process of one section: `python -m gpu_sections.run NAME RESULT`, with the setting as JSON on stdin."""

import json
import sys
import traceback
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from gpu_sections.section import Section, Setting


def main() -> None:
    """Run the section and write its result, including failures."""
    name, result = sys.argv[1:]
    setting = Setting(**json.load(sys.stdin))
    try:
        section = import_module(f"gpu_sections.{name}").run(setting)
    except Exception as error:
        summary = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        section = Section("failed", summary, ["```", *traceback.format_exc().splitlines(), "```"])
    Path(result).write_text(json.dumps(asdict(section), default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
