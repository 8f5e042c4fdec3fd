"""Numbers about texts that a model wrote: how varied, how repetitive, how much of them is copied."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from llamita.evaluate.copying import longest_copied_span
from llamita.tokenizer import Tokenizer

WORD = re.compile(r"\w+|[^\w\s]")  # a word, or a mark of punctuation: the same whatever the tokenizer
REPEATED = 4


@dataclass(frozen=True)
class Writing:
    """What `measure_writing` found. Shares are from 0 to 1, nan where the texts are too short to tell.

    words             in all texts together
    distinct          shares of different words, pairs and triples of words; see `distinct`
    repetition        share of repeated sequences of four words; see `repetition`
    copied_tokens     the longest span that stands in the training text, in tokens
    copied_text       that span
    """

    words: int
    distinct: tuple[float, float, float]
    repetition: float
    copied_tokens: int
    copied_text: str


def measure_writing(texts: Sequence[str], tokenizer: Tokenizer, train_ids: np.ndarray) -> Writing:
    """All the numbers about `texts`; `train_ids` (tokens,) is what the model learned from, in the tokenizer's ids."""
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
    """distinct-n: different n-grams of words over all of them, in all texts together (Li et al., 2016).

    From 0 to 1; nan where no text has n words. It falls as texts grow longer or more, so compare only what was written
    with the same settings.
    """
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repetition(texts: Sequence[str], n: int = REPEATED) -> float:
    """seq-rep-n: 1 - different n-grams of words / all of them, in each text, then the mean (Welleck et al., 2020).

    From 0 (nothing comes twice) to 1; texts of fewer than n words do not count, and nan is where all are such.
    """
    alone = [grams for text in texts if (grams := list(_ngrams(text, n)))]
    return sum(1 - len(set(grams)) / len(grams) for grams in alone) / len(alone) if alone else math.nan


def _words(text: str) -> list[str]:
    return WORD.findall(text)


def _ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    words = _words(text)
    return zip(*(islice(words, shift, None) for shift in range(n)), strict=False)
