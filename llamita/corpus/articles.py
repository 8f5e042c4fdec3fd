"""WikiText: rows that are lines of Wikipedia articles, put together to articles."""

import re
from collections.abc import Iterable, Iterator

from llamita.corpus.documents import Pieces, whole_documents

TITLE = re.compile(r" = (?!=).*[^=\s] = \n?")
"""` = Title = `; sections have more signs of equality: ` = = Section = = `."""


def articles(lines: Iterable[str]) -> Pieces:
    """Lines -> documents as `Corpus.pieces` describes them, each of which begins with a title after a blank line."""
    return whole_documents(map("".join, _lines_of_articles(lines)))


def _lines_of_articles(lines: Iterable[str]) -> Iterator[list[str]]:
    article: list[str] = []
    after_blank = True
    for line in lines:
        if after_blank and TITLE.fullmatch(line):
            yield article
            article = []
        article.append(line)
        after_blank = not line.strip()
    yield article
