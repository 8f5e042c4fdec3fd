"""Training against a trainer that recounts everything for every merge."""

import random
import re
import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from texts import development_text, nasty_strings

from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT, BPETokenizer, train_bpe
from llamita.tokenizer.documents import BLOCK
from llamita.tokenizer.patterns import Scanner


def brute_force(documents, requested, tie_break, min_frequency=1):
    """The definition: count all pairs, join the best one everywhere, again."""
    tokens = [bytes([value]) for value in range(256)]
    pieces = [list(piece.encode()) for document in documents for piece in Scanner("gpt2").split(document)]
    merges = []
    while len(merges) < requested:
        counts = Counter(pair for piece in pieces for pair in pairwise(piece))
        most = max(counts.values(), default=0)
        if most < min_frequency:
            break
        tied = [pair for pair, count in counts.items() if count == most]
        best = min(tied) if tie_break == "id" else max(tied, key=lambda pair: (tokens[pair[0]], tokens[pair[1]]))
        merges.append((tokens[best[0]], tokens[best[1]]))
        tokens.append(tokens[best[0]] + tokens[best[1]])
        pieces = [replaced(piece, best, len(tokens) - 1) for piece in pieces]
    return dict(enumerate(tokens)), merges


def replaced(piece, pair, new_id):
    result = []
    for token_id in piece:
        # `result` holds what is settled; a pair is complete when its right half arrives.
        if result and (result[-1], token_id) == pair:
            result[-1] = new_id
        else:
            result.append(token_id)
    return result


def small_corpora(count: int) -> list[list[str]]:
    rng = random.Random(21)
    alphabets = ["a", "ab", "abc ", "aab é", "\x00\xff\x80a", "the cat "]
    return [
        ["".join(rng.choices(rng.choice(alphabets), k=rng.randint(0, 40))) for _ in range(rng.randint(0, 8))]
        for _ in range(count)
    ]


def test_a_document_in_strings_cut_anywhere_gives_the_merges_of_the_whole():
    rng = random.Random(23)
    text = END_OF_TEXT.join("".join(rng.choices(["the ", "cat", "\n", "é"], k=40)) for _ in range(20))
    whole = train_bpe([text], vocab_size=290, special_tokens=[END_OF_TEXT])
    for size in (1, 3, 7, 10_000):
        strings = (text[start : start + size] for start in range(0, len(text), size))
        assert train_bpe([strings], vocab_size=290, special_tokens=[END_OF_TEXT]) == whole


@pytest.mark.parametrize("tie_break", ["bytes", "id"])
def test_small_corpora_give_the_merges_of_brute_force(tie_break):
    for corpus in small_corpora(300):
        assert train_bpe(corpus, vocab_size=256 + 40, tie_break=tie_break) == brute_force(corpus, 40, tie_break), corpus


@pytest.mark.parametrize("tie_break", ["bytes", "id"])
def test_nasty_text_gives_the_merges_of_brute_force(tie_break):
    corpus = [text.encode("utf-8", "replace").decode() for text in nasty_strings(150, seed=22)]
    assert train_bpe(corpus, vocab_size=256 + 80, tie_break=tie_break) == brute_force(corpus, 80, tie_break)


def test_pairs_below_the_least_frequency_are_not_merged():
    corpus = ["low lower lowest newer new"] * 3 + ["rare"]
    assert train_bpe(corpus, vocab_size=400, min_frequency=4) == brute_force(corpus, 144, "bytes", min_frequency=4)


def test_ties_go_to_the_greatest_bytes_or_to_the_lowest_ids():
    assert train_bpe(["ab", "zy"], vocab_size=257, tie_break="bytes")[1] == [(b"z", b"y")]
    assert train_bpe(["ab", "zy"], vocab_size=257, tie_break="id")[1] == [(b"a", b"b")]


def test_ids_are_bytes_then_merges_then_special_tokens():
    vocab, merges = train_bpe(["hi hi"], vocab_size=259, special_tokens=[END_OF_TEXT, "<x>"])
    assert merges == [(b"h", b"i")]
    assert list(vocab) == list(range(259))
    assert [vocab[i] for i in (0, 255, 256, 257, 258)] == [b"\x00", b"\xff", b"hi", END_OF_TEXT.encode(), b"<x>"]


def test_a_text_that_runs_out_of_pairs_gives_a_smaller_vocabulary():
    vocab, merges = train_bpe(["abab"], vocab_size=1_000, special_tokens=[END_OF_TEXT])
    assert merges == [(b"a", b"b"), (b"ab", b"ab")]
    assert list(vocab)[-1] == 258
    assert vocab[258] == END_OF_TEXT.encode()
    assert train_bpe([], vocab_size=300)[1] == []


@pytest.mark.parametrize("vocab_size", [10**9, 2**31])
def test_memory_follows_the_text_whatever_vocabulary_is_requested(vocab_size):
    text = " ".join(f"word{number:x}" for number in range(600))  # 5 KB
    tracemalloc.start()
    vocab, merges = train_bpe([text], vocab_size=vocab_size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(vocab) == 256 + len(merges) < 5000
    assert peak < 60e6
    assert train_bpe([text], vocab_size=len(vocab)) == (vocab, merges)


def test_more_tokens_than_the_initial_capacity_are_learned(monkeypatch):
    text = " ".join(f"word{number:x}" for number in range(600))
    expected = train_bpe([text], vocab_size=3000)
    monkeypatch.setattr("llamita.tokenizer.native_training.TOKENS", 300)
    assert train_bpe([text], vocab_size=3000) == expected


def test_special_tokens_separate_text_and_are_not_counted():
    corpus = [f"ab{END_OF_TEXT}ab", END_OF_TEXT * 50]
    assert train_bpe(corpus, vocab_size=300, special_tokens=[END_OF_TEXT])[1] == [(b"a", b"b")]


def test_files_and_documents_give_the_same_and_a_file_is_never_cut_inside_a_piece(tmp_path):
    text = "".join(["It's\r\n  a wörld <|endoftext|>"] * 50) + "x" * 100
    text = " " * 7 + text * (BLOCK // len(text) + 1) + text
    file = tmp_path / "text.txt"
    file.write_bytes(text.encode())
    options = {"vocab_size": 290, "special_tokens": [END_OF_TEXT]}
    expected = train_bpe([text], **options)
    assert train_bpe(file, **options) == train_bpe(str(file), **options) == train_bpe([file], **options) == expected


@pytest.mark.parametrize("plain", [False, True])
def test_progress_is_reported_up_to_the_last_merge(plain):
    calls = []
    train_bpe(["abab"], vocab_size=300, progress=lambda done, requested: calls.append((done, requested)), plain=plain)
    assert calls == sorted(calls)
    assert calls[-1] == (2, 44)


def test_fairytales_fill_a_vocabulary_of_four_thousand():
    vocab, merges = train_bpe(development_text("fairytales.txt"), vocab_size=4_096, special_tokens=[END_OF_TEXT])
    assert (len(vocab), len(merges)) == (4_096, 4_096 - 257)
    assert merges[0] == (b"h", b"e")
    assert b" the" in vocab.values()


@pytest.mark.parametrize(
    ("source", "options", "line"),
    [
        (["x"], {"vocab_size": 256, "special_tokens": ["<x>"]}, "vocab_size 256 is too small .* give at least 257"),
        (["x"], {"vocab_size": 300, "tie_break": "random"}, "tie_break 'random' is not known; choose bytes or id"),
        (["x"], {"vocab_size": 300, "pattern": "mine"}, "pattern 'mine' is not known"),
        ([7], {"vocab_size": 300}, "a document is of type int"),
        ("no/such/file.txt", {"vocab_size": 300}, r"no/such/file.txt: can't be read \(No such file or directory\)"),
        ([Path(".")], {"vocab_size": 300}, "can't be read"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_wrong(source, options, line):
    with pytest.raises(UserError, match=line) as caught:
        train_bpe(source, **options)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(UserError, match=r"latin.txt: not UTF-8 text"):
        train_bpe(tmp_path / "latin.txt", vocab_size=300)


def test_the_worked_example_in_the_docs_is_correct():
    text = "low low low low low lower lower newest newest newest newest newest newest widest widest widest"
    page = (Path(__file__).parents[1] / "docs" / "tokenizer.md").read_text(encoding="utf-8")
    vocab, merges = train_bpe([text], vocab_size=266)
    rows = re.findall(r"^\| `(.+)` `(.+)` \| \d \|", page, re.M)
    assert [(left.encode(), right.encode()) for left, right in rows] == merges[:8]
    assert text in page
    tokenizer = BPETokenizer(vocab, merges)
    shown = re.search(r"`lowest newer` becomes (.+?)\. It", page, re.S)
    assert shown
    assert [tokenizer.decode([i]) for i in tokenizer.encode("lowest newer")] == re.findall("`(.+?)`", shown[1])
