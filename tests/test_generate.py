"""Decoding against Hugging Face's, text in pieces, and `llamita generate` as a whole."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from runs import cache, command, refusal, said, text, train_words
from test_model import enlarge, hugging_face

from llamita.config import GenerationConfig
from llamita.errors import UserError
from llamita.generate import (
    Detokenizer,
    complete,
    generate,
    generate_ids,
    generate_many,
    printable,
    prompt_ids,
    stream,
)
from llamita.model import Llama, ModelConfig
from llamita.tokenizer import BPETokenizer, CharTokenizer

fixtures = (cache, text)
GREEDY = {"temperature": 0.0, "top_k": 0}


def twins(seed: int = 0, **changes):
    """A model of ours and Hugging Face's with the same weights, sharp as trained ones."""
    shape = {"vocab_size": 23, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "max_seq_len": 40}
    ours = Llama(ModelConfig(**{**shape, **changes})).eval()
    torch.manual_seed(seed)
    enlarge(ours)
    theirs = hugging_face(ours.config)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.tie_weights()
    return ours, theirs


def written(model, prompts, end_id=None, **options) -> list[list[int]]:
    """The continuation of each prompt, the end token included."""
    return generate_ids(model, prompts, GenerationConfig(**options), end_id)


PROMPTS = [[3], [1, 2, 3, 4, 5, 6, 7, 8, 9], [7, 7], [20, 1, 4, 9]]


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_decoding_of_a_batch_of_different_lengths_is_hugging_faces(penalty):
    ours, theirs = twins()
    actual = written(ours, PROMPTS, max_new_tokens=25, repetition_penalty=penalty, **GREEDY)
    options = {"max_new_tokens": 25, "do_sample": False, "repetition_penalty": penalty, "eos_token_id": None}
    for prompt, mine in zip(PROMPTS, actual, strict=True):
        expected = theirs.generate(torch.tensor([prompt]), pad_token_id=0, **options)
        assert mine == expected[0, len(prompt) :].tolist()
    assert len({tuple(row) for row in actual}) > 1


def test_a_row_ends_at_its_end_token_and_the_others_continue():
    model, _ = twins()
    free = written(model, PROMPTS, max_new_tokens=20, **GREEDY)
    end = free[1][4]
    stopped = written(model, PROMPTS, end_id=end, max_new_tokens=20, **GREEDY)
    assert stopped == [row[: row.index(end) + 1] if end in row else row for row in free]


def test_decoding_stops_when_all_rows_have_ended():
    model, _ = twins()
    first = written(model, [[3]], max_new_tokens=1, **GREEDY)[0][0]
    assert written(model, [[3]], end_id=first, max_new_tokens=20, **GREEDY) == [[first]]


def test_the_same_seed_draws_the_same_and_another_seed_something_else():
    model, _ = twins()
    draw = [written(model, PROMPTS, max_new_tokens=15, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


def test_rows_of_the_same_prompt_draw_differently():
    model, _ = twins()
    assert len({tuple(row) for row in written(model, [[3]] * 4, max_new_tokens=15, temperature=1.5)}) == 4


@pytest.mark.parametrize("context", [1, 2, 5, 8])
def test_beyond_the_context_decoding_continues_after_a_prefill_of_the_last_half(context):
    model, theirs = twins(max_seq_len=context)
    prompt = [3, 4, 5][-context:]
    (actual,) = written(model, [prompt], max_new_tokens=30, **GREEDY)
    row, expected = list(prompt), []
    while len(expected) < 30:  # without any cache
        expected.append(theirs(torch.tensor([row])).logits[0, -1].argmax().item())
        row.append(expected[-1])
        if len(row) > context:
            row = row[-max(context // 2, 1) :]
    assert actual == expected


CHARACTERS = CharTokenizer("abcdefgh, é🙂日")


def talker(tokenizer, **changes) -> Llama:
    model, _ = twins(vocab_size=tokenizer.vocab_size, **changes)
    return model


@pytest.fixture(scope="module")
def byte_tokenizer() -> BPETokenizer:
    """256 bytes: every character beyond ASCII takes several tokens."""
    return BPETokenizer({i: bytes([i]) for i in range(256)}, [], ["<|endoftext|>"])


@pytest.mark.parametrize("seed", range(6))
def test_pieces_are_whole_characters_and_join_to_the_text(byte_tokenizer, seed):
    spoken = "né 🙂日本 a\u0301" * 2
    ids = [*byte_tokenizer.encode(spoken), *np.random.default_rng(seed).integers(128, 256, 12).tolist()]
    detokenizer = Detokenizer(byte_tokenizer)
    pieces = [*(detokenizer.push(token) for token in ids), detokenizer.flush()]
    assert "".join(pieces) == byte_tokenizer.decode(ids)
    assert [piece for piece in pieces if piece][: len(spoken)] == list(spoken)


def pieces_of(text: str, stop: tuple[str, ...], tokenizer: BPETokenizer) -> tuple[str, int]:
    """(text up to a stop string, bytes pushed), of bytes that are pushed one by one."""
    detokenizer, written, ids = Detokenizer(tokenizer, stop), "", tokenizer.encode(text)
    for count, token in enumerate(ids, 1):
        written += detokenizer.push(token)
        possible = tokenizer.decode(ids[:count])
        assert possible.startswith(written) or "\ufffd" in possible
        assert not any(name in written for name in stop)
        if detokenizer.has_stopped:
            return written, count
    return written + detokenizer.flush(), len(ids)


@pytest.mark.parametrize("stop", [("b",), ("ab", "ba"), ("aab", "é"), ("aaa", "abab"), ("日é", "é🙂"), ("abcde",), ()])
@pytest.mark.parametrize("seed", range(5))
def test_text_ends_before_the_first_stop_string_wherever_its_bytes_are_split(byte_tokenizer, stop, seed):
    for number in range(8):
        spoken = "".join(np.random.default_rng([seed, number]).choice(list("aabé日🙂"), 12))
        written, count = pieces_of(spoken, stop, byte_tokenizer)
        ends = [spoken.index(name) + len(name) for name in stop if name in spoken]
        said = spoken[: min(ends, default=len(spoken))]  # the stop string that is complete first ends the text
        starts = [said.index(name) for name in stop if name in said]
        assert written == said[: min(starts, default=len(said))]
        assert count == len(said.encode())


def test_text_that_cannot_begin_a_stop_string_is_not_held_back(byte_tokenizer):
    detokenizer = Detokenizer(byte_tokenizer, ("END", "\n\n"))
    pushed = [detokenizer.push(token) for token in byte_tokenizer.encode("a EN\nb")]
    assert pushed == ["a", " ", "", "", "EN", "\nb"]


def test_special_tokens_amid_text_are_spelled_out(byte_tokenizer):
    detokenizer, ids = Detokenizer(byte_tokenizer), [97, 256, 98]
    assert "".join(detokenizer.push(token) for token in ids) == byte_tokenizer.decode(ids) == "a<|endoftext|>b"


def test_a_stop_string_ends_the_text_and_not_the_ids_and_the_others_continue():
    model = talker(CHARACTERS)
    settings = {"max_new_tokens": 30, "temperature": 1.2, "seed": 4}
    free = complete(model, CHARACTERS, ["a"], GenerationConfig(**settings), choices=3)
    stop = free[0].text[7:9]
    found = complete(model, CHARACTERS, ["a"], GenerationConfig(**settings, stop=(stop,)), choices=3)
    for stopped, whole in zip(found, free, strict=True):
        assert stopped.text == whole.text.partition(stop)[0]
        assert stopped.finish_reason == ("stop" if stop in whole.text else whole.finish_reason)
        assert stopped.ids == whole.ids[: len(stopped.ids)]
    assert CHARACTERS.decode(found[0].ids).endswith(stop)


def test_choices_come_in_the_order_of_the_prompts_and_differ():
    model, config = talker(CHARACTERS), GenerationConfig(max_new_tokens=20, temperature=1.3, top_k=0)
    found = complete(model, CHARACTERS, ["a", "b", "a"], config, choices=7)
    assert [(sequence.index, sequence.choice) for sequence in found] == [(i, c) for i in range(3) for c in range(7)]
    assert [sequence.prompt for sequence in found] == [prompt_ids(CHARACTERS, p) for p in "aba" for _ in range(7)]
    assert len({sequence.text for sequence in found}) == 21
    assert generate_many(model, CHARACTERS, ["a", [*prompt_ids(CHARACTERS, "b")]], config)[0] == found[0].text


def test_without_sliding_a_full_context_ends_with_length():
    model, config = talker(CHARACTERS), GenerationConfig(max_new_tokens=300, temperature=1.3, logit_bias=((0, 50.0),))
    (ended,) = complete(model, CHARACTERS, ["a"], config, slides=False)
    assert (ended.finish_reason, len(ended.ids), ended.num_slides) == ("length", 40 - 1, 0)
    (slid,) = complete(model, CHARACTERS, ["a"], config)
    assert (slid.finish_reason, len(slid.ids)) == ("length", 300)
    assert slid.num_slides > 5


def test_a_prompt_longer_than_the_context_is_refused():
    model = talker(CHARACTERS)
    for write in (generate, lambda *words: generate_many(*words[:2], [words[2]], GenerationConfig())):
        with pytest.raises(UserError, match="the prompt has 42 tokens, the context 40: shorten"):
            write(model, CHARACTERS, "a" * 41)


@pytest.mark.parametrize("prompt", ["", "abc", "é"])
def test_streaming_generating_and_generating_many_write_the_same(prompt):
    model = talker(CHARACTERS)
    options = {"max_new_tokens": 30, "temperature": 1.2, "seed": 4}
    whole = generate(model, CHARACTERS, prompt, **options)
    assert "".join(stream(model, CHARACTERS, prompt, GenerationConfig(**options))) == whole
    assert generate_many(model, CHARACTERS, [prompt], GenerationConfig(**options)) == [whole]
    assert "<|endoftext|>" not in whole


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"presence_penalty": float("nan")},
        {"frequency_penalty": float("inf")},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((1, float("inf")),)},
        {"logit_bias": ((999, 1.0),)},
        {"stop": ("a", "")},
        {"stop_token_ids": (-3,)},
        {"logprobs": -1},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(options):
    with pytest.raises(UserError, match=next(iter(options))):
        generate(talker(CHARACTERS), CHARACTERS, "a", **options)


def test_the_token_that_begins_a_document_is_no_repetition_at_its_end():
    """However strong the penalty, a document may end; Hugging Face's penalty would count the token that began it."""
    model = talker(CHARACTERS)
    end = CHARACTERS.end_id
    options = {"max_new_tokens": 40, "repetition_penalty": 50.0, **GREEDY}
    (mine,) = written(model, [[end]], end, **options)
    row = [end]
    while len(row) <= 40 and (len(row) == 1 or row[-1] != end):
        logits = model(torch.tensor([row]))[0, -1]
        seen = sorted(set(row[1:]))
        logits[seen] = torch.where(logits[seen] > 0, logits[seen] / 50, logits[seen] * 50)
        row.append(int(logits.argmax()))
    assert mine == row[1:]
    assert mine[-1] == end


@pytest.mark.parametrize("text", ["a\tb\nc", "日本\u3000語", "né\u00a0e\u0301", "👩\u200d👧", "\u00ad"])
def test_what_is_text_is_printed_as_it_is(text):
    assert printable(text) == text


def test_control_characters_are_not_printed():
    assert printable("a\x1b[2Jb\x07\r\x7f\x9b") == "a\ufffd[2Jb" + 4 * "\ufffd"


@pytest.fixture
def run(text, tmp_path):
    """A finished run with characters."""
    assert command(*train_words(text, tmp_path / "run")) == 0
    return tmp_path / "run"


def test_the_command_repeats_the_prompt_and_generates_the_same_for_the_same_seed(run, capsys):
    words = ("the llama", "--checkpoint", run, "--max_new_tokens", "30", "--temperature", "1.2")
    first, again, other = (said(capsys, *words, "--seed", seed)[0] for seed in (1, 1, 2))
    assert first == again != other
    assert first.startswith("the llama")
    assert len(first) > len("the llama\n")


def test_a_prompt_longer_than_the_context_is_noted_on_stderr(run, capsys):
    out, error = said(capsys, "the llama ran to the hill and ate", "--checkpoint", run, "--max_new_tokens", 5)
    assert out.startswith("the llama ran to the hill and ate")
    assert error.splitlines()[0] == "note: the prompt has 34 tokens, the context 16: only the last 16 are used"


def test_a_character_that_the_model_never_saw_is_refused_and_named(run, capsys):
    assert "'Z' 'é'" in refusal(capsys, "generate", "the Zé", "--checkpoint", run)


def test_the_last_trained_run_is_taken_when_none_is_named(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "mine")
    assert said(capsys, "the")[0].startswith("the")


def test_an_ascii_pipe_gets_a_question_mark_for_other_characters(tmp_path):
    (tmp_path / "text.txt").write_text("é日 " * 500, encoding="utf-8")
    assert command(*train_words(tmp_path / "text.txt", tmp_path / "run")) == 0
    call = "from llamita.cli.main import main; main()"
    words = [sys.executable, "-X", "utf8=0", "-c", call, "generate", "--checkpoint", str(tmp_path / "run")]
    words += ["--max_new_tokens", "5"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(words, capture_output=True, env=environment, input="é日 é日 é日".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"?? ?? ??")


@pytest.mark.parametrize("setting", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1e-308"])
def test_settings_that_are_nan_or_negative_are_refused(run, capsys, setting, value):
    assert f"{setting} is {float(value)}" in refusal(
        capsys, "generate", "the", "--checkpoint", run, f"--{setting}", value
    )


@pytest.mark.parametrize("setting", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", ["1e-308", "5e-324", "1"])
def test_the_command_takes_the_smallest_settings(run, capsys, setting, value):
    assert said(capsys, "the", "--checkpoint", run, f"--{setting}", value, "--max_tokens", 20)[0].startswith("the")


def test_huge_whole_numbers_are_fine_where_they_only_limit(run, capsys):
    words = ("the", "--checkpoint", run, "--top_k", "1e30", "--seed", "1e30", "--max_tokens", "5")
    assert said(capsys, *words)[0].startswith("the")
