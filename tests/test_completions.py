"""`llamita generate`: several continuations, prompts from a file, JSON lines, stop strings."""

import json
import math

import pytest
import torch
from runs import cache, command, refusal, said, text, train_words

from llamita.train import load_run

fixtures = (cache, text)
SHORT = ["--max_new_tokens", 4, "--temperature", 1.5]


@pytest.fixture
def run(text, tmp_path):
    """A finished run with characters and a context of 16."""
    assert command(*train_words(text, tmp_path / "run", max_steps=2)) == 0
    return tmp_path / "run"


def rows(capsys, *words) -> list[dict]:
    out, error = said(capsys, *words, "--json")
    assert error == ""
    assert out.endswith("\n")
    return [json.loads(line) for line in out.splitlines()]


def test_samples_are_printed_one_after_another_and_differ(run, capsys):
    out, error = said(capsys, run, "the", "--num_samples", 3, *SHORT)
    texts = out.removesuffix("\n").split("\n\nthe")
    assert error == ""
    assert len(texts) == 3
    assert len(set(texts)) == 3


def test_json_lines_have_prompt_text_ids_and_finish_reason_in_order(run, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_bytes(b"the\r\n\nthe llama\n")
    found = rows(capsys, run, "--prompts_file", tmp_path / "prompts.txt", "--num_samples", 2, *SHORT)
    assert [row["prompt"] for row in found] == ["the", "the", "", "", "the llama", "the llama"]
    _, tokenizer, _ = load_run(run)
    for row in found:
        assert list(row) == ["prompt", "text", "ids", "finish_reason"]
        ends = row["ids"][-1] == tokenizer.end_id
        assert row["text"] == tokenizer.decode(row["ids"][:-1] if ends else row["ids"])
        assert row["finish_reason"] == ("stop" if ends else "length")
        assert ends or len(row["ids"]) == 4


def test_the_text_in_json_is_the_one_that_is_printed(run, capsys):
    words = (run, "the", "--seed", 5, *SHORT)
    (row,) = rows(capsys, *words)
    assert said(capsys, *words)[0] == f"the{row['text']}\n"


def test_logprobs_are_those_of_the_model(run, capsys):
    (row,) = rows(capsys, run, "the", *SHORT, "--logprobs", 2, "--prompt_logprobs")
    model, tokenizer, _ = load_run(run)
    ids = [tokenizer.start_id, *tokenizer.encode("the"), *row["ids"]]
    with torch.no_grad():
        expected = model.eval()(torch.tensor([ids]))[0].log_softmax(dim=-1)
    assert row["prompt_logprobs"][0] is None
    scored = [*row["prompt_logprobs"][1:], *row["logprobs"]]
    assert [token["id"] for token in scored] == ids[1:]
    for token, distribution in zip(scored, expected, strict=False):
        assert token["token"] == tokenizer.decode([token["id"]])
        assert token["logprob"] == pytest.approx(distribution[token["id"]].item(), abs=1e-4)
        assert [other["logprob"] for other in token["top"]] == pytest.approx(
            distribution.topk(2).values.tolist(), abs=1e-4
        )


def test_a_stop_string_ends_each_text_and_may_be_repeated_before_the_prompt(run, capsys):
    free = rows(capsys, run, "the", "--num_samples", 4, "--max_new_tokens", 12)
    stops = [free[0]["text"][3], free[1]["text"][5]]
    words = ["--stop", stops[0], "--stop", stops[1]]
    found = rows(capsys, *words, run, "the", "--num_samples", 4, "--max_new_tokens", 12)
    for stopped, whole in zip(found, free, strict=True):
        places = [whole["text"].index(stop) for stop in stops if stop in whole["text"]]
        assert stopped["text"] == whole["text"][: min(places, default=None)]
        assert stopped["finish_reason"] == ("stop" if places else whole["finish_reason"])


def test_a_bias_of_a_token_is_a_flag(run, capsys):
    _, tokenizer, _ = load_run(run)
    (token,) = tokenizer.encode("l")
    assert said(capsys, run, "the", *SHORT, "--logit_bias", token, 1000)[0] == "thellll\n"


def test_a_full_context_is_noted_once(run, capsys):
    out, error = said(capsys, run, "the", "--num_samples", 2, "--max_new_tokens", 60)
    assert out.count("the") >= 2
    assert error.count("note: ") == 1
    assert error == "note: the context of 16 tokens is full: its first half is dropped, and the text continues\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["the", "--num_samples", 0], "--num_samples is 0, but must be above 0"),
        (["the", "--logprobs", 2], "need --json"),
        (["the", "--json", "--logprobs", -1], "logprobs is -1"),
        (["the", "--stop", ""], "stop is empty text"),
        (["the", "--min_p", 2], "min_p is 2.0"),
        (["the", "--presence_penalty", "nan"], "presence_penalty is nan"),
        (["the", "--logit_bias", 9999, 1], "logit_bias names token 9999"),
        (["the", "--prompts_file", "prompts.txt"], "exclude each other"),
        (["--prompts_file", "nothing.txt"], "nothing.txt: cannot be read"),
        (["--prompts_file", "empty.txt"], "empty.txt is empty: write a prompt on each line"),
        (["--prompts_file", "binary.txt"], "not UTF-8 text, at byte 1"),
        (["--prompts_file", "prompts.txt"], "'Z'"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, words, named):
    (tmp_path / "prompts.txt").write_text("the\nZ\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"a\xff")
    assert named in refusal(capsys, "generate", "--checkpoint", run, *words)


def test_numbers_in_json_are_finite(run, capsys):
    (row,) = rows(capsys, run, "the", *SHORT, "--logprobs", 9999)
    values = [other["logprob"] for token in row["logprobs"] for other in token["top"]]
    assert all(math.isfinite(value) and value <= 0 for value in values)
