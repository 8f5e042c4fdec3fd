"""BPETokenizer against tiktoken with the same ranks, and the promises of its interface."""

import json
import pickle
import random
import re
from functools import cache

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import development_text, nasty_strings, read_text, tight_strings

from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT, BPETokenizer, Tokenizer, load_tokenizer, streaming, train_bpe
from llamita.tokenizer.merge import NEVER, merge, merge_long, merge_short
from llamita.tokenizer.patterns import PUBLISHED, Scanner
from llamita.tokenizer.plain import PieceCache

PATTERNS = list(PUBLISHED)
SPECIAL = [END_OF_TEXT, "<|end|>", "<|end|>of", "<é  x>"]


@cache
def trained(pattern: str) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """A vocabulary of nasty text, whose ids are ranks."""
    documents = [text.replace("<|", "") for text in nasty_strings(3_000, seed=11)]
    return train_bpe(documents, vocab_size=1_500, pattern=pattern)


def ranks_of(pattern: str) -> dict[bytes, int]:
    return {token: token_id for token_id, token in trained(pattern)[0].items()}


def theirs(pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> tiktoken.Encoding:
    return tiktoken.Encoding("theirs", pat_str=PUBLISHED[pattern], mergeable_ranks=ranks, special_tokens=special)


@cache
def gpt2() -> tuple[Tokenizer, tiktoken.Encoding]:
    """Ours and tiktoken's, from the published files."""
    folder = development_text("gpt2")
    ours = load_tokenizer(folder)
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    ranks = {ours.token_bytes(token_id): token_id for token_id in vocab.values() if token_id != vocab[END_OF_TEXT]}
    return ours, theirs("gpt2", ranks, {END_OF_TEXT: vocab[END_OF_TEXT]})


# --- equal to tiktoken ---


@pytest.mark.parametrize("name", ["tinyshakespeare.txt", "fairytales.txt"])
def test_gpt2_gives_the_ids_of_tiktoken_on_development_texts(name):
    ours, reference = gpt2()
    text = read_text(name)
    ids = ours.encode(text)
    assert ids == reference.encode(text, allowed_special="all")
    assert ours.decode(ids) == text


def test_gpt2_gives_the_ids_of_tiktoken_on_twenty_thousand_nasty_strings():
    ours, reference = gpt2()
    for text in nasty_strings(20_000, seed=12):
        assert ours.encode(text) == reference.encode(text, allowed_special="all"), repr(text)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("by_rank", [True, False])
def test_a_trained_vocabulary_gives_the_ids_of_tiktoken(pattern, by_rank):
    special = {token: 1_500 + i for i, token in enumerate([END_OF_TEXT, "<é  x>"])}
    vocab, merges = trained(pattern)
    ours = BPETokenizer(vocab, None if by_rank else merges, special, pattern)
    reference = theirs(pattern, ranks_of(pattern), special)
    for text in nasty_strings(20_000 if by_rank else 4_000, seed=13):
        assert ours.encode(text) == reference.encode(text, allowed_special="all"), repr(text)
        assert ours.encode(text, allow_special=False) == reference.encode_ordinary(text), repr(text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=[])))
def test_arbitrary_text_gives_the_ids_of_tiktoken(text):
    ours = BPETokenizer.from_ranks(ranks_of("cl100k"), [], "cl100k")
    assert ours.encode(text) == theirs("cl100k", ranks_of("cl100k"), {}).encode_ordinary(text)


@pytest.mark.parametrize("pattern", ["cl100k", "llama3"])
def test_a_development_text_gives_the_ids_of_tiktoken(pattern):
    text = read_text("tinyshakespeare.txt")[:300_000]
    ours = BPETokenizer.from_ranks(ranks_of(pattern), [END_OF_TEXT], pattern)
    assert ours.encode(text) == theirs(pattern, ranks_of(pattern), {}).encode_ordinary(text)


def test_ranks_that_no_merges_lead_to_give_the_ids_of_tiktoken():
    words = [b"abc", b"bc", b" abcd", b"abcdab", b"\n\n\n", b"cd"]
    ranks = {bytes([i]): i for i in range(256)} | {word: 256 + i for i, word in enumerate(words)}
    ours, reference = BPETokenizer.from_ranks(ranks, []), theirs("gpt2", ranks, {})
    rng = random.Random(20)
    for text in ["abc", " abcd", "abcdab", "\n\n\n", *("".join(rng.choices("abcd \n", k=8)) for _ in range(1_000))]:
        assert ours.encode(text) == reference.encode(text), repr(text)


def test_decoding_any_ids_gives_the_text_of_tiktoken():
    vocab, merges = trained("gpt2")
    ours, reference = BPETokenizer(vocab, merges), theirs("gpt2", ranks_of("gpt2"), {})
    rng = random.Random(14)
    for _ in range(2_000):
        ids = [rng.randrange(len(vocab)) for _ in range(rng.randint(0, 12))]
        assert ours.decode(ids) == reference.decode(ids)


def test_surrogate_pairs_are_joined_and_lone_surrogates_replaced_as_tiktoken_does():
    tokenizer = BPETokenizer(*trained("gpt2"))
    assert tokenizer.decode(tokenizer.encode("a\ud83d\ude00b\ud800c\udc00")) == "a😀b\ufffdc\ufffd"


# --- round trip ---


@pytest.mark.parametrize("pattern", PATTERNS)
def test_decoding_gives_the_text_back(pattern):
    tokenizer = BPETokenizer(*trained(pattern), SPECIAL, pattern)
    for text in nasty_strings(3_000, seed=15):
        valid = streaming.repair(text)
        assert tokenizer.decode(tokenizer.encode(valid)) == valid
        assert tokenizer.decode(tokenizer.encode(valid, allow_special=False)) == valid


# --- special tokens ---


def test_of_overlapping_special_tokens_the_leftmost_then_the_longest_wins():
    tokenizer = BPETokenizer(*trained("gpt2"), ["<a>", "<a>b", "b<a>"])
    short, long, before = tokenizer.special_tokens.values()
    assert tokenizer.encode("<a>b<a>") == [long, short]
    assert tokenizer.encode("b<a>b") == [before, ord("b")]


@pytest.mark.parametrize("tokens", [["é", "ß"], ["<|a|>", "b"], ["ab", "abc", "abd"], ["😀"], []])
def test_special_tokens_are_found_whatever_they_begin_with(tokens):
    tokenizer = BPETokenizer({i: bytes([i]) for i in range(256)}, [], tokens)
    text = "xab<|a|>éß😀abcabdb<|a"
    longest_first = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
    parts = re.split(f"({longest_first})", text) if tokens else [text]
    ids = [i for part in parts for i in ([tokenizer.special_tokens[part]] if part in tokens else part.encode())]
    assert tokenizer.encode(text) == ids


def test_special_tokens_keep_their_id_in_the_vocabulary_or_get_the_next():
    vocab, merges = trained("gpt2")
    size = len(vocab)
    inside = BPETokenizer({**vocab, size: END_OF_TEXT.encode()}, merges, ["<new>", END_OF_TEXT])
    assert inside.special_tokens == {"<new>": size + 1, END_OF_TEXT: size}
    assert (inside.vocab_size, inside.end_id) == (size + 2, size)
    outside = BPETokenizer(vocab, merges, [END_OF_TEXT, "<new>"])
    assert outside.special_tokens == {END_OF_TEXT: size, "<new>": size + 1}
    assert BPETokenizer(vocab, merges).end_id is None


def test_text_that_looks_like_a_special_token_is_ordinary_where_special_tokens_are_not_allowed():
    tokenizer = BPETokenizer.from_ranks({**{bytes([i]): i for i in range(256)}, b"PAD": 256}, ["PAD"])
    assert tokenizer.encode("PAD") == [256]
    assert tokenizer.encode("PAD", allow_special=False) == list(b"PAD")


def test_a_special_token_has_no_bytes_of_text():
    vocab, merges = trained("gpt2")
    tokenizer = BPETokenizer(vocab, merges, [END_OF_TEXT])
    assert [tokenizer.token_bytes(token_id) for token_id in (65, len(vocab))] == [b"A", b""]
    assert tokenizer.byte_lengths.dtype == np.int32
    assert tokenizer.byte_lengths.shape == (tokenizer.vocab_size,)
    text = "Hello, wörld! " * 5
    assert tokenizer.byte_lengths[tokenizer.encode(text + END_OF_TEXT)].sum() == len(text.encode())


# --- streaming ---


def random_cuts(text: str, rng: random.Random) -> list[str]:
    places = sorted(rng.randint(0, len(text)) for _ in range(rng.randint(0, len(text) + 2)))
    return [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_text_in_strings_cut_anywhere_gives_the_ids_of_the_whole(pattern, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 1)  # cut as early as possible
    tokenizer, rng = BPETokenizer(*trained(pattern), SPECIAL, pattern), random.Random(16)
    for text in nasty_strings(3_000, seed=17) + tight_strings(5_000, seed=17):
        cuts = random_cuts(text, rng)
        assert list(tokenizer.encode_iterable(cuts)) == tokenizer.encode(text), cuts


def test_streaming_holds_back_a_few_blocks_at_most(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 100)
    tokenizer = BPETokenizer(*trained("gpt2"), [END_OF_TEXT])
    taken, given_out = 0, 0

    def strings():
        nonlocal taken
        for _ in range(2_000):
            taken += 1
            assert taken * 19 - given_out < 400
            yield "It's  a\n\n<|end of it"

    for token_id in tokenizer.encode_iterable(strings()):
        given_out += len(tokenizer.token_bytes(token_id))


def test_a_very_long_piece_is_not_scanned_again_for_every_string(monkeypatch):
    scanned, split = [], Scanner.split
    monkeypatch.setattr(Scanner, "split", lambda self, text: scanned.append(len(text)) or split(self, text))
    monkeypatch.setattr(streaming, "BLOCK", 10)
    list(BPETokenizer(*trained("gpt2"), plain=True).encode_iterable(iter("a" * 20_000)))
    assert sum(scanned) < 4 * 20_000


# --- long pieces, the cache ---


def test_the_heap_makes_the_merges_that_the_scan_makes():
    ranks, rng = ranks_of("gpt2"), random.Random(19)
    for pool in (b"a", b"ab", b"the ", b"\xe6\x97\xa5\xe4\xb8"):
        for _ in range(200):
            piece = bytes(rng.choices(pool, k=rng.randint(0, 60)))

            def rank(left: bytes, right: bytes) -> float:
                return ranks.get(left + right, NEVER)

            assert merge_long(piece, rank) == merge_short(piece, rank)


def test_the_work_on_a_long_piece_grows_in_proportion_to_its_length():
    ranks = {b"a" * (1 << power): power for power in range(12)}
    calls = 0

    def rank(left: bytes, right: bytes) -> float:
        nonlocal calls
        calls += 1
        return ranks.get(left + right, NEVER)

    def calls_for(length: int) -> int:
        nonlocal calls
        calls = 0
        merge(b"a" * length, rank)
        return calls

    assert calls_for(40_000) < 4.5 * calls_for(10_000)


def test_a_piece_of_a_hundred_thousand_letters_is_encoded():
    tokenizer = BPETokenizer(*trained("gpt2"))
    text = "a" * 100_000
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert list(tokenizer.encode_iterable(iter(text))) == tokenizer.encode(text)


def test_the_cache_never_grows_beyond_its_limit_and_forgets_long_pieces():
    cache_ = PieceCache(lambda piece: (len(piece),), limit=10, longest_piece=5)
    assert [cache_[str(number)] for number in range(25)] == [(len(str(number)),) for number in range(25)]
    assert len(cache_) <= 10
    assert cache_["longer than five"] == (16,)
    assert "longer than five" not in cache_


# --- arrays, processes, mistakes ---


def test_an_array_is_as_narrow_as_the_vocabulary_allows():
    tokenizer = BPETokenizer(*trained("gpt2"))
    assert tokenizer.encode_array("Hello").dtype == np.uint16
    assert tokenizer.encode_array("Hello").tolist() == tokenizer.encode("Hello")
    assert tokenizer.decode(tokenizer.encode_array("Hello")) == "Hello"
    wide = BPETokenizer.from_ranks({bytes([i]): i for i in range(256)}, {END_OF_TEXT: 65_536})
    assert wide.encode_array(END_OF_TEXT).tolist() == [65_536]
    assert wide.encode_array("").dtype == np.uint32


def test_a_tokenizer_travels_to_another_process():
    tokenizer = BPETokenizer(*trained("gpt2"), SPECIAL)
    assert pickle.loads(pickle.dumps(tokenizer)).encode("Hello <|end|>of it") == tokenizer.encode("Hello <|end|>of it")


@pytest.mark.parametrize("bad", [-1, 1_500, 10**9])
def test_an_id_out_of_range_is_named(bad):
    tokenizer = BPETokenizer(*trained("gpt2"))
    with pytest.raises(UserError, match=f"token id {bad} is not in the vocabulary; give ids from 0 to 1499"):
        tokenizer.decode([65, bad])
    with pytest.raises(UserError, match=f"token id {bad} "):
        tokenizer.token_bytes(bad)


BYTES = {i: bytes([i]) for i in range(256)}


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: BPETokenizer(BYTES, [(b"a", b"b")]), "merge 0 makes b'ab', which vocab lacks"),
        (lambda: BPETokenizer(BYTES, [], ["<x>", ""]), "special_tokens contains an empty string"),
        (lambda: BPETokenizer(BYTES, [], ["\ud800"]), "half a surrogate pair"),
        (lambda: BPETokenizer(BYTES, [], "<x>"), "special_tokens is the string '<x>'; give a list"),
        (lambda: BPETokenizer(BYTES, [], {"<x>": 65}), "special token '<x>' has the id 65 of b'A'"),
        (lambda: BPETokenizer(BYTES, [], {"<x>": 256, "<y>": 256}), "special token '<y>' has the id 256 of b'<x>'"),
        (lambda: BPETokenizer({97: b"a"}, []).encode("ab"), "the vocabulary lacks the byte b'b'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_wrong(make, line):
    with pytest.raises(UserError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)
