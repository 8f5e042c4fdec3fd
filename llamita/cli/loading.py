"""Which run a command uses, and loading it."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llamita.cli.messages import print_note
from llamita.errors import UserError

if TYPE_CHECKING:
    from llamita.config import RunConfig
    from llamita.model import Llama
    from llamita.tokenizer import Tokenizer
    from llamita.train.checkpoint import Checkpoint


def load_noting_code(checkpoint: Path | None) -> "tuple[Checkpoint, Llama, Tokenizer, RunConfig]":
    """The checkpoint that `find_verified` finds, and its content; a line on stderr if other code trained it."""
    from llamita.train.loading import load_found
    from llamita.train.recorded_code import code_difference
    from llamita.train.run_directory import RunDirectory, find_verified

    found = find_verified(checkpoint)
    loaded = load_found(found)
    if difference := code_difference(RunDirectory(found.path.parent).facts()):
        print(difference, file=sys.stderr)
    return found, *loaded


def named_run(run: str | None, checkpoint: Path | None) -> Path | None:
    """The run from the positional argument or from --checkpoint. Raises `UserError` if both are given."""
    if run is not None and checkpoint is not None:
        raise UserError(f"the run is named twice, {run!r} and --checkpoint {checkpoint}: leave one out")
    return checkpoint if run is None else Path(run)


def run_and_prompt(
    first: str | None, second: str | None, checkpoint: Path | None, prompt: str | None
) -> tuple[Path | None, str | None]:
    """The run and the prompt of `generate [RUN] [PROMPT] --checkpoint … --prompt …`; None for what is missing.

    A single argument is the run if it is one, else the prompt. With --checkpoint it is the prompt, with --prompt the
    run. Raises `UserError` for what is given twice.
    """
    if second is not None:
        return _two_arguments(str(first), second, checkpoint, prompt)
    if first is None:
        return checkpoint, prompt
    if prompt is not None:
        return named_run(first, checkpoint), prompt
    if checkpoint is None and _is_run(first):
        return Path(first), None
    if os.path.lexists(first) or os.path.isdir(os.path.dirname(first)):
        print_note(f"{first!r} is the prompt: there is no run of that name (--checkpoint names a run)")
    return checkpoint, first


def _two_arguments(run: str, text: str, checkpoint: Path | None, prompt: str | None) -> tuple[Path, str]:
    if checkpoint is not None or prompt is not None:
        given, flag = (run, "--checkpoint") if checkpoint is not None else (text, "--prompt")
        raise UserError(f"{flag} and {given!r} say the same: leave one out (put a prompt of several words in quotes)")
    if not _is_run(run):
        raise UserError(f"{run!r} is not a run: put a prompt of several words in quotes, or name a run before it")
    return Path(run), text


def _is_run(name: str) -> bool:
    from llamita.train.run_directory import is_run_or_checkpoint

    return is_run_or_checkpoint(name)
