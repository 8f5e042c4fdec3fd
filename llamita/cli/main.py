"""`llamita`: parse, call the library, print. A person's mistake is one line and exit code 2."""

import sys
from typing import Any

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from rich.console import Console

from llamita import __version__
from llamita.cli.flags import canonical_flags, fill_from_files, stray_word
from llamita.console import replace_unknown_characters
from llamita.errors import UserError

app = App(
    name="llamita",
    help="Train Llama-style language models from scratch: from raw text to a model that writes.",
    version=__version__,
    version_flags=["--version"],
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    config=fill_from_files,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # `main` says that it was one
)
# Named, not imported: a command's module is loaded when it is called, so that --help answers at once.
app.command("llamita.cli.prepare:prepare", help="Tokenize text into files that training maps into memory.")
app.command("llamita.cli.train:train", help="Train a model; without flags, on the built-in stories.")
app.command("llamita.cli.eval:evaluate", name="eval", help="Score a model on the validation set of its run.")
app.command("llamita.cli.generate:generate", help="Let a model write.")
app.command("llamita.cli.presets:presets", help="List the presets: their parameters, and the memory they take.")
app.command("llamita.cli.tokenizer:app", name="tokenizer", help="Train a tokenizer, and look at what it does.")


def main(arguments: list[str] | None = None) -> Any:
    """Run the command that `arguments` (default: the command line) name; exits with 2 after a person's mistake."""
    if arguments is None:
        replace_unknown_characters()
    words = canonical_flags(sys.argv[1:] if arguments is None else arguments)
    try:
        return app(words, exit_on_error=False, print_error=False)
    except UnusedCliTokensError as error:
        fail(stray_word((error.unused_tokens or [""])[0], words))
    except CycloptsError as error:
        fail(_one_line(error))
    except UserError as error:
        fail(str(error))
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt as interruption:
        if not interruption.args:  # else what was interrupted has said it
            print("llamita: interrupted", file=sys.stderr)
        sys.exit(130)


def fail(message: str) -> None:
    """Print one line to standard error and exit with 2."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"llamita: {message}", markup=False)
    sys.exit(2)


def _one_line(error: CycloptsError) -> str:
    return " ".join(str(error).split())
