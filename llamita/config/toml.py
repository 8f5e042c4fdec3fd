"""Settings in TOML files: tables of keys, which are read, checked name by name, and written.

`run.py` defines the tables, as a `Schema`; this module turns a file into settings, and a mistake in one into a message.
Nothing here needs torch.
"""

import difflib
import os
import tomllib
import types
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tomli_w

from llamita.config.aliases import RETIRED, note_on_retired, own_names
from llamita.config.numbers import is_whole
from llamita.errors import UserError
from llamita.files import write_atomically

Tables = dict[str, dict[str, Any]]
"""Table name -> key -> value."""

Note = Callable[[str], object]
"""Takes a line that the user should read."""

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file, unchecked. Raises `UserError` if it cannot be read."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: not a readable TOML file ({getattr(error, 'strerror', None) or error})") from None


def write_toml(path: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Write tables atomically. A value of None, which TOML lacks, is left out."""
    given = {table: {key: value for key, value in rows.items() if value is not None} for table, rows in tables.items()}
    write_atomically(path, tomli_w.dumps(given).encode())


@dataclass(frozen=True)
class Schema:
    """The settings that a file may contain: a dataclass per table; field names are unique over all tables."""

    classes: Mapping[str, Any]

    def field_tables(self) -> dict[str, str]:
        """Flat field name -> the name of its table."""
        return {f.name: table for table, cls in self.classes.items() for f in fields(cls)}

    def checked(self, tables: Mapping[str, Any], source: str, note: Note = warnings.warn) -> Tables:
        """`tables` in llamita's names, each value of its field's type. Retired settings are left out, with a `note`.

        Raises `UserError` for names and types that do not exist, naming `source`.
        """
        renamed = {table: self._renamed(rows, source, note) for table, rows in tables.items()}
        return {table: self._checked_table(table, rows, source) for table, rows in renamed.items()}

    def construct(self, tables: Mapping[str, Mapping[str, Any]], source: str) -> dict[str, Any]:
        """Table name -> its dataclass, made of `tables` and of defaults. Raises `UserError`."""
        rows = self.checked(tables, source)
        return {table: _construct(cls, rows.get(table, {}), source) for table, cls in self.classes.items()}

    def tables_of(self, values: Mapping[str, Any], source: str) -> Tables:
        """Tables of flat `values`, aliases replaced. Raises `UserError` for names that are unknown or given twice."""
        places, tables = self.field_tables(), {table: dict[str, Any]() for table in self.classes}
        for name, value in self._renamed(values, source, warnings.warn).items():
            if name not in places:
                raise UserError(unknown_name("setting", name, places, source))
            tables[places[name]][name] = value
        return tables

    def _renamed(self, rows: Any, source: str, note: Note) -> Any:
        """`rows` of one table in llamita's names, without retired ones; anything but a table stays as it is."""
        if not isinstance(rows, Mapping):
            return rows
        keys, renamed = dict[str, str](), dict[str, Any]()
        for key, value in dict[str, Any](rows).items():
            for name, own in self._own_names(key, value, source).items():
                if name in RETIRED:
                    note(note_on_retired(name, source))
                elif name in keys:
                    raise UserError(f"{source}: '{name}' is set twice, as '{keys[name]}' and '{key}': keep one")
                else:
                    keys[name], renamed[name] = key, own
        return renamed

    def _own_names(self, key: str, value: Any, source: str) -> Mapping[str, Any]:
        """As on the command line: `n-layers` and `n_layers` are `num_layers`. Unknown keys stay as they are."""
        try:
            names = own_names(key.replace("-", "_"), value)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        known = RETIRED.keys() | self.field_tables().keys()
        return names if names.keys() <= known else {key: value}

    def _checked_table(self, table: str, rows: Any, source: str) -> dict[str, Any]:
        known = self.field_tables()
        if not isinstance(rows, Mapping):
            name = next(iter(self._own_names(table, rows, source)), "") if table not in self.classes else ""
            hint = f"it belongs under [{known[name]}]" if name in known else "put it under a table such as [model]"
            raise UserError(f"{source}: key '{table}' is outside any table: {hint}")
        if table not in self.classes:
            raise UserError(unknown_name("table", table, self.classes, source))
        hints = get_type_hints(self.classes[table])
        for key in dict[str, Any](rows):
            if known.get(key) != table:
                raise UserError(_misplaced(key, table, known, source))
        return {key: _typed(value, hints[key], f"{source}: {key}") for key, value in dict[str, Any](rows).items()}


def unknown_name(what: str, name: str, known: Iterable[str], source: str) -> str:
    """The message for a name that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"{source}: unknown {what} {name!r}" + (f"; did you mean '{near[0]}'?" if near else "")


def _misplaced(key: str, table: str, known: Mapping[str, str], source: str) -> str:
    if key in known:
        return f"{source}: key {key!r} is under [{table}], but belongs under [{known[key]}]"
    return unknown_name("key", key, known, source)


def _construct(cls: Any, rows: Mapping[str, Any], source: str) -> Any:
    try:
        return cls(**rows)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as `hint`, for the few types that configuration uses; raises `UserError`. A path becomes its name."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise UserError(f"{where} is {value!r}, but must be one of {', '.join(map(repr, get_args(hint)))}")
        return value
    if get_origin(hint) in (Union, types.UnionType):
        return _one_of(value, get_args(hint), where)
    if get_origin(hint) is tuple:
        return _names(value, where)
    if hint is float and type(value) is int:
        return float(value)
    if hint is int and type(value) is float and is_whole(value):  # 1e4
        return int(value)
    if type(value) is not hint:
        raise UserError(f"{where} is {value!r}, but must be {KINDS[hint]}")
    return value


def _names(value: Any, where: str) -> tuple[str, ...]:
    """A name, or a list of names."""
    names = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(name, str | os.PathLike) for name in names):
        raise UserError(f"{where} is {value!r}, but must be a name, or a list of names")
    return tuple(os.fspath(name) for name in names)


def _one_of(value: Any, hints: tuple[Any, ...], where: str) -> Any:
    """`value` as the first of `hints` that it fits."""
    reasons = []
    for hint in hints:
        try:
            return _typed(value, hint, where)
        except UserError as error:
            reasons.append(str(error).removeprefix(f"{where} is {value!r}, but "))
    raise UserError(f"{where} is {value!r}, but {', or '.join(reasons)}")
