"""CharTokenizer: the layout of its ids, and the same promises as BPE."""

import random

import numpy as np
import pytest
from texts import nasty_strings

from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT, CharTokenizer
from llamita.tokenizer.streaming import repair


def test_ids_are_the_sorted_characters_then_unknown_then_the_end_of_text():
    tokenizer = CharTokenizer("banana🙂")
    assert tokenizer.characters == ["a", "b", "n", "🙂"]
    assert tokenizer.encode("ab🙂x" + END_OF_TEXT) == [0, 1, 3, 4, 5]
    assert (tokenizer.vocab_size, tokenizer.end_id, tokenizer.special_tokens) == (6, 5, {END_OF_TEXT: 5})
    assert CharTokenizer(["n", "b", "a", "🙂"]).fingerprint == tokenizer.fingerprint


def test_a_character_never_seen_is_unknown_and_so_decoded():
    tokenizer = CharTokenizer("ab")
    assert tokenizer.decode(tokenizer.encode("axb")) == "a<unk>b"
    assert tokenizer.decode([0, 3]) == "a" + END_OF_TEXT


def test_training_sees_every_character_but_not_those_of_special_tokens(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(f"ba\r\n{END_OF_TEXT}é".encode())
    assert CharTokenizer.train(file).characters == ["\n", "\r", "a", "b", "é"]
    assert CharTokenizer.train(["xy", END_OF_TEXT, "z"]).characters == ["x", "y", "z"]


def test_decoding_gives_the_text_back():
    texts = [repair(text) for text in nasty_strings(1_000, seed=41)]
    tokenizer = CharTokenizer("".join(texts))
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert len(tokenizer.encode(text, allow_special=False)) == len(text)


def test_a_text_in_strings_cut_anywhere_gives_the_ids_of_the_whole():
    tokenizer, rng = CharTokenizer("abcd <|>endoftext😀\ufffd"), random.Random(42)
    for text in nasty_strings(2_000, seed=43):
        places = sorted(rng.randint(0, len(text)) for _ in range(rng.randint(0, 10)))
        cuts = [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]
        assert list(tokenizer.encode_iterable(cuts)) == tokenizer.encode(text), cuts


def test_byte_lengths_count_utf8_and_one_for_unknown_and_none_for_special():
    tokenizer = CharTokenizer("aé日🙂")
    assert tokenizer.byte_lengths.tolist() == [1, 2, 3, 4, 1, 0]
    assert tokenizer.byte_lengths.dtype == np.int32
    assert [tokenizer.token_bytes(i) for i in (1, 4, 5)] == ["é".encode(), b"<unk>", b""]
    assert tokenizer.encode_array("é🙂").tolist() == [1, 3]
    assert tokenizer.encode_array("").dtype == np.uint16


@pytest.mark.parametrize("bad", [-1, 4, 99])
def test_an_id_out_of_range_is_named(bad):
    with pytest.raises(UserError, match=f"token id {bad} is not in the vocabulary; give ids from 0 to 3"):
        CharTokenizer("ab").decode([0, bad])


def test_a_string_of_several_characters_is_refused():
    with pytest.raises(UserError, match="characters contains 'ab'; give single characters"):
        CharTokenizer(["ab", "c"])
