"""Where text comes from: local files, lists of documents, and the built-in stories."""

from llamita.corpus.documents import Corpus, DocumentList, join_documents, split_documents
from llamita.corpus.story_corpus import StoryCorpus
from llamita.corpus.text import TextFiles

__all__ = ["Corpus", "DocumentList", "StoryCorpus", "TextFiles", "join_documents", "split_documents"]
