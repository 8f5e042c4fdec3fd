"""`llamita generate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from llamita.cli.flags import FLAT
from llamita.config import GenerationConfig
from llamita.errors import UserError

if TYPE_CHECKING:
    from llamita.tokenizer import Tokenizer


def generate(
    prompt: str = "",
    *,
    checkpoint: Path | None = None,
    generation: Annotated[GenerationConfig, FLAT] = GenerationConfig(),  # noqa: B008  (frozen)
    device: str = "auto",
) -> None:
    """Continue a prompt, token by token, up to the end of the document. Without a prompt, begin a new document.

    Parameters
    ----------
    prompt: str
        The beginning of the text.
    checkpoint: Path
        A run (its best checkpoint), RUN/latest or RUN/step_00000500; default: the newest run in runs/.
    device: str
        auto, cpu, cuda or mps.
    """
    from llamita.config import ExecutionConfig
    from llamita.generate import prompt_ids, stream
    from llamita.train import choose_hardware, load_run

    model, tokenizer, config = load_run(checkpoint)
    model = choose_hardware(ExecutionConfig(device=device, precision="fp32")).apply(model)
    _check_prompt(prompt, prompt_ids(tokenizer, prompt), tokenizer, config.model.max_seq_len)
    print(prompt, end="", flush=True)
    for piece in stream(model, tokenizer, prompt, generation):
        print(piece, end="", flush=True)
    print()


def _check_prompt(prompt: str, ids: list[int], tokenizer: "Tokenizer", context: int) -> None:
    """Tell what cannot be taken as it is: characters that were never seen, and a prompt longer than the context."""
    from llamita.tokenizer import CharTokenizer

    if prompt.encode("utf-8", "replace").decode("utf-8") != prompt:
        raise UserError("the prompt is not UTF-8 text: write it anew, or set the terminal to UTF-8")
    if isinstance(tokenizer, CharTokenizer):
        unknown = sorted(set(prompt) - set(tokenizer.characters))
        if unknown:
            raise UserError(f"the prompt has characters that the model never saw: {' '.join(map(repr, unknown))}")
    if len(ids) > context:
        print(
            f"note: the prompt has {len(ids):,} tokens, the context {context:,}: only the last {context:,} are read",
            file=sys.stderr,
        )
