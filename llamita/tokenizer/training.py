"""Learning merges from text (Sennrich et al., 2016): join the most frequent pair of neighbours, and again."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from llamita.errors import UserError
from llamita.jit import available
from llamita.tokenizer import native_training, plain_training
from llamita.tokenizer.documents import read_documents
from llamita.tokenizer.patterns import require_pattern
from llamita.tokenizer.special import SpecialTokens
from llamita.tokenizer.training_rules import MergeRules, Progress


def train_bpe(
    paths_or_documents: str | Path | Iterable[str | Path | Iterator[str]],
    *,
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    pattern: str = "gpt2",
    tie_break: Literal["bytes", "id"] = "bytes",
    min_frequency: int = 1,
    progress: Progress | None = None,
    threads: int = 1,
    plain: bool = False,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Learn a vocabulary of `vocab_size` entries; returns (id -> bytes, merges in the order they were learned).

    Ids: the 256 bytes, then the merges, then the special tokens. A text that runs out of pairs makes fewer merges, and
    so a smaller vocabulary.

    paths_or_documents: a single `str` or `Path` is the path of a file. In an iterable, a `Path` is a file, but a
        `str` is a document itself, and an iterator a document in strings cut anywhere. Files are read in blocks.
    special_tokens: they separate text, and are never counted.
    pattern: "gpt2", "cl100k" or "llama3".
    tie_break: of equally frequent pairs, "bytes" takes the greatest pair of byte strings, "id" the one of lowest ids.
    min_frequency: pairs seen less often are not merged.
    progress: called with (merges so far, merges requested) now and then.
    threads: how many count pieces concurrently.
    plain: the same merges by plain Python, slowly, which is also what runs where numba cannot be imported.

    Raises UserError for an unreadable file, an unknown option, or a vocab_size below that of the bytes and the special
    tokens.
    """
    special = list(dict.fromkeys(special_tokens))
    merges_requested = vocab_size - 256 - len(special)
    if merges_requested < 0:
        least = 256 + len(special)
        raise UserError(f"vocab_size {vocab_size} is too small for the bytes and special tokens; give at least {least}")
    if tie_break not in ("bytes", "id"):
        raise UserError(f"tie_break {tie_break!r} is not known; choose bytes or id")
    require_pattern(pattern)
    rules = MergeRules(merges_requested, tie_break, max(1, min_frequency))
    documents, report = read_documents(paths_or_documents), progress or (lambda *_: None)
    if plain or not available(*native_training.KERNELS):
        tokens, merges = plain_training.learn(documents, pattern, SpecialTokens(special), rules, report)
    else:
        tokens, merges = native_training.learn(documents, pattern, SpecialTokens(special), rules, report, threads)
    return dict(enumerate([*tokens, *(token.encode("utf-8") for token in special)])), merges
