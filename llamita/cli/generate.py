"""`llamita generate`."""

import os
import queue
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from llamita.cli.flags import FLAT
from llamita.cli.loading import load_noting_code
from llamita.config import GenerationConfig
from llamita.errors import UserError

if TYPE_CHECKING:
    from llamita.tokenizer import Tokenizer

PATIENCE = 5.0  # seconds for a pipe's first byte: one that nobody writes to and nobody closes must not hang forever
PIPE_BYTES = 1 << 16  # read at once


def generate(
    prompt: str | None = None,
    *,
    checkpoint: Path | None = None,
    generation: Annotated[GenerationConfig, FLAT] = GenerationConfig(),  # noqa: B008  (frozen)
    device: str = "auto",
) -> None:
    """Continue a prompt, token by token, up to the end of the document. An empty prompt begins a new document.

    Parameters
    ----------
    prompt: str
        The beginning of the text; where none is given, a terminal is asked for it, and a pipe is read.
    checkpoint: Path
        A run (its best checkpoint), RUN/latest or RUN/step_00000500; default: the newest run in runs/.
    device: str
        auto, cpu, cuda or mps.
    """
    from llamita.config import ExecutionConfig
    from llamita.generate import printable, stream
    from llamita.runtime import choose_hardware

    _, model, tokenizer, config = load_noting_code(checkpoint)
    model = choose_hardware(ExecutionConfig(device=device, precision="fp32"), model=model.config).apply(model)
    prompt = _read_prompt() if prompt is None else prompt
    check_prompt(prompt, tokenizer, config.model.max_seq_len)
    shown = printable if sys.stdout.isatty() else str  # a file gets what was written, whatever it is
    print(prompt, end="", flush=True)
    try:
        for piece in stream(model, tokenizer, prompt, generation):
            print(shown(piece), end="", flush=True)
    finally:
        print()  # after Ctrl-C, too


def check_prompt(prompt: str, tokenizer: "Tokenizer", context: int) -> None:
    """Tell what cannot be taken as it is: characters that were never seen, and a prompt longer than the context."""
    from llamita.generate import prompt_ids
    from llamita.tokenizer import CharTokenizer

    if prompt.encode("utf-8", "replace").decode("utf-8") != prompt:
        raise UserError("the prompt is not UTF-8 text: write it anew, or set the terminal to UTF-8")
    if isinstance(tokenizer, CharTokenizer):
        unknown = sorted(set(prompt) - set(tokenizer.characters))
        if unknown:
            raise UserError(f"the prompt has characters that the model never saw: {' '.join(map(repr, unknown))}")
    if (length := len(prompt_ids(tokenizer, prompt))) > context:
        print(
            f"note: the prompt has {length:,} tokens, the context {context:,}: only the last {context:,} are read",
            file=sys.stderr,
        )


def _read_prompt() -> str:
    """What a person types at a terminal, or what comes through a pipe; empty where nothing comes."""
    if sys.stdin is None:  # closed by whoever called
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
    """All that comes, without the newline that `echo` ends it with."""
    content = _first_bytes(sys.stdin.fileno(), PATIENCE)
    if content is None:
        print("note: nothing came through the pipe: beginning a new document", file=sys.stderr)
        return ""
    while content and (more := os.read(sys.stdin.fileno(), PIPE_BYTES)):
        content += more
    try:
        return content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UserError(f"what came through the pipe is not UTF-8 text, at byte {error.start:,}: convert it") from None


def _first_bytes(descriptor: int, patience: float) -> bytes | None:
    """What comes first, empty where the pipe is closed; None where nothing comes within `patience` seconds.

    A thread waits for it, since Windows has no `select` for pipes.
    """
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # `os.read`: a thread that waits within `sys.stdin` would hold its lock, and Python could not exit.
    threading.Thread(target=lambda: received.put(os.read(descriptor, PIPE_BYTES)), daemon=True).start()
    try:
        return received.get(timeout=patience)
    except queue.Empty:
        return None
