"""Pieces and character classes against tiktoken, which decides what they are."""

import random

import pytest
import tiktoken
from texts import nasty_strings, tight_strings

from llamita.errors import UserError
from llamita.tokenizer.character_classes import character_classes
from llamita.tokenizer.patterns import PUBLISHED, Scanner

SINGLE_BYTES = {bytes([value]): value for value in range(256)}
CLASSES = {"letter": r"\p{L}", "number": r"\p{N}", "whitespace": r"\s"} | {
    f"any_case_{letter}": f"(?i:{letter})" for letter in "delmrstv"
}


def tiktoken_pieces(pattern: str, text: str) -> list[str]:
    """tiktoken's own pieces: a vocabulary with every substring of the text in it never cuts a piece."""
    data = text.encode("utf-8")
    substrings = {data[i:j] for i in range(len(data)) for j in range(i + 2, len(data) + 1)}
    ranks = SINGLE_BYTES | {token: 256 + rank for rank, token in enumerate(sorted(substrings))}
    encoding = tiktoken.Encoding("pieces", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return [encoding.decode([token_id]) for token_id in encoding.encode_ordinary(text)]


@pytest.mark.parametrize("name", CLASSES)
def test_a_character_class_is_what_tiktoken_says_on_a_sample_and_at_every_border(name):
    encoding = tiktoken.Encoding("probe", pat_str=CLASSES[name], mergeable_ranks=SINGLE_BYTES, special_tokens={})
    ranges = character_classes()[name]
    points = set(random.Random(1).sample(range(0x110000), 20_000)) | set(range(0x3000))
    points |= {point for first, last in ranges for point in (first - 1, first, last, last + 1)}
    points -= set(range(0xD800, 0xE000))
    inside = {point for point in points if any(first <= point <= last for first, last in ranges)}
    probe = "".join(map(chr, sorted(points)))
    assert set(map(ord, encoding.decode(encoding.encode_ordinary(probe)))) == inside


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_pieces_are_those_of_tiktoken(pattern):
    for string in nasty_strings(600, seed=2, pieces=6) + tight_strings(600, seed=2):
        text = string.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert Scanner(pattern).split(text) == tiktoken_pieces(PUBLISHED[pattern], text), repr(text)


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_pieces_join_to_the_text(pattern):
    for text in nasty_strings(2_000, seed=3):
        assert "".join(Scanner(pattern).split(text)) == text


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_settled_pieces_stay_the_same_whatever_follows(pattern):
    rng, scanner = random.Random(4), Scanner(pattern)
    for text in nasty_strings(1_500, seed=5) + tight_strings(6_000, seed=5):
        cut = rng.randint(0, len(text))
        settled, rest = scanner.split_stable(text[:cut])
        assert settled == scanner.split(text)[: len(settled)]
        assert "".join(settled) + rest == text[:cut]


def test_the_folded_s_is_a_contraction_where_case_is_ignored():
    assert Scanner("cl100k").split("it'ſ IT'S") == ["it", "'ſ", " IT", "'S"]
    assert Scanner("gpt2").split("IT'S") == ["IT", "'", "S"]


def test_whitespace_that_ends_a_text_is_one_piece_in_cl100k_and_two_in_llama3():
    assert Scanner("cl100k").split("a\n  ") == ["a", "\n  "]
    assert Scanner("llama3").split("a\n  ") == ["a", "\n", "  "]


def test_an_unknown_pattern_is_refused_by_name():
    with pytest.raises(UserError, match=r"pattern 'gpt5' is not known; choose one of gpt2, cl100k, llama3"):
        Scanner("gpt5")
