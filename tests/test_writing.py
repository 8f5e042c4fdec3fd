"""What is said about texts that a model wrote, against counting by hand and searching by brute force."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import CONTROL_CHARACTERS, TINY, cache, command, flags, refusal, text, train_words

import llamita.corpus.story_corpus
from llamita.corpus.stories import validation_stories
from llamita.data import open_dataset
from llamita.evaluate import copying as copying_module
from llamita.evaluate import distinct, longest_copied_span, measure_writing, repetition
from llamita.tokenizer import CharTokenizer
from llamita.train import load_run

fixtures = (cache, text)


def longest_by_brute_force(texts, ids) -> int:
    """Every start in every text against every place."""
    best = 0
    for row in texts:
        for start in range(len(row)):
            for place in range(len(ids)):
                length = 0
                while (
                    start + length < len(row)
                    and place + length < len(ids)
                    and row[start + length] == ids[place + length]
                ):
                    length += 1
                best = max(best, length)
    return best


def assert_longest(texts, ids, chunk) -> None:
    ids = np.array(ids, dtype=np.uint16)
    span = longest_copied_span(texts, ids, chunk)
    assert span.length == longest_by_brute_force(texts, ids.tolist())
    copied = texts[span.text][span.start : span.start + span.length] if texts else []
    assert list(copied) == ids[span.position : span.position + span.length].tolist()


few = st.integers(0, 2)


@given(st.lists(st.lists(few, max_size=12), max_size=4), st.lists(few, max_size=60), st.integers(1, 70))
def test_the_longest_copied_span_is_the_one_found_by_brute_force(texts, ids, chunk):
    assert_longest(texts, ids, chunk)


@pytest.mark.parametrize("bits", [1, 4])
def test_a_coarse_sieve_lets_no_span_slip_and_no_other_through(monkeypatch, bits):
    monkeypatch.setattr(copying_module, "SIEVE_BITS", bits)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert_longest(rng.integers(0, 4, (3, 15)).tolist(), rng.integers(0, 4, 100).tolist(), 37)


def test_windows_of_the_same_hash_that_differ_are_no_copies(monkeypatch):
    """With the factor 1 a hash is a sum, and every order of the same tokens has the same."""
    monkeypatch.setattr(copying_module, "FACTOR", 1)
    assert longest_copied_span([[1, 2, 3]], np.array([3, 2, 1])).length == 1


@pytest.mark.parametrize("chunk", [1, 2, 7, 50, 1000])
def test_a_span_that_lies_across_chunks_is_found_whole(chunk):
    ids = np.arange(200, dtype=np.uint16)
    span = longest_copied_span([[999, *range(40, 90), 999]], ids, chunk)
    assert tuple(span) == (50, 0, 1, 40)


def test_the_memory_does_not_grow_with_the_training_text(tmp_path):
    ids = np.memmap(tmp_path / "ids", np.uint16, mode="w+", shape=(8_000_000,))
    ids[:] = np.random.default_rng(0).integers(0, 5000, len(ids))
    tracemalloc.start()
    span = longest_copied_span([ids[5_000_000:5_000_100].tolist()], ids, chunk=1 << 16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (span.length, span.position) == (100, 5_000_000)
    assert peak < 8e6  # an eighth of what 8 million uint64 take


def test_distinct_n_counts_different_words_over_all_in_all_texts():
    texts = ["the cat saw the cat.", "The dog"]  # words: the cat saw the cat . The dog
    assert distinct(texts, 1) == 6 / 8
    assert distinct(texts, 2) == 5 / 6  # the cat, cat saw, saw the, the cat, cat ., The dog
    assert distinct(texts, 3) == 4 / 4
    assert math.isnan(distinct(["a b"], 3))


def test_repetition_is_the_share_of_sequences_that_came_before_in_the_same_text():
    assert repetition(["a b c d a b c d"]) == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert repetition(["a a a a a a", "a b c d", "too short"]) == pytest.approx((2 / 3 + 0) / 2)
    assert repetition(["a b c d", "a b c d"]) == 0  # in another text
    assert math.isnan(repetition(["a b c"]))


def test_all_the_measures_together():
    tokenizer = CharTokenizer("abc xyz")
    ids = np.array(tokenizer.encode("xyz abc abc zyx"), dtype=np.uint16)
    found = measure_writing(["b abc ab", "y"], tokenizer, ids)
    assert (found.words, found.copied_tokens, found.copied_text) == (4, 7, " abc ab")
    assert found.distinct == (distinct(["b abc ab", "y"], 1), 1.0, 1.0)


def test_where_nothing_is_written_nothing_is_copied():
    found = measure_writing(["", ""], CharTokenizer("ab"), np.array([0, 1]))
    assert (found.words, found.copied_tokens, found.copied_text) == (0, 0, "")
    assert math.isnan(found.distinct[0])


@pytest.fixture
def run(text, tmp_path) -> Path:
    assert command(*train_words(text, tmp_path / "run", max_steps=2)) == 0
    return tmp_path / "run"


def report(out: str) -> dict[str, str]:
    """The numbers of `llamita eval`, by the name that stands before them."""
    lines = (line for line in out.splitlines() if line[:16].strip() and line[14:16] == "  ")
    return {line[:16].strip(): line[16:] for line in lines}


def test_the_command_continues_each_prompt_and_measures_all_that_is_written(run, capsys):
    capsys.readouterr()
    words = ["eval", "--checkpoint", run, "--generate", "the llama", "the sun", "--max_tokens", 40, "--sample_count", 3]
    assert command(*words) == 0
    out = capsys.readouterr().out
    assert not CONTROL_CHARACTERS.search(out)
    assert "\nthe llama" in out
    assert "\nthe sun" in out
    shown = report(out)
    assert shown["written"].startswith("6 continuations, ")
    assert {"loss", "distinct", "repetition", "copied", "by tokens seen"} <= shown.keys()
    assert "grammar" not in shown
    copied = shown["copied"].split(": ", 1)[1].strip('"')
    _, tokenizer, config = load_run(run)
    ids = open_dataset(config).prepared.train.ids
    assert copied in tokenizer.decode(ids)
    assert f"at most {len(tokenizer.encode(copied))} tokens" in shown["copied"]
    assert command(*words) == 0
    again = capsys.readouterr().out.splitlines()
    assert [line for line in again if "speed" not in line] == [line for line in out.splitlines() if "speed" not in line]


def test_the_same_prompt_twice_is_continued_once(run, capsys):
    words = ["eval", "--checkpoint", run, "--max_tokens", 9, "--sample_count", 2, "--generate", "the"]
    capsys.readouterr()
    assert command(*words) == 0
    once = report(capsys.readouterr().out)
    assert command(*words, "the") == 0
    assert {**report(capsys.readouterr().out), "speed": ""} == {**once, "speed": ""}


def test_without_prompts_new_documents_are_written(run, capsys):
    capsys.readouterr()
    assert command("eval", "--checkpoint", run, "--max_tokens", 5, "--sample_count", 2, "--generate") == 0
    assert report(capsys.readouterr().out)["written"].startswith("2 continuations")


def test_on_the_built_in_stories_the_grammar_judges_prompt_and_continuation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(llamita.corpus.story_corpus, "TRAINING_STORIES", 30)
    monkeypatch.setattr(llamita.corpus.story_corpus, "VALIDATION_STORIES", 10)
    options = {**TINY, "max_seq_len": 64, "tokenizer": "bpe", "vocab_size": 300, "max_steps": 1}
    assert command("train", *flags(**options, output_dir="run")) == 0
    story = validation_stories(0, 1)[0].text
    end = ["", "!"]
    monkeypatch.setattr("llamita.generate.generate_many", lambda *_: end)
    capsys.readouterr()
    assert command("eval", "--checkpoint", "run", "--sample_count", 2, "--generate", story) == 0
    assert report(capsys.readouterr().out)["grammar"].startswith("accepts 1 of 2 that begin ")


def test_what_is_wrong_with_prompts_and_numbers_is_told_before_anything_is_computed(run, capsys):
    assert "'Z'" in refusal(capsys, "eval", "--checkpoint", run, "--generate", "the", "Z")
    assert "--sample_count is 0" in refusal(capsys, "eval", "--checkpoint", run, "--sample_count", 0)
    assert "temperature" in refusal(capsys, "eval", "--checkpoint", run, "--generate", "the", "--temperature=-1")
