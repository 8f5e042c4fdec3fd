"""Tests compute as the command does, with kernels that are compiled once for all of them.

llamita is imported first, before torch reads how OpenMP's threads wait. A test with a cache of tokens of its own still
finds the kernels that another has compiled. Signals act as in a terminal, also where pytest was started with nohup or
in the background, which would have processes ignore SIGHUP or SIGINT.
"""

import os
import signal

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core: threads of several would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import llamita  # noqa: F401
from llamita.files import default_cache

os.environ.setdefault("LLAMITA_KERNEL_CACHE", str(default_cache() / "kernels"))

signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # not on Windows
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
