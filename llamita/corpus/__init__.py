"""Where text comes from: local files, lists of documents, and the built-in stories."""

from llamita.corpus.documents import Corpus, DocumentList, first_documents, join_documents, split_documents
from llamita.corpus.files import short_name
from llamita.corpus.story_corpus import StoryCorpus
from llamita.corpus.text import TextFiles

__all__ = [
    "Corpus",
    "DocumentList",
    "StoryCorpus",
    "TextFiles",
    "first_documents",
    "join_documents",
    "short_name",
    "split_documents",
]
