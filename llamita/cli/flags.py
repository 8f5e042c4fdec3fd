"""How flags and configuration files meet: flags win, files fill what is left, other trainers' names are understood."""

from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict

from llamita.config import (
    ALIASES,
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
    settings_asked_for,
)

FLAT = Parameter(name="*")  # the fields of a table are flags of their own: --hidden_size, not --model.hidden_size

ModelFlags = Annotated[ModelConfig, FLAT]
DataFlags = Annotated[DataConfig, FLAT]
OptimizerFlags = Annotated[OptimizerConfig, FLAT]
TrainingFlags = Annotated[TrainingConfig, FLAT]
ExecutionFlags = Annotated[ExecutionConfig, FLAT]


def canonical_flags(words: list[str]) -> list[str]:
    """The command line with aliases replaced: `--block_size 64` -> `--max_seq_len 64`. Words behind `--` stay."""
    end = words.index("--") if "--" in words else len(words)
    return [_canonical(word) for word in words[:end]] + words[end:]


def _canonical(word: str) -> str:
    flag, equals, value = word.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    return f"--{ALIASES[name]}{equals}{value}" if flag.startswith("--") and name in ALIASES else word


def fill_from_config_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give every flag that is not on the command line its value from the file named with --config."""
    for argument in arguments:
        if "--config" in argument.names and argument.tokens:
            path = argument.tokens[0].value
            flat: dict[str, Any] = {}
            for table in settings_asked_for(path).values():
                flat.update(table)
            if any("--epochs" in other.names and other.tokens for other in arguments):
                flat.pop("max_steps", None)  # both say how long, and flags win
            if any("--max-steps" in other.names and other.tokens for other in arguments):
                flat.pop("epochs", None)
            if commands == ("prepare",):
                flat.pop("output_dir", None)  # in a file, that is where a run goes
            # Under the command's own name: at the top, cyclopts drops keys that are named as a command is (tokenizer).
            nested: dict[str, Any] = flat
            for command in reversed(commands):
                nested = {command: nested}
            # Names were checked in reading; a command that has not all the flags takes those it has.
            Dict(nested, source=path, allow_unknown=True)(app, commands, arguments)
            return
