r"""Text that arrives in arbitrary strings, encoded as if it had come in one.

A string may end inside a special token, a contraction, a run of whitespace or a surrogate pair. So text is held
back until nothing that follows can change how it is cut: a few characters of ordinary text, at worst a single piece.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from llamita.tokenizer.patterns import Scanner, last_break
from llamita.tokenizer.special import SpecialTokens

BLOCK = 1 << 14
"""Characters collected before a cut is tried. Larger blocks are faster, smaller ones give the first id earlier."""

Part = TypeVar("Part")


def encode_stream(
    strings: Iterable[str],
    special: SpecialTokens,
    whole: Callable[[str], Part],
    settled: Callable[[str], tuple[Part, str]],
    block: int | None = None,
) -> Iterator[tuple[Part, str | None]]:
    """What the ordinary text between special tokens becomes, each with the special token after it, if there is one.

    The text is the concatenation of `strings`. `whole` converts ordinary text that is complete, and `settled`
    the beginning of ordinary text that continues: it returns what must wait. `block` defaults to `BLOCK`.
    """
    parts: list[str] = []
    size, needed = 0, block or BLOCK
    for string in repair_stream(strings):
        parts.append(string)
        size += len(string)
        if size >= needed:
            ended, ordinary, held = special.settle("".join(parts))
            for text, token in ended:
                yield whole(text), token
            part, rest = settled(ordinary)
            yield part, None
            rest += held
            # Doubled, so that a very long piece is not scanned again for every string.
            parts, size, needed = [rest], len(rest), max(block or BLOCK, 2 * len(rest))
    for ordinary, token in special.split("".join(parts)):
        yield whole(ordinary), token


def cut_stream(
    strings: Iterable[str], scanner: Scanner, special: SpecialTokens, block: int | None = None
) -> Iterator[tuple[list[str], str | None]]:
    """The pieces of the concatenated `strings`; see `encode_stream`."""
    return encode_stream(strings, special, scanner.split, scanner.split_stable, block)


def independent_blocks(strings: Iterable[str], special: SpecialTokens) -> Iterator[str]:
    """The concatenated `strings` in blocks that can be cut into pieces separately; without special tokens.

    A block is about as long as a string, unless a text has no whitespace.
    """
    rest = ""
    for text, token in split_stream(strings, special):
        seen = max(len(rest) - 1, 0)  # there was no break up to here; the last character's depends on what follows
        text = rest + text
        end = len(text) if token else last_break(text, seen)
        if end > seen:
            yield text[:end]
            text = text[end:]
        rest = text
    yield rest


def slices_at_breaks(text: str, size: int) -> Iterator[str]:
    """A text without special tokens in slices of about `size` characters that can be cut into pieces separately."""
    start, end = 0, size
    while end < len(text):
        if (cut := last_break(text, start, end)) > start:
            yield text[start:cut]
            start = cut
        end += size
    yield text[start:]


def split_stream(strings: Iterable[str], special: SpecialTokens) -> Iterator[tuple[str, str | None]]:
    """The concatenated `strings` as (ordinary text, special token after it), with further cuts anywhere."""
    held = ""
    for string in repair_stream(strings):
        settled, ordinary, held = special.settle(held + string)
        yield from settled
        yield ordinary, None
    yield from special.split(held)


def repair_stream(strings: Iterable[str]) -> Iterator[str]:
    """`repair` of the concatenated `strings`: half a surrogate pair waits for the other half."""
    held = ""
    for string in strings:
        text, held = held + string, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, held = text[:-1], text[-1]
        yield repair(text)
    yield repair(held)


def repair(text: str) -> str:
    """Valid Unicode, as tiktoken makes it: surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    try:
        text.encode("utf-8")  # the fastest test there is
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
