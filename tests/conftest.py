"""Tests compute as the command does: llamita is imported first, before torch reads how OpenMP's threads wait."""

import llamita  # noqa: F401
