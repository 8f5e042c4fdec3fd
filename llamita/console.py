"""Output that no console refuses."""

import io
import sys


def replace_unknown_characters() -> None:
    """From now on, standard output gets a `?` for a character that its encoding does not have, and raises nothing.

    A pipe on Windows knows some 250 characters, a model writes any.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
