"""The command line of the benchmark scripts: flags with `_` or `-`, and a user's mistake as one line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn


class UsageError(Exception):
    """A user's mistake: one line that says what is wrong and what to do."""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that accepts `--end-to-end` for `--end_to_end`, and raises `UsageError` on errors."""

    def parse(self, words: Sequence[str] | None = None) -> argparse.Namespace:
        """The options in `words` (default: the command line). Raises `UsageError`."""
        return self.parse_args([underscored(word) for word in (sys.argv[1:] if words is None else words)])

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`."""
        raise UsageError(message)


def underscored(word: str) -> str:
    """`--no-compile` -> `--no_compile`; values are unchanged."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def is_mistake(error: BaseException) -> bool:
    """Whether `error` is a `UsageError`, or llamita's `UserError`, recognized by name without importing it."""
    return isinstance(error, UsageError) or type(error).__name__ == "UserError"


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Exit with the return value of `main`: 0 for None, 2 after a user's mistake, 130 after Ctrl-C."""
    name = Path(sys.argv[0]).name
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not is_mistake(error):
            raise
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
