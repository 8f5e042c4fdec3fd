"""Special tokens: markers such as `<|endoftext|>` that are one id, and never cut or merged as text."""

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile

from llamita.errors import UserError


class SpecialTokens:
    """Finds special tokens in text: the leftmost first, and of those that start at the same place the longest."""

    def __init__(self, tokens: Iterable[str] = ()):
        longest_first = sorted(set(tokens), key=len, reverse=True)
        for token in longest_first:
            _check(token)
        # The engine tries alternatives in order, so the longest comes first. (?!) matches nowhere.
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._beginnings = {token[:length] for token in longest_first for length in range(1, len(token))}
        self._any = bool(longest_first)
        self._common = _common_beginning(longest_first)
        self._longest_beginning = max(map(len, longest_first), default=1) - 1

    def find(self, text: str, start: int = 0) -> re.Match[str] | None:
        """The first special token from `start` on. What all tokens begin with is looked for first: that is fast."""
        if not self._common:
            return self._pattern.search(text, start) if self._any else None  # (?!) would be tried at every place
        while (start := text.find(self._common, start)) >= 0:
            if match := self._pattern.match(text, start):
                return match
            start += 1
        return None

    def split(self, text: str) -> Iterator[tuple[str, str | None]]:
        """`text` as (ordinary text, the special token that ends it), the last one with None."""
        start = 0
        while match := self.find(text, start):
            yield text[start : match.start()], match.group()
            start = match.end()
        yield text[start:], None

    def settle(self, text: str) -> tuple[list[tuple[str, str]], str, str]:
        """For the beginning of a text: (ordinary text, special token) pairs; ordinary text; what must wait for more."""
        settled: list[tuple[str, str]] = []
        start, stop = 0, self._unfinished(text, 0)
        # A token found at `stop` or later waits: a longer one, or one that starts earlier, may yet win.
        while (match := self.find(text, start)) and match.start() < stop:
            settled.append((text[start : match.start()], match.group()))
            start = match.end()
            stop = self._unfinished(text, start)
        return settled, text[start:stop], text[stop:]

    def _unfinished(self, text: str, start: int) -> int:
        """Where, from `start` on, the end of `text` may be the beginning of a special token; its length if nowhere."""
        candidates = range(max(start, len(text) - self._longest_beginning), len(text))
        return next((place for place in candidates if text[place:] in self._beginnings), len(text))


def _common_beginning(tokens: list[str]) -> str:
    """What all of `tokens` begin with."""
    first, last = min(tokens, default=""), max(tokens, default="")  # all others sort between them
    same = (one == other for one, other in zip(first, last, strict=False))
    return first[: sum(takewhile(bool, same))]


def _check(token: str) -> None:
    if not token:
        raise UserError("special_tokens contains an empty string; every special token needs at least one character")
    try:
        token.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"special token {token!r} is not valid Unicode; it holds half a surrogate pair") from None
