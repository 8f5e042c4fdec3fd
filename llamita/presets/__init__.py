"""Named configurations: one TOML file each, beside this one. `--config` and flags override a preset.

A new file here is a new preset: it is listed, shipped and tested like the others.
"""

import difflib
from pathlib import Path

from llamita.errors import UserError


def preset_names() -> list[str]:
    """Every preset, by name."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))


def preset_path(name: str) -> Path:
    """The file of a preset. Raises `UserError`, with the nearest name, where there is none."""
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.0)
        raise UserError(f"--preset: there is no {name!r}; did you mean '{near[0]}'? `llamita presets` lists them")
    return Path(__file__).with_name(f"{name}.toml")
