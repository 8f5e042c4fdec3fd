"""From the setting `data` to a source: a corpus by its name, or local files.

A new corpus is one file with a function (settings, seed) -> `Source`, and its line in `BY_NAME`.
"""

from collections.abc import Callable, Sequence

from llamita.config import DataConfig
from llamita.corpus.source import Source
from llamita.corpus.story_corpus import open_stories
from llamita.corpus.text import TextFiles

BY_NAME: dict[str, Callable[[DataConfig, int], Source]] = {"stories": open_stories}
"""Name, given alone as `data` -> the function that opens that corpus for (settings, seed)."""


def is_built_in(names: Sequence[str]) -> bool:
    """Whether `data` names a corpus of `BY_NAME`, and not files."""
    return len(names) == 1 and names[0] in BY_NAME


def open_source(options: DataConfig, seed: int) -> Source:
    """The source that `options.data` names; `seed` is for text that is generated.

    Raises `UserError` for files that do not exist or cannot be read, and for settings that the source does not take.
    A folder of prepared tokens is no source of text, and refused.
    """
    if is_built_in(options.data):
        return BY_NAME[options.data[0]](options, seed)
    return _open_files(options)


def _open_files(options: DataConfig) -> Source:
    training = _text(options, options.data, options.max_documents)
    validation = _text(options, options.val_data) if options.val_data else None
    return Source(training, validation, notes=lambda: [*training.notes(), *(validation.notes() if validation else ())])


def _text(options: DataConfig, names: tuple[str, ...], max_documents: int = 0) -> TextFiles:
    return TextFiles(
        names,
        documents=options.documents,
        text_field=options.text_field,
        max_documents=max_documents,
        encoding=options.encoding,
        errors=options.errors,
    )
