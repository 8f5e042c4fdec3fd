"""Write docs/coming-from.md from the table that the command line answers from: llamita/config/other_trainers.py.

python scripts/write_coming_from_page.py
"""

import re
from collections.abc import Iterator
from pathlib import Path

from llamita.config import ALIASES, SWITCHES
from llamita.config.other_trainers import TRAINERS, Row, Trainer, names

PAGE = Path(__file__).parents[1] / "docs" / "coming-from.md"
INTRODUCTION = """# Coming from another trainer

Where the settings, files and commands of other trainers are found here. Left: the name there; right: the flag of
`llamita train` (without dashes, the key in a TOML file). Names with a star work unchanged, as flags and in TOML files;
[configuration.md](configuration.md) lists all of them. The other names are answered with what is on this page.

Everywhere in llamita, sizes are counted over *all* processes, so more processes do not change what is learned; a run
is one directory; the same command resumes; the learning rate decays to `--min_learning_rate` at `--max_steps`.

Values of other trainers work, too: `--dtype=float32`, `--compile=False`, `--use_amp`, `--precision bf16-mixed`.

This page is written by `python scripts/write_coming_from_page.py`. Tests run its commands.
"""


def works_unchanged(name: str, here: str) -> bool:
    """Whether the name is an alias or a switch that stands for a flag of the right column."""
    flags = set(re.findall(r"--(\w+)", here))
    settings = {name for side in SWITCHES.get(name, ()) for name in side} | {ALIASES.get(name)}
    return bool(settings & flags)


def setting_row(row: Row) -> str:
    there = (f"`{name}`" + (r"\*" if works_unchanged(name, row.here) else "") for name in names(row))
    return f"| {', '.join(there)} | {row.here} | {row.note} |"


def section(trainer: Trainer) -> Iterator[str]:
    yield f"\n## {trainer.name}\n"
    yield f"| {trainer.program} | here | |\n|---|---|---|"
    yield from map(setting_row, trainer.settings)
    if trainer.commands:
        yield "\n| commands there | here | |\n|---|---|---|"
        yield from (f"| `{row.there}` | `{row.here}` | {row.note} |" for row in trainer.commands)
    if trainer.files:
        yield "\n| files there | here |\n|---|---|"
        yield from (f"| {row.there} | {row.here} |" for row in trainer.files)
    if trainer.remark:
        yield f"\n{trainer.remark}"


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION.rstrip(), *(line for trainer in TRAINERS for line in section(trainer))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
