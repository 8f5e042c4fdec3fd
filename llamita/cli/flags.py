"""How flags, files and presets meet: flags win, files, then presets fill what is left, aliases are understood."""

import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any, get_args

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict

from llamita.config import (
    ALIASES,
    RETIRED,
    RIVALS,
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    OptimizerConfig,
    Tables,
    TrainingConfig,
    beneath,
    is_of_a_run,
    note_on_retired,
    settings_asked_for,
)
from llamita.errors import UserError
from llamita.presets import preset_path

FRACTION = re.compile(r"[+-]?[\d_]*\.[\d_]*[1-9][\d_]*")  # 30.0 is a whole number
SWITCH_VALUES = {"true", "false", "yes", "no", "on", "off", "0", "1"}
STRAY_HINTS = {
    "train": "texts are named with --data, a TOML file with --config",
    "prepare": "texts are named with --data, a TOML file with --config",
    "eval": "a run is named with --checkpoint",
    "generate": "a prompt of several words stands in quotes, a run is named with --checkpoint",
}
FLAT = Parameter(name="*")  # the fields of a table are flags of their own: --hidden_size, not --model.hidden_size

ModelFlags = Annotated[ModelConfig, FLAT]
DataFlags = Annotated[DataConfig, FLAT]
OptimizerFlags = Annotated[OptimizerConfig, FLAT]
TrainingFlags = Annotated[TrainingConfig, FLAT]
ExecutionFlags = Annotated[ExecutionConfig, FLAT]


def canonical_flags(words: list[str]) -> list[str]:
    """The command line with aliases replaced: `--block_size 64` -> `--max_seq_len 64`. Words after `--` stay.

    Flags that are no longer needed are left out, each with its value and with a note.
    """
    end = words.index("--") if "--" in words else len(words)
    return [_canonical(word) for word in _without_retired(words[:end])] + words[end:]


def _without_retired(words: list[str]) -> Iterator[str]:
    remaining = iter(words)
    for word in remaining:
        flag, equals, _ = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not (flag.startswith("--") and name in RETIRED):
            yield word
            continue
        _print_note(note_on_retired(name, "command line"))
        if not equals:
            next(remaining, None)  # its value


def _print_note(note: str) -> None:
    print(f"note: {note}", file=sys.stderr)


def _canonical(word: str) -> str:
    flag, equals, value = word.partition("=")
    said = flag.removeprefix("--").replace("-", "_")
    name = said.removeprefix("no_")  # of a switch
    negative = said.removesuffix(name)
    return f"--{negative}{ALIASES[name]}{equals}{value}" if flag.startswith("--") and name in ALIASES else word


def stray_word(stray: str, words: list[str]) -> str:
    """What to say of a word on the command line that belongs to no flag."""
    before = words[max(0, words.index(stray) - 1)] if stray in words else ""
    if before.startswith("--") and stray.lower() in SWITCH_VALUES:
        name = before.removeprefix("--").removeprefix("no-").removeprefix("no_")
        return f"{before} takes no value, so {stray!r} is one too many: --{name} is on, --no-{name} off"
    hint = STRAY_HINTS.get(words[0], f"llamita {words[0]} --help lists them")
    return f"{stray!r} belongs to no flag: {hint}"


def fill_from_files(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give a flag that is not on the command line its value from the file of --config, or else from the --preset."""
    _refuse_fractions(arguments)
    if path := _named(arguments, "--config"):
        settings = settings_asked_for(path, _print_note)
        if is_of_a_run(path):  # what `auto` chose there is asked for again
            settings["run"] = {**settings.get("run", {}), "choices_of": path}
        _fill(settings, path, app, commands, arguments)
    if name := _named(arguments, "--preset"):
        _fill(settings_asked_for(preset_path(name)), f"preset {name}", app, commands, arguments)


def _refuse_fractions(arguments: ArgumentCollection) -> None:
    """Raise `UserError` for a whole number that is given as a fraction: cyclopts would round it without a word."""
    for argument in arguments:
        whole = int in (argument.hint, *get_args(argument.hint)) and float not in get_args(argument.hint)
        for token in argument.tokens:
            if whole and FRACTION.fullmatch(token.value):
                raise UserError(f"{token.keyword or argument.name} is {token.value}, but must be a whole number")


def _named(arguments: ArgumentCollection, flag: str) -> str:
    """The value of a flag on the command line; empty where it is not there."""
    return next((a.tokens[0].value for a in arguments if flag in a.names and a.tokens), "")


def _fill(tables: Tables, source: str, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give every flag that has no value yet the one that `tables` have."""
    said = [name for name in RIVALS if _named(arguments, f"--{name.replace('_', '-')}")]
    flat = {name: value for table in beneath(tables, said).values() for name, value in table.items()}
    if commands == ("prepare",):
        flat.pop("output_dir", None)  # in a file, that is where a run goes
    # Under the command's own name: at the top, cyclopts drops keys that are named as a command is (tokenizer).
    nested: dict[str, Any] = flat
    for command in reversed(commands):
        nested = {command: nested}
    # Names were checked in reading; a command that has not all the flags takes those it has.
    Dict(nested, source=source, allow_unknown=True)(app, commands, arguments)
