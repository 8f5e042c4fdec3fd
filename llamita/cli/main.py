"""`llamita`: parse, call the library, print. A user's mistake is one line and exit code 2."""

import sys
from typing import Any

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError, UnknownOptionError, UnusedCliTokensError
from rich.console import Console

from llamita import __version__, end_at_interrupt
from llamita.cli import examples
from llamita.cli.flags import canonical_flags, fill_from_files
from llamita.cli.help import OneParagraphEach
from llamita.cli.messages import as_typed, stray_word, typed_flags, unknown_command, unknown_flag
from llamita.console import READER_GONE, OutputError, command_line, prepare_streams, shell_line
from llamita.errors import UserError

app = App(
    name="llamita",
    help="Train Llama-style language models from scratch: from raw text to a model that writes.",
    version=__version__,
    version_flags=["--version"],
    default_parameter=Parameter(consume_multiple=True, negative_iterable=(), name_transform=str),
    config=fill_from_files,
    help_format="plaintext",
    help_formatter=OneParagraphEach(),
    help_epilogue=examples.LLAMITA,
    suppress_keyboard_interrupt=False,  # `main` reports it
)
# Named, not imported: a command's module is loaded when it is called, so that --help answers quickly.
app.command(
    "llamita.cli.prepare:prepare",
    help="Tokenize text into files that training memory-maps. `train` does this by itself on first use.",
    help_epilogue=examples.PREPARE,
)
app.command(
    "llamita.cli.train:train",
    help="Train a model; without flags, a small Llama on the built-in stories. The same command resumes the run.",
    help_epilogue=examples.TRAIN,
)
app.command(
    "llamita.cli.eval:evaluate",
    name="eval",
    help="Evaluate a model on the whole validation set of its run: loss, perplexity, bits per byte.",
    usage="Usage: llamita eval [RUN] [OPTIONS]\n",
    help_epilogue=examples.EVAL,
)
app.command(
    "llamita.cli.generate:generate",
    help="Continue a prompt, token by token, up to the end of the document.",
    usage="Usage: llamita generate [RUN] [PROMPT] [OPTIONS]\n",
    help_epilogue=examples.GENERATE,
)
app.command(
    "llamita.cli.report:report",
    help="Write a report of runs and sweeps: one HTML file with curves, settings that differ, samples and commands.",
    usage="Usage: llamita report [RUN|SWEEP...] [OPTIONS]\n",
    help_epilogue=examples.REPORT,
)
app.command(
    "llamita.cli.presets:presets",
    help="List the presets: their parameters, and the memory that training takes.",
    help_epilogue=examples.PRESETS,
)
app.command(
    "llamita.cli.ablate:ablate",
    help="Compare variants of a model over several seeds, in pairs. The same command resumes.",
    help_epilogue=examples.ABLATE,
)
app.command(
    "llamita.cli.scaling:scaling",
    help="Fit a scaling law to a ladder of runs, predict a larger one, train that one, compare.",
    help_epilogue=examples.SCALING,
)
app.command("llamita.cli.tokenizer:app", name="tokenizer", help="Train a tokenizer; encode and decode with it.")


def main(arguments: list[str] | None = None) -> Any:
    """Run the command that `arguments` (default: the command line) name; exits with 2 after a user's mistake."""
    typed = sys.argv[1:] if arguments is None else arguments
    command_line.set(shell_line("llamita", *typed))
    if arguments is None:
        end_at_interrupt()
        is_training = typed[:1] in (["train"], ["ablate"], ["scaling"]) and not {"--help", "-h"} & {*typed}
        prepare_streams(stop=not is_training)  # training continues without its output
    try:
        return _call(typed)
    except UserError as error:
        fail(as_typed(str(error), typed_flags(typed)))
    except OutputError as error:
        _leave_without_output(error)
    except KeyboardInterrupt as interruption:
        if not interruption.args:  # else it has been reported where it happened
            print("llamita: interrupted", file=sys.stderr)
        sys.exit(130)


def _call(typed: list[str]) -> Any:
    """Call the command. Raises `UserError` for all that is wrong with the command line."""
    words = canonical_flags(typed)
    try:
        result = app(words, exit_on_error=False, print_error=False)
    except SystemExit:
        sys.stdout.flush()  # here, where an error is still reported
        raise
    except UnusedCliTokensError as error:
        arguments = (error.app or app).assemble_argument_collection()
        raise UserError(stray_word((error.unused_tokens or [""])[0], words, arguments)) from None
    except UnknownOptionError as error:
        flag = error.token.keyword or error.token.value
        name = typed_flags(typed).get(flag.removeprefix("--").removeprefix("no-"), flag)
        raise UserError(unknown_flag(name, words[0], error.argument_collection)) from None
    except UnknownCommandError as error:
        raise UserError(unknown_command(_one_line(error), words)) from None
    except CycloptsError as error:
        raise UserError(_one_line(error)) from None
    sys.stdout.flush()
    return result


def fail(message: str) -> None:
    """Print one line to standard error and exit with 2."""
    Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(f"llamita: {message}", markup=False)
    sys.exit(2)


def _leave_without_output(error: OutputError) -> None:
    """A reader that has seen enough, such as `head`, is no failure; a full disk is."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in READER_GONE:
        sys.exit(0)
    print(f"llamita: standard output cannot be written ({error})", file=sys.stderr)
    sys.exit(1)


def _one_line(error: CycloptsError) -> str:
    return " ".join(str(error).split())
