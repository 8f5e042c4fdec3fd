"""Standard streams that do not break the command, and command lines to print."""

import errno
import io
import os
import shlex
import subprocess
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

READER_GONE = errno.EPIPE, errno.EINVAL
"""Errors of a pipe without a reader; the second one on Windows."""
SPECIAL_IN_CMD = frozenset("&|<>^()%!;,='`@$")

command_line: ContextVar[str] = ContextVar("command_line", default="")
"""The command that runs, as a line that a shell takes; empty in a library."""


class OutputError(Exception):
    """Standard output can no longer be written. `__cause__` is the error of the operating system."""


def prepare_streams(*, stop: bool) -> None:
    """Make standard output and standard error of this process safe to write to. Call it before files are opened.

    A closed stream becomes the null device. Standard output gets `?` for characters that its encoding lacks. After an
    error, such as a full disk or a reader that has gone, a stream continues on the null device: standard error
    silently, standard output with `OutputError` if `stop`, else with a warning, so that training continues.
    """
    _open_closed_descriptors()
    output, errors = _plain(sys.stdout), _plain(sys.stderr)
    if isinstance(output, io.TextIOWrapper):
        output.reconfigure(errors="replace")  # a Windows pipe has some 250 characters, and a model generates any
    sys.stdout = SafeOutput(output, stop=stop)  # type: ignore[assignment]
    sys.stderr = SafeOutput(errors, stop=False, quiet=True)  # type: ignore[assignment]


class SafeOutput:
    """A text stream that continues on the null device after its first error; see `prepare_streams`."""

    def __init__(self, stream: TextIO, *, stop: bool, quiet: bool = False):
        self.plain, self._stop, self._quiet = stream, stop, quiet

    def write(self, text: str) -> int:
        """Write `text`, or lose it -> its length."""
        try:
            return self.plain.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Pass on what is buffered, or lose it."""
        try:
            self.plain.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def _lose(self, error: OSError) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.plain.fileno())  # what is still buffered ends up there, too
        os.close(null)
        if self._stop:
            raise OutputError(error.strerror) from error
        if not self._quiet and error.errno not in READER_GONE:
            print(f"llamita: standard output cannot be written ({error.strerror}); continuing", file=sys.stderr)


def _open_closed_descriptors() -> None:
    """Put the null device in place of closed standard streams: the next file that is opened would take their number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number, which is this


def _plain(stream: TextIO | None) -> TextIO:
    """The stream without a `SafeOutput` around it; the null device for one that is closed."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", newline="")
    return stream.plain if isinstance(stream, SafeOutput) else stream


def shell_line(*words: str | Path) -> str:
    """A command line that the system's shell splits into these words."""
    quote = _quoted_for_cmd if os.name == "nt" else shlex.quote
    return " ".join(quote(_no_flag(word)) for word in words)


def _no_flag(word: str | Path) -> str:
    """The word; a path that begins with a dash is written so that no command takes it for a flag."""
    return os.path.join(".", word) if isinstance(word, Path) and str(word).startswith("-") else str(word)


def _quoted_for_cmd(word: str) -> str:
    """The word in double quotes where the rules of Windows or characters special to cmd.exe need them."""
    quoted = subprocess.list2cmdline([word])
    if quoted.startswith('"') or not SPECIAL_IN_CMD & set(word):
        return quoted
    backslashes = len(quoted) - len(quoted.rstrip("\\"))  # before the closing quote, each counts double
    return f'"{quoted}' + "\\" * backslashes + '"'
