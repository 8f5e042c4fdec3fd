"""Tests compute as the command does, with kernels that are compiled once for all of them.

llamita is imported first, before torch reads how OpenMP's threads wait. A test with a cache of tokens of its own still
finds the kernels that another has compiled.
"""

import os

import llamita  # noqa: F401
from llamita.files import default_cache

os.environ.setdefault("LLAMITA_KERNEL_CACHE", str(default_cache() / "kernels"))
