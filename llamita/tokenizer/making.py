"""Training a tokenizer of a given kind from text."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from llamita.errors import UserError
from llamita.tokenizer.base import END_OF_TEXT, Tokenizer
from llamita.tokenizer.bpe import BPETokenizer
from llamita.tokenizer.chars import CharTokenizer
from llamita.tokenizer.training import train_bpe

KINDS = ("bpe", "char")
"""What kinds of tokenizers are trained here: byte-level BPE, and one id per character."""


def train_tokenizer(
    kind: str,
    paths_or_documents: str | Path | Iterable[str | Path | Iterator[str]],
    *,
    vocab_size: int,
    pattern: str,
    progress: Callable[[int, int], None] | None = None,
) -> Tokenizer:
    """A tokenizer of one of the KINDS, with the special token `<|endoftext|>`, which the text need not hold.

    The arguments are those of `train_bpe`. `char` has as many tokens as the text has characters; `<|endoftext|>` in
    the text counts as characters, too, since a document may quote it.
    Raises `UserError` for a kind that is not known, and as `train_bpe` does.
    """
    if kind not in KINDS:
        raise UserError(f"tokenizers of the kind {kind!r} are not trained here; choose {' or '.join(KINDS)}")
    if kind == "char":
        return CharTokenizer.train(paths_or_documents, allow_special=False)
    special = [END_OF_TEXT]
    vocab, merges = train_bpe(
        paths_or_documents, vocab_size=vocab_size, special_tokens=special, pattern=pattern, progress=progress
    )
    return BPETokenizer(vocab, merges, special, pattern)


def vocabulary_note(kind: str | None, vocab_size: int, tokenizer: Tokenizer) -> str | None:
    """A warning where the text has merges for fewer tokens than were requested; None where it has enough."""
    if kind != "bpe" or tokenizer.vocab_size >= vocab_size:
        return None
    got = f"{tokenizer.vocab_size:,}"
    return f"warning: the text has nothing to merge beyond {got} tokens: vocab_size is {got}, not {vocab_size:,}"
