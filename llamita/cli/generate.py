"""`llamita generate`."""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from llamita.cli.flags import flat
from llamita.cli.loading import load_noting_code, run_and_prompt
from llamita.cli.messages import print_note
from llamita.config import GenerationConfig, ModelConfig
from llamita.errors import UserError

if TYPE_CHECKING:
    from llamita.tokenizer import Tokenizer

PATIENCE = 5.0  # seconds after which a user is told that a pipe is waited for
PIPE_BYTES = 1 << 16  # per read


@dataclass(frozen=True)
class ExpectedSizes:
    """Sizes of the model, for scripts that pass them: given, they are checked against the run."""

    vocab_size: int | None = None
    """Number of token ids."""
    hidden_size: int | None = None
    """Width of the residual stream."""
    intermediate_size: int | None = None
    """Width of the feed-forward layer."""
    num_layers: int | None = None
    """Number of blocks."""
    num_heads: int | None = None
    """Number of query heads."""
    num_kv_heads: int | None = None
    """Number of key and value heads."""
    max_seq_len: int | None = None
    """Context length, in tokens."""
    rope_theta: float | None = None
    """Base of the rotary wavelengths."""

    def require(self, model: ModelConfig) -> None:
        """Raise `UserError` if a size that was given is not the model's."""
        for name, size in asdict(self).items():
            if size and size != getattr(model, name):  # 0 asks for the default
                raise UserError(f"--{name} is {size}, but the run has {getattr(model, name)}: leave it out")


def generate(
    run: str | None = None,
    text: Annotated[str | None, Parameter(name="PROMPT")] = None,
    /,
    *,
    prompt: str | None = None,
    checkpoint: Path | None = None,
    device: str = "auto",
    generation: Annotated[GenerationConfig, flat("Sampling", 1)] = GenerationConfig(),  # noqa: B008  (frozen)
    sizes: Annotated[ExpectedSizes, flat("Sizes, as a check", 2)] = ExpectedSizes(),
) -> None:
    """Continue a prompt, token by token, up to the end of the document. An empty prompt begins a new document.

    Parameters
    ----------
    run: str
        A run (its best checkpoint), RUN/latest or RUN/step_00000500; default: the newest run in runs/.
    text: str
        The prompt. A single argument that is not a run is the prompt, too. Without one, a terminal is asked for it, and
        a pipe is read to its end.
    prompt: str
        The prompt, whatever it looks like.
    checkpoint: Path
        The run, as a flag.
    device: str
        auto, cpu, cuda or mps.
    """
    from llamita.config import ExecutionConfig
    from llamita.generate import stream
    from llamita.runtime import choose_hardware

    checkpoint, prompt = run_and_prompt(run, text, checkpoint, prompt)
    found, model, tokenizer, config = load_noting_code(checkpoint)
    if checkpoint is None:
        print_note(f"using the newest run, {found.path}")
    sizes.require(config.model)
    model = choose_hardware(ExecutionConfig(device=device, precision="fp32"), model=model.config).apply(model)
    prompt = _read_prompt() if prompt is None else prompt
    check_prompt(prompt, tokenizer, config.model.max_seq_len)
    _print_pieces(prompt, stream(model, tokenizer, prompt, generation))


def _print_pieces(prompt: str, pieces: Iterable[str]) -> None:
    """Print the text as it is generated. A terminal gets it without control characters, a file unchanged."""
    from llamita.generate import printable_pieces

    print(prompt, end="", flush=True)
    try:
        for piece in printable_pieces(pieces) if sys.stdout.isatty() else pieces:
            print(piece, end="", flush=True)
    finally:
        print()  # after Ctrl-C, too


def check_prompt(prompt: str, tokenizer: "Tokenizer", context: int) -> None:
    """Refuse characters that the tokenizer lacks, and note that only the end of a long prompt fits the context."""
    from llamita.generate import prompt_ids
    from llamita.tokenizer import CharTokenizer

    if prompt.encode("utf-8", "replace").decode("utf-8") != prompt:
        raise UserError("the prompt is not UTF-8 text: set the terminal to UTF-8, and write it again")
    if isinstance(tokenizer, CharTokenizer):
        unknown = sorted(set(prompt) - set(tokenizer.characters))
        if unknown:
            raise UserError(f"the prompt has characters that the model never saw: {' '.join(map(repr, unknown))}")
    if (length := len(prompt_ids(tokenizer, prompt))) > context:
        print_note(f"the prompt has {length:,} tokens, the context {context:,}: only the last {context:,} are used")


def _read_prompt() -> str:
    """What the user types at a terminal, or all that comes through a pipe; empty without standard input."""
    if sys.stdin is None:  # closed by the caller
        return ""
    return _ask() if sys.stdin.isatty() else _piped()


def _ask() -> str:
    """One line from the terminal. Ctrl-D leaves, as from a shell."""
    print("prompt (empty: a new document): ", end="", file=sys.stderr, flush=True)  # stdout may go to a file
    try:
        return input()
    except EOFError:
        print(file=sys.stderr)
        sys.exit(0)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)


def _piped() -> str:
    """All that comes up to the end of the pipe, however long that takes, without the newline that `echo` appends."""
    waiting = threading.Timer(PATIENCE, print_note, ["waiting for the prompt from standard input; Ctrl-C ends"])
    waiting.daemon = True
    waiting.start()
    try:
        content = b"".join(_chunks(sys.stdin.fileno()))
    finally:
        waiting.cancel()
    try:
        return content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text, at byte {error.start:,}: convert it") from None


def _chunks(descriptor: int) -> Iterator[bytes]:
    while chunk := os.read(descriptor, PIPE_BYTES):
        yield chunk
