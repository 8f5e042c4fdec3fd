"""Metrics of generated text: how varied it is, how repetitive, and how much of it is copied."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from llamita.evaluate.copying import longest_copied_span
from llamita.tokenizer import Tokenizer

WORD = re.compile(r"\w+|[^\w\s]")  # a word or a punctuation mark, independent of the tokenizer
REPEATED = 4


@dataclass(frozen=True)
class Writing:
    """The metrics of `measure_writing`. Shares are from 0 to 1; NaN if the texts are too short.

    words             in all texts together
    distinct          shares of distinct words, pairs and triples of words; see `distinct`
    repetition        share of repeated 4-grams of words; see `repetition`
    copied_tokens     length of the longest span that occurs in the training text, in tokens
    copied_text       that span
    """

    words: int
    distinct: tuple[float, float, float]
    repetition: float
    copied_tokens: int
    copied_text: str


def measure_writing(texts: Sequence[str], tokenizer: Tokenizer, train_ids: np.ndarray) -> Writing:
    """All metrics of `texts`; `train_ids` (tokens,) is the training text, in ids of the tokenizer."""
    encoded = [tokenizer.encode(text) for text in texts]
    span = longest_copied_span(encoded, train_ids)
    copied = encoded[span.text][span.start : span.start + span.length] if span.length else []
    return Writing(
        words=sum(len(_words(text)) for text in texts),
        distinct=(distinct(texts, 1), distinct(texts, 2), distinct(texts, 3)),
        repetition=repetition(texts),
        copied_tokens=span.length,
        copied_text=tokenizer.decode(copied),
    )


def distinct(texts: Sequence[str], n: int) -> float:
    """distinct-n: distinct n-grams of words over all n-grams, in all texts together (Li et al., 2016).

    From 0 to 1; NaN if no text has n words. It falls with the number and length of texts, so compare only texts
    generated with the same settings.
    """
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repetition(texts: Sequence[str], n: int = REPEATED) -> float:
    """seq-rep-n: 1 - distinct n-grams / n-grams of words in each text, then the mean (Welleck et al., 2020).

    From 0 (no repetition) to 1; texts of fewer than n words do not count; NaN if all texts are that short.
    """
    alone = [grams for text in texts if (grams := list(_ngrams(text, n)))]
    return sum(1 - len(set(grams)) / len(grams) for grams in alone) / len(alone) if alone else math.nan


def _words(text: str) -> list[str]:
    return WORD.findall(text)


def _ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    words = _words(text)
    return zip(*(islice(words, shift, None) for shift in range(n)), strict=False)
