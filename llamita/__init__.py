"""llamita, the little llama: trains Llama-style language models from scratch, from raw text to a model that writes."""

import os as _os
from collections.abc import MutableMapping as _MutableMapping

__version__ = "0.1.0"

_SPIN_COUNT = "1000"  # iterations: some microseconds, as long as the gaps between the operations of a step
_SPIN_SETTINGS = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"


def _bound_spinning(environment: _MutableMapping[str, str]) -> None:
    """Let the waiting threads of GNU's OpenMP spin only briefly, unless the user says how they wait.

    By default they spin for milliseconds, so that beside any other busy process they spin against one another, and a
    step takes several times as long. Threads that sleep at once (OMP_WAIT_POLICY=PASSIVE) cost a small model a third of
    its speed. A short spin has neither cost (docs/benchmarks.md, "Beside a busy process").
    """
    if not any(name in environment for name in _SPIN_SETTINGS):
        environment["GOMP_SPINCOUNT"] = _SPIN_COUNT


_bound_spinning(_os.environ)  # here, since OpenMP reads it once, when torch is imported
