"""The texts that tests read: development data when it lies beside the repository, and nasty strings made from a seed.

The development data is not part of the project. It is looked for in `$LLAMITA_DATA`, else in `../shared/data` beside
the repository; a test that wants a file of it skips, with a reason, where it is absent.
"""

import os
import random
from functools import cache
from pathlib import Path

import pytest


def data_folder() -> Path:
    """The folder of development data; it need not exist."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("LLAMITA_DATA", default))


def development_text(name: str) -> Path:
    """The path of a development file or folder, such as "fairytales.txt"; skips the test where it is absent."""
    path = data_folder() / name
    if not path.exists():
        pytest.skip(f"the development data {path} is not here (set LLAMITA_DATA to its folder)")
    return path


@cache
def read_text(name: str) -> str:
    """The content of a development file, line ends as they are; skips the test where it is absent."""
    return development_text(name).read_bytes().decode("utf-8")


SNIPPETS = (
    # words, contractions in every case (ſ and the Kelvin sign fold into s and k), numbers
    "the", "Hello",
    "don't", "WE'LL", "'s", "'S", "'ſ", "'re", "'Re", "'rE", "'ve", "'l", "'ll", "'lL", "'d", "'M", "''t", "'",
    "K", "\u212a", "é", "e\u0301", "ß", "ǅ", "ª", "1", "12", "1234", "½", "Ⅷ", "٣", "一二三", "日本語", "한국어",
    "हिन्दी", "שלום",
    # whitespace, exotic and in runs
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", " \n", "\n ", " \r\n ", "\u00a0", "\u2003", "\u3000", "\u2028",
    "\u0085", "\u200b", "\ufeff", "\u180e", "\x1c", "\x0b", "\x0c",
    # symbols, emoji, private use, unassigned, noncharacters, controls, surrogates
    "!", "?!", "...", "_", "-", "🙂", "👩‍👩‍👧", "🇩🇪", "𝔘", "𠀀", "\ue000", "\U000f0000", "\U0010ffff", "\uffff",
    "\x00", "\x7f", "\ud800", "\udc00", "\ud83d\ude00", "\udfff\ud800", "\U00011f02", "\U0001e900", "\u0378",
    # special tokens, whole and broken
    "<|endoftext|>", "<|endof", "text|>", "<|", "<", "|>", "<|endoftext|", "<|endoftext|><|endoftext|>",
)  # fmt: skip


def nasty_strings(count: int, seed: int, pieces: int = 12) -> list[str]:
    """`count` strings made of snippets and random code points (surrogates included): the same for the same seed."""
    rng = random.Random(seed)
    return ["".join(_snippet(rng) for _ in range(rng.randint(0, pieces))) for _ in range(count)]


def tight_strings(count: int, seed: int) -> list[str]:
    """`count` strings of few different characters: whitespace, contractions and special tokens, in every order."""
    rng = random.Random(seed)
    pools = [" \n", " \r\nx", " \n\t!1x", "'relvtſ ", "<|end>of "]
    return ["".join(rng.choices(rng.choice(pools), k=rng.randint(0, 12))) for _ in range(count)]


def _snippet(rng: random.Random) -> str:
    """Mostly a snippet; else a code point, drawn from low blocks as often as from all of Unicode."""
    if rng.random() < 0.7:
        return rng.choice(SNIPPETS)
    return chr(rng.randrange(rng.choice((0x80, 0x800, 0x10000, 0x20000, 0x110000))))
