"""From the setting `data` to a source: a corpus by its name, a dataset of the hub, or local files.

A corpus that is generated is one file with a function (settings, seed) -> `Source`, and its line in `BY_NAME`; one that
is fetched is an entry in `catalog.py`.
"""

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from glob import has_magic
from pathlib import Path

from llamita.config import DataConfig
from llamita.corpus.catalog import CATALOG
from llamita.corpus.fetched import HUB_PREFIX, open_fetched
from llamita.corpus.files import SourceFile
from llamita.corpus.source import Progress, Source
from llamita.corpus.story_corpus import open_stories
from llamita.corpus.text import TextFiles
from llamita.errors import UserError

BY_NAME: dict[str, Callable[[DataConfig, int], Source]] = {"stories": open_stories}
"""Name, given alone as `data` -> the function that opens that generated corpus for (settings, seed)."""


def is_built_in(names: Sequence[str]) -> bool:
    """Whether `data` names a corpus of `BY_NAME`, and not files."""
    return len(names) == 1 and names[0] in BY_NAME


def is_fetched(names: Sequence[str], folder: str | os.PathLike[str] = "") -> bool:
    """Whether `data` names a corpus that is fetched. A file or folder of that name in `folder` is meant instead."""
    if len(names) != 1 or names[0].startswith(HUB_PREFIX):
        return len(names) == 1
    return names[0] in CATALOG and not os.path.exists(os.path.join(folder, names[0]))


def open_source(options: DataConfig, seed: int, progress: Progress | None = None) -> Source:
    """The source that `options.data` names; `seed` is for text that is generated. Nothing is fetched before it is read.

    `progress` is called with (what is being fetched, bytes that have arrived, bytes in all).

    Raises `UserError` for files that do not exist or cannot be read, and for settings that the source does not take.
    A folder of prepared tokens is no source of text, and refused.
    """
    names = options.data
    if is_fetched(names):
        source = open_fetched(names[0], options, progress)
        return _with_validation(source, options) if options.val_data else source
    if options.data_revision:
        raise UserError("--data_revision is for corpora that are fetched by name; leave it out")
    if is_built_in(names):
        return BY_NAME[names[0]](options, seed)
    return _open_files(options)


def _open_files(options: DataConfig) -> Source:
    _require_known(options.data)
    validation = _text(options, options.val_data) if options.val_data else None
    held_out = validation.files if validation else []
    training = _text(options, options.data, options.max_documents, held_out)
    same_name = [
        f"note: {name} is the local file or folder of that name, not the corpus; write ./{name} to say so"
        for name in options.data
        if name in CATALOG
    ]
    return Source(
        training,
        validation,
        notes=lambda: [*same_name, *training.notes(), *(validation.notes() if validation else ())],
    )


def _with_validation(source: Source, options: DataConfig) -> Source:
    validation = _text(options, options.val_data)
    notes = source.notes
    return replace(source, validation=validation, holdout_every=None, notes=lambda: [*notes(), *validation.notes()])


def _require_known(names: Sequence[str]) -> None:
    """Raise `UserError` where a corpus is named among files, or where what is named may be a corpus, misspelled."""
    known = [*BY_NAME, *CATALOG]
    for name in names:
        if len(names) > 1 and (name.startswith(HUB_PREFIX) or (name in known and not os.path.exists(name))):
            raise UserError(f"--data {name}: a corpus must be named alone, without other corpora or files")
        if os.path.exists(name) or has_magic(name) or Path(name).suffix or os.path.basename(name) != name or not name:
            continue
        near = difflib.get_close_matches(name.lower().replace("_", ""), known, n=1)
        meant = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"{name}: no such file, and no corpus of that name; {meant}Corpora: {', '.join(known)}")


def _text(
    options: DataConfig, names: tuple[str, ...], max_documents: int = 0, held_out: Sequence[SourceFile] = ()
) -> TextFiles:
    return TextFiles(
        names,
        documents=options.documents,
        text_field=options.text_field,
        max_documents=max_documents,
        encoding=options.encoding,
        errors=options.errors,
        held_out=held_out,
    )
