"""Values that are derived from others unless somebody asks for them.

In a file, on the command line and in Python, 0 asks for such a value to be derived. What everyone reads is the resolved
value; which values were derived is remembered beside them, so that they are derived again when others are replaced.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Table = TypeVar("Table", bound="Derives")


class Derives:
    """A table with derived values. Their names in `derived` do not count when two tables are compared."""

    derived = frozenset[str]()
    """Names of the fields whose values nobody asked for."""


def set_derived(table: Derives, values: Mapping[str, Any]) -> None:
    """Set derived values while a frozen table is being constructed."""
    for name, value in values.items():
        object.__setattr__(table, name, value)
    object.__setattr__(table, "derived", frozenset(values))


def with_derived(table: Table, values: Mapping[str, Any]) -> Table:
    """A copy of `table` with these derived values, checked like values that were asked for."""
    copy = dataclasses.replace(table, **values)  # type: ignore[type-var]  (every table is a dataclass)
    object.__setattr__(copy, "derived", frozenset(values))
    return copy
