"""The command line before it is parsed: aliases and values of other trainers; then values from files and presets.

Flags win over files, and files over presets.
"""

from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any, get_args

from cyclopts import App, ArgumentCollection, Group, Parameter
from cyclopts.config import Dict

from llamita.cli.messages import parts, print_note
from llamita.config import (
    ALIASES,
    RETIRED,
    RIVALS,
    SWITCHES,
    TRUTH,
    VALUES,
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    OptimizerConfig,
    Tables,
    TrainingConfig,
    beneath,
    note_on_retired,
    own_names,
    settings_asked_for,
    whole_number,
)
from llamita.errors import UserError
from llamita.presets import preset_path


def flat(title: str, place: int, **options: Any) -> Parameter:
    """Each field of a table is a flag of its own (--hidden_size, not --model.hidden_size), in a group of the help.

    `options`: further ones of the parameter. With `consume_multiple=False`, a flag takes one value and is repeated.
    """
    return Parameter(name="*", group=Group(title, sort_key=place), **options)


LIMITS = ("max_documents", "max_corpus_tokens")
DEFAULT_PRESETS = {"ablate": "ablation", "scaling": "scaling"}
"""Command -> the preset that it uses without --preset and --config; the others use the defaults of the settings."""

FILES = Parameter(group=Group("files: settings for all groups below", sort_key=0))
ModelFlags = Annotated[ModelConfig, flat("model: architecture", 1)]
DataFlags = Annotated[DataConfig, flat("data: text and tokenizer", 2)]
OptimizerFlags = Annotated[OptimizerConfig, flat("optimizer: AdamW and its schedule", 3)]
TrainingFlags = Annotated[TrainingConfig, flat("training: batch size, length, seed", 4)]
ExecutionFlags = Annotated[ExecutionConfig, flat("run: device, output, intervals", 5)]
OUTPUT = Parameter(group=Group("result", sort_key=6), negative=())


def canonical_flags(words: list[str]) -> list[str]:
    """The command line in llamita's terms: `--block_size 64` -> `--max_seq_len 64`. Words after `--` stay.

    Values are translated, too: `--dtype=float32` -> `--precision=fp32`. Retired flags are left out, with a note.
    """
    end = words.index("--") if "--" in words else len(words)
    return [*_canonical(words[:end]), *words[end:]]


def _canonical(words: list[str]) -> Iterator[str]:
    remaining = deque(words)
    while remaining:
        word = remaining.popleft()
        name, negative, value = parts(word)
        if name in RETIRED:
            print_note(note_on_retired(name, "command line"))
            if value is None and _is_value(remaining):
                remaining.popleft()
        elif name in SWITCHES:
            yield from _settings_of_switch(word, remaining)
        elif name and (own := ALIASES.get(name, name)) in VALUES:
            yield from _with_own_value(word, own, remaining)
        elif name:
            yield f"--{negative}{ALIASES.get(name, name)}" + ("" if value is None else f"={value}")
        else:
            yield word


def _is_value(remaining: deque[str]) -> bool:
    return bool(remaining) and not remaining[0].startswith("--")


def _settings_of_switch(word: str, remaining: deque[str]) -> Iterator[str]:
    """`--use_amp False` -> `--precision=fp32`: the value may be missing, or follow as a word of its own."""
    name, negative, value = parts(word)
    if value is None:
        value = remaining.popleft() if remaining and remaining[0].lower() in TRUTH else "true"
    if negative:
        value = str(not TRUTH.get(value.lower(), True))
    try:
        settings = own_names(name, value)
    except UserError as error:
        raise UserError(f"--{error}") from None
    yield from (f"--{setting}={own}" for setting, own in settings.items())


def _with_own_value(word: str, own: str, remaining: deque[str]) -> Iterator[str]:
    """`--dtype float32` -> `--precision fp32`, `--compile` -> `--compile=on`; a value that llamita knows stays."""
    _, negative, value = parts(word)
    if value is None and not negative and _is_value(remaining):
        yield from (f"--{own}", own_names(own, remaining.popleft())[own])
    elif value is None and own == "compile":
        yield "--compile=off" if negative else "--compile=on"
    elif value is None:
        yield f"--{negative}{own}"
    else:
        yield f"--{own}={own_names(own, value)[own]}"


def fill_from_files(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give a flag that is not on the command line its value from the file of --config, or else from the --preset."""
    _read_whole_numbers(arguments)
    if path := _named(arguments, "--config"):
        _fill(settings_asked_for(path, print_note), path, app, commands, arguments)
    if name := _named(arguments, "--preset") or ("" if path else DEFAULT_PRESETS.get(commands[0], "")):
        tables = settings_asked_for(preset_path(name))
        if _named(arguments, "--data"):  # limits on the preset's own corpus are none for other text
            tables = {table: {k: v for k, v in rows.items() if k not in LIMITS} for table, rows in tables.items()}
        _fill(tables, f"preset {name}", app, commands, arguments)


def _read_whole_numbers(arguments: ArgumentCollection) -> None:
    """Rewrite 1e4, 10k and 1_000 in digits. Raises `UserError` for fractions, which cyclopts would round silently."""
    for argument in arguments:
        if int in (argument.hint, *get_args(argument.hint)) and float not in get_args(argument.hint):
            for place, token in enumerate(argument.tokens):
                try:
                    number = whole_number(token.value)
                except ValueError:
                    name = token.keyword or argument.name
                    raise UserError(f"{name} is {token.value}, but must be a whole number") from None
                if number is not None:
                    argument.tokens[place] = token.evolve(value=str(number))


def _named(arguments: ArgumentCollection, flag: str) -> str:
    """The value of a flag on the command line; empty if it is not there."""
    return next((a.tokens[0].value for a in arguments if flag in a.names and a.tokens), "")


def _fill(tables: Tables, source: str, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give every flag that has no value yet the one from `tables`."""
    said = {name: value for name in RIVALS if (value := _named(arguments, f"--{name}"))}
    settings = {name: value for table in beneath(tables, said).values() for name, value in table.items()}
    if commands == ("prepare",):
        settings.pop("output_dir", None)  # in a file, it is the directory of a run
    # Under the command's own name: at the top, cyclopts drops keys that are named as a command is (tokenizer).
    nested: dict[str, Any] = settings
    for command in reversed(commands):
        nested = {command: nested}
    # Names were checked in reading; a command that lacks some of the flags ignores their settings.
    Dict(nested, source=source, allow_unknown=True)(app, commands, arguments)
