"""Text that needs no download: documents of made-up words."""

import random

WORDS = 20_000
WORDS_PER_DOCUMENT = 150
DOCUMENTS = 12_000
VOCABULARIES = 300, 16_000
"""The vocabulary sizes that BPE can reach on DOCUMENTS documents."""
END_OF_TEXT = "<|endoftext|>"
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in ("a", "e", "i", "o", "u", "ai", "ou")]


def made_up_text(documents: int) -> str:
    """Documents whose word frequencies follow Zipf's law; always the same."""
    rng = random.Random(0)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(WORDS)]
    weights = [1 / rank for rank in range(1, WORDS + 1)]
    return f"\n{END_OF_TEXT}\n".join(
        " ".join(rng.choices(words, weights, k=WORDS_PER_DOCUMENT)) for _ in range(documents)
    )
