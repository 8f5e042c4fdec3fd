r"""Cut text into pieces (words with the space before them, numbers, punctuation, whitespace), before any merging.

Merges never cross the border of a piece, so the pattern shapes the vocabulary as much as the merges do. The three:

- `gpt2`    Radford et al., 2019. Contractions in lower case only; a number is one piece.
- `cl100k`  GPT-4. Contractions in any case, one symbol may lead a word, numbers in threes, line ends stay together.
- `llama3`  Dubey et al., 2024. As cl100k was first published. They differ only in whitespace at
            the end of a text: today's cl100k makes one piece of "\n  ", llama3 two ("\n", "  ").

The published texts (`PUBLISHED`) are for readers that have \p{L}. Python's `re` lacks it, and `regex` means other
characters by it, so the scanners here are handwritten, based on the pinned table of character classes: `re` is only
the engine, every class it sees is spelled out as ranges of code points. That keeps the speed of C in plain Python.
`re.IGNORECASE` and `\s` are not used, since their meaning depends on the version of Python.
"""

import re
from collections.abc import Callable
from functools import cache

from llamita.errors import UserError
from llamita.tokenizer.character_classes import Ranges, character_classes, characters

PUBLISHED = {
    "gpt2": r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    "cl100k": r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"""
    r"""\s++$|\s*[\r\n]|\s+(?!\S)|\s""",
    "llama3": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"""
    r"""\s*[\r\n]+|\s+(?!\S)|\s+""",
}
"""The texts as their authors publish them; gpt2 is tiktoken's `r50k_base` before it was rewritten for speed."""

# {L}, {N} and {S} are the members of a class, {s}, {d}... for a letter in any case. A possessive `++` never gives
# back what it took, which changes nothing where the next thing can't begin with it, and saves the engine work.
_WORDS_AND_NUMBERS = r"[^\r\n{L}{N}]?+[{L}]++|[{N}]{{1,3}}+| ?[^{S}{L}{N}]++[\r\n]*+"
_ANY_CASE_CONTRACTIONS = r"'(?:[{s}{d}{m}{t}]|[{l}][{l}]|[{v}][{e}]|[{r}][{e}])"
_WHITESPACE = r"[{S}]+(?![^{S}])|[{S}]++"
_SCANNERS = {
    "gpt2": rf"'(?:[sdmt]|ll|ve|re)| ?[{{L}}]++| ?[{{N}}]++| ?[^{{S}}{{L}}{{N}}]++|{_WHITESPACE}",
    "cl100k": rf"{_ANY_CASE_CONTRACTIONS}|{_WORDS_AND_NUMBERS}|[{{S}}]++\Z|[{{S}}]*[\r\n]|{_WHITESPACE}",
    "llama3": rf"{_ANY_CASE_CONTRACTIONS}|{_WORDS_AND_NUMBERS}|[{{S}}]*[\r\n]|{_WHITESPACE}",
}

_ASTRAL = re.compile("[\U00010000-\U0010ffff]")


class Scanner:
    """Cuts text into the pieces of one pattern. `"".join(scanner.split(text)) == text`, always."""

    def __init__(self, pattern: str):
        require_pattern(pattern)
        self.pattern = pattern
        self._whitespace = characters("whitespace")

    def split(self, text: str) -> list[str]:
        """The pieces of `text`, a complete text, or all of the text between two special tokens."""
        return _findall(self.pattern, astral=_ASTRAL.search(text) is not None)(text)

    def split_stable(self, text: str) -> tuple[list[str], str]:
        r"""The pieces at the start of `text` that stay the same whatever follows it, and the rest of `text`.

        A piece is settled when the scanner decided on it without looking past the end of the text. Two rules suffice:
        it ends before the whitespace at the end of the text (how whitespace is cut depends on what ends the run:
        nothing, a letter or a line end), and two characters follow it (a contraction is read three characters at
        a time, so after "'r" an "e" may come). Every other piece is decided by its own characters and the next one.
        """
        limit = min(len(text.rstrip(self._whitespace)), len(text) - 2)
        pieces, end = self.split(text), len(text)
        while pieces and end > limit:
            end -= len(pieces.pop())
        return pieces, text[end:]


def last_break(text: str, start: int = 0, end: int | None = None) -> int:
    """The last position between `start` and `end` where every pattern cuts, whatever the rest is; else `start`.

    A word or a number ends before whitespace, and whitespace begins a piece there.
    """
    end = len(text) if end is None else min(end, len(text))
    for first in (max(start, end - 1000), start):  # nearly always there is one near the end
        if found := list(_breaks().finditer(text, first, end)):
            return found[-1].end()
    return start


def breaks(text: str) -> list[int]:
    """All positions where every pattern cuts, whatever follows `text`: those that `last_break` can return."""
    return [found.end() for found in _breaks().finditer(text)]


@cache
def _breaks() -> re.Pattern[str]:
    letter, number, whitespace = (
        _as_class(character_classes()[name], True) for name in ("letter", "number", "whitespace")
    )
    return re.compile(f"[{letter}{number}](?=[{whitespace}])")


def require_pattern(pattern: str) -> None:
    """Raise `UserError` for a name that no pattern has."""
    if pattern not in _SCANNERS:
        raise UserError(f"pattern {pattern!r} is not known; choose one of {', '.join(_SCANNERS)}")


@cache
def _findall(pattern: str, astral: bool) -> Callable[[str], list[str]]:
    """The compiled scanner. `re` tests ranges above U+FFFF one by one; text without such characters is spared."""
    classes = {name: _as_class(ranges, astral) for name, ranges in character_classes().items()}
    letters = {name.removeprefix("any_case_"): text for name, text in classes.items() if name.startswith("any_case_")}
    source = _SCANNERS[pattern].format(L=classes["letter"], N=classes["number"], S=classes["whitespace"], **letters)
    return re.compile(source).findall


def _as_class(ranges: Ranges, astral: bool) -> str:
    r"""The inside of a [...]: "\U00000041-\U0000005a..."."""
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in ranges if astral or first < 0x10000)
