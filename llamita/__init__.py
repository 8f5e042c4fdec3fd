"""llamita, the little llama: trains Llama-style language models from scratch, from raw text to a model that writes."""

import os as _os
import sys as _sys


def end_at_interrupt() -> None:
    """Let Ctrl-C end this process immediately, by the default action of the operating system.

    Python's own handler waits for the interpreter, which an import or a call into compiled code blocks for seconds, and
    its KeyboardInterrupt can be swallowed anywhere, or end in a traceback. Files are written so that a kill does no
    harm, and training installs a handler that saves first. A SIGINT that is ignored (nohup) stays ignored.
    """
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _is_the_command(script: str, words: list[str]) -> bool:
    """Whether this process is `llamita …` or `python -m llamita…`, not a program that imports the package."""
    if script == "-m":  # as long as Python looks for the module
        return any(word.removeprefix("-m").partition(".")[0] == "llamita" for word in words)
    name = _os.path.basename(script).lower()
    return name.removesuffix(".exe").removesuffix("-script.py") == "llamita"


if _is_the_command((getattr(_sys, "argv", None) or [""])[0], getattr(_sys, "orig_argv", [])):
    try:  # first of all: other imports take a second
        end_at_interrupt()
    except KeyboardInterrupt:
        _sys.exit(130)

from collections.abc import MutableMapping as _MutableMapping  # noqa: E402

__version__ = "0.1.0"

_SPIN_COUNT = "2000"  # iterations: some tens of microseconds, as long as the gaps between the operations of a step
_SPIN_SETTINGS = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"


def _bound_spinning(environment: _MutableMapping[str, str]) -> None:
    """Let waiting GNU OpenMP threads spin only briefly, unless the user configured how they wait.

    By default they spin for milliseconds. Next to any other busy process they then compete for the cores, and a step
    takes several times as long. Threads that sleep immediately (OMP_WAIT_POLICY=PASSIVE) cost a small model a third of
    its speed. A short spin has neither cost (docs/benchmarks.md, "Beside a busy process").
    """
    if not any(name in environment for name in _SPIN_SETTINGS):
        environment["GOMP_SPINCOUNT"] = _SPIN_COUNT


_bound_spinning(_os.environ)  # here, since OpenMP reads it once, when torch is imported
