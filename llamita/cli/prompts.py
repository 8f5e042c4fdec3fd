"""Prompts: where they come from, and whether a model can continue them."""

from pathlib import Path
from typing import TYPE_CHECKING

from llamita.cli.messages import print_note
from llamita.errors import UserError

if TYPE_CHECKING:
    from llamita.tokenizer import Tokenizer


def read_prompts(file: Path | None, prompt: str | None) -> list[str] | None:
    """The prompts of --prompts_file, one per line, or the one that is given; None if there is neither."""
    if file is None:
        return None if prompt is None else [prompt]
    if prompt is not None:
        raise UserError(f"--prompts_file {file} and the prompt {prompt!r} exclude each other: leave one out")
    try:
        lines = file.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"--prompts_file {file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--prompts_file {file}: not UTF-8 text, at byte {error.start:,}: convert it") from None
    if lines == [""]:
        raise UserError(f"--prompts_file {file} is empty: write a prompt on each line")
    return [line.removesuffix("\r") for line in lines]


def check_prompt(prompt: str, tokenizer: "Tokenizer", context: int) -> list[int]:
    """The ids to continue, at most a context of them: a note says so where only the end of the prompt fits.

    Raises `UserError` for characters that the tokenizer lacks.
    """
    from llamita.generate import prompt_ids
    from llamita.tokenizer import CharTokenizer

    if prompt.encode("utf-8", "replace").decode("utf-8") != prompt:
        raise UserError("the prompt is not UTF-8 text: set the terminal to UTF-8, and write it again")
    if isinstance(tokenizer, CharTokenizer):
        unknown = sorted(set(prompt) - set(tokenizer.characters))
        if unknown:
            raise UserError(f"the prompt has characters that the model never saw: {' '.join(map(repr, unknown))}")
    ids = prompt_ids(tokenizer, prompt)
    if len(ids) > context:
        print_note(f"the prompt has {len(ids):,} tokens, the context {context:,}: only the last {context:,} are used")
    return ids[-context:]
