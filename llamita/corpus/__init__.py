"""Where text comes from: local files and lists of documents."""

from llamita.corpus.documents import Corpus, DocumentList, join_documents, split_documents
from llamita.corpus.text import TextFiles

__all__ = ["Corpus", "DocumentList", "TextFiles", "join_documents", "split_documents"]
