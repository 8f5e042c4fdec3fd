"""`llamita generate`."""

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from llamita.cli.flags import flat
from llamita.cli.loading import load_noting_code, run_and_prompt
from llamita.cli.messages import print_note
from llamita.cli.prompts import read_prompts
from llamita.config import GenerationConfig, ModelConfig
from llamita.errors import UserError

if TYPE_CHECKING:
    from llamita.cli.completions import Completions

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
    prompts_file: Path | None = None,
    num_samples: int = 1,
    json: Annotated[bool, Parameter(negative=())] = False,
    device: str = "auto",
    generation: Annotated[GenerationConfig, flat("Sampling", 1, consume_multiple=False)] = GenerationConfig(),  # noqa: B008  (frozen)
    sizes: Annotated[ExpectedSizes, flat("Sizes, as a check", 2)] = ExpectedSizes(),
) -> None:
    """Continue a prompt, token by token, up to the end of the document. An empty prompt begins a new document.

    When the context is full, its first half is dropped, with a note.

    Parameters
    ----------
    run: str
        A run (its best checkpoint), RUN/latest or RUN/step_00000500; default: the newest run in runs/.
    text: str
        The prompt. A single argument that is not a run is the prompt, too. Without one, a terminal is asked for
        prompts, one after another, and a pipe is read to its end.
    prompt: str
        The prompt, whatever it looks like.
    checkpoint: Path
        The run, as a flag.
    prompts_file: Path
        A file with a prompt on each line.
    num_samples: int
        Continuations of each prompt.
    json: bool
        Print a JSON object per continuation, each on a line: prompt, text, ids, finish_reason and, if requested,
        logprobs.
    device: str
        auto, cpu, cuda or mps.
    """
    from llamita.cli.completions import Completions
    from llamita.config import ExecutionConfig
    from llamita.runtime import choose_hardware

    _check_flags(num_samples, json, generation)
    checkpoint, prompt = run_and_prompt(run, text, checkpoint, prompt)
    prompts = read_prompts(prompts_file, prompt)
    found, model, tokenizer, config = load_noting_code(checkpoint)
    if checkpoint is None:
        print_note(f"using the newest run, {found.path}")
    sizes.require(config.model)
    model = choose_hardware(ExecutionConfig(device=device, precision="fp32"), model=model.config).apply(model)
    completions = Completions(model, tokenizer, generation, num_samples, json)
    if prompts is None and sys.stdin is not None and sys.stdin.isatty():
        _ask_and_write(completions)
    else:
        completions.write([_read_pipe()] if prompts is None else prompts)


def _check_flags(num_samples: int, json: bool, generation: GenerationConfig) -> None:
    if num_samples < 1:
        raise UserError(f"--num_samples is {num_samples}, but must be above 0")
    if (generation.logprobs is not None or generation.prompt_logprobs) and not json:
        raise UserError("--logprobs and --prompt_logprobs need --json: add it")


def _ask_and_write(completions: "Completions") -> None:
    """Ask for prompts until Ctrl-D. Ctrl-C ends a continuation, or, where a prompt is asked for, the command."""
    while (prompt := _ask()) is not None:
        try:
            completions.write([prompt])
        except KeyboardInterrupt:
            print_note("interrupted; Ctrl-D leaves")
        except UserError as error:
            print(f"llamita: {error}", file=sys.stderr)


def _ask() -> str | None:
    """One line from the terminal; None at Ctrl-D, which leaves, as from a shell."""
    print("prompt (empty: a new document): ", end="", file=sys.stderr, flush=True)  # stdout may go to a file
    try:
        return input()
    except EOFError:
        print(file=sys.stderr)
        return None
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)


def _read_pipe() -> str:
    """All that comes up to the end of the pipe, however long that takes, without the newline that `echo` appends.

    Empty without standard input.
    """
    if sys.stdin is None:  # closed by the caller
        return ""
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
