"""Loading a run for a command that uses it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamita.config import RunConfig
    from llamita.model import Llama
    from llamita.tokenizer import Tokenizer
    from llamita.train.checkpoint import Checkpoint


def load_noting_code(checkpoint: Path | None) -> "tuple[Checkpoint, Llama, Tokenizer, RunConfig]":
    """The checkpoint that `find_verified` finds, and what it holds; one line on stderr where other code trained it."""
    from llamita.train.loading import load_found
    from llamita.train.recorded_code import code_difference
    from llamita.train.run_directory import RunDirectory, find_verified

    found = find_verified(checkpoint)
    loaded = load_found(found)
    if difference := code_difference(RunDirectory(found.path.parent).facts()):
        print(difference, file=sys.stderr)
    return found, *loaded
