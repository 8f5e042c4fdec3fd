"""Values that are derived from others unless the user sets them.

In a file, on the command line and in Python, 0 means that a value is derived. Readers get the resolved value; the names
of derived values are stored beside them, so that they are derived again when others are replaced.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Table = TypeVar("Table", bound="Derives")


class Derives:
    """A table with derived values. Which ones are derived does not matter when two tables are compared.

    They are stored in a slot, so that `vars` of a table has its settings only.
    """

    __slots__ = ("_derived",)

    @property
    def derived(self) -> frozenset[str]:
        """Names of the fields whose values the user did not set."""
        return getattr(self, "_derived", frozenset())

    def __getstate__(self) -> tuple[dict[str, Any], frozenset[str]]:
        return vars(self), self.derived

    def __setstate__(self, state: tuple[dict[str, Any], frozenset[str]]) -> None:
        values, derived = state
        vars(self).update(values)
        object.__setattr__(self, "_derived", derived)


def set_derived(table: Derives, values: Mapping[str, Any]) -> None:
    """Set derived values while a frozen table is being constructed."""
    for name, value in values.items():
        object.__setattr__(table, name, value)
    object.__setattr__(table, "_derived", frozenset(values))


def with_derived(table: Table, values: Mapping[str, Any]) -> Table:
    """A copy of `table` with these derived values, checked like values that the user set."""
    copy = dataclasses.replace(table, **values)  # type: ignore[type-var]  (every table is a dataclass)
    object.__setattr__(copy, "_derived", frozenset(values))
    return copy
