"""Where text comes from: local files, lists of documents, the built-in stories; and what each source knows about it."""

from llamita.corpus.documents import (
    Corpus,
    DocumentList,
    first_documents,
    join_documents,
    separate_documents,
    split_documents,
)
from llamita.corpus.files import short_name
from llamita.corpus.opening import open_source
from llamita.corpus.source import Defaults, Judge, Source
from llamita.corpus.story_corpus import StoryCorpus
from llamita.corpus.text import TextFiles

__all__ = [
    "Corpus",
    "Defaults",
    "DocumentList",
    "Judge",
    "Source",
    "StoryCorpus",
    "TextFiles",
    "first_documents",
    "join_documents",
    "open_source",
    "separate_documents",
    "short_name",
    "split_documents",
]
