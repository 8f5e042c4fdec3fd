"""Sampling and decoding against Hugging Face's, and generation as a whole."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from runs import cache, command, refusal, text, train_words
from test_model import enlarge, hugging_face
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llamita.config import GenerationConfig
from llamita.errors import UserError
from llamita.generate import (
    generate,
    generate_ids,
    generate_many,
    penalize_repetition,
    printable,
    sample_logits,
    stream,
)
from llamita.generate.engine import decode_step, prefill
from llamita.generate.sampling import Sampler
from llamita.model import KVCache, Llama, ModelConfig
from llamita.tokenizer import BPETokenizer, CharTokenizer

fixtures = (cache, text)
GREEDY = {"temperature": 0.0, "top_k": 0}
SETTINGS = [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.3, 0, 0.8), (0.8, 9, 0.5), (2.0, 1, 1.0), (1.0, 0, 1e-9), (1.0, 500, 1.0)]
settings = pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)


def drawn_logits(rows: int = 8, vocab_size: int = 30) -> torch.Tensor:
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(1)) * 3


def warped(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """The probabilities that Hugging Face draws from."""
    logits = TemperatureLogitsWarper(temperature)(None, logits.double())
    if top_k:
        logits = TopKLogitsWarper(top_k)(None, logits)
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    return logits.softmax(dim=-1)


def shares(logits: torch.Tensor, draws: int, **options) -> torch.Tensor:
    """How often each token comes, over numbers spread evenly through [0, 1): exact to 1 / draws."""
    uniform = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    counts = torch.zeros(logits.shape, dtype=torch.float64)
    for row in range(len(logits)):
        ids = sample_logits(logits[row].expand(draws, -1), uniform=uniform, **options)
        counts[row] = torch.bincount(ids, minlength=logits.shape[1])
    return counts / draws


@settings
def test_tokens_come_as_often_as_hugging_face_draws_them(temperature, top_k, top_p):
    logits = drawn_logits()
    actual = shares(logits, 10_000, temperature=temperature, top_k=top_k, top_p=top_p)
    expected = warped(logits, temperature, top_k, top_p)
    assert (actual - expected).abs().max() <= 1.5e-4
    assert torch.equal(actual > 0, actual * (expected > 0) > 0)


@settings
@pytest.mark.parametrize("edge", [0.0, 1 - 2**-53, 1 - 2**-24, 1.0])
def test_at_the_edges_of_the_draw_no_token_of_probability_zero_comes(temperature, top_k, top_p, edge):
    logits = drawn_logits()
    logits[:, ::3] = -torch.inf
    uniform = torch.full((len(logits),), edge, dtype=torch.float64)
    ids = sample_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p, uniform=uniform)
    chosen = warped(logits, temperature, top_k, top_p).gather(1, ids.unsqueeze(1))
    assert (chosen > 0).all()


@pytest.mark.parametrize("top_k", [1, 3, 40, 99, 100, 1000])
@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_ties_are_broken_by_the_smaller_id(top_k, levels):
    """With a few levels most tokens are as likely as others; a full sort in plain Python says which are kept."""
    logits = torch.randint(levels, (5, 100), generator=torch.Generator().manual_seed(0)).float() / levels
    for place in (0.0, 0.3137, 0.999999):
        found = sample_logits(logits, temperature=1.0, top_k=top_k, uniform=torch.full((5,), place))
        for row, token in zip(logits.double().softmax(-1).tolist(), found.tolist(), strict=True):
            kept = sorted(range(100), key=lambda id, row=row: (-row[id], id))[:top_k]
            requested, total = place * sum(row[id] for id in kept), 0.0
            for id in kept:
                total += row[id]
                if total > requested:
                    break
            assert token == id


def test_without_given_randomness_torchs_generator_draws_the_distribution():
    torch.manual_seed(0)
    logits = drawn_logits(1)
    ids = sample_logits(logits.expand(20_000, -1), temperature=1.0, top_k=0)
    expected = logits.double().softmax(dim=-1)[0] * 20_000
    observed = torch.bincount(ids, minlength=30)
    common = expected >= 5
    chi_square = ((observed - expected) ** 2 / expected)[common].sum().item()
    assert chi_square < 3 * common.sum()  # far beyond the 99.99th percentile for 10 to 30 cells


def test_temperature_0_and_tiny_temperatures_are_greedy():
    logits = drawn_logits()
    assert torch.equal(sample_logits(logits, temperature=0), logits.argmax(dim=-1))
    assert torch.equal(sample_logits(logits, temperature=1e-6), logits.argmax(dim=-1))


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_the_repetition_penalty_is_hugging_faces(penalty):
    logits, ids = drawn_logits(4), torch.randint(30, (4, 9), generator=torch.Generator().manual_seed(2))
    seen = torch.zeros(4, 30, dtype=torch.bool).scatter_(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    torch.testing.assert_close(penalize_repetition(logits, seen, penalty), expected)


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
    steps = list(generate_ids(model, prompts, GenerationConfig(**options), end_id))
    return [[token for token in row if token is not None] for row in zip(*steps, strict=True)]


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
    (actual,) = written(model, [[3, 4, 5]], max_new_tokens=30, **GREEDY)
    row, expected = [3, 4, 5][-context:], []
    while len(expected) < 30:  # without any cache
        expected.append(theirs(torch.tensor([row])).logits[0, -1].argmax().item())
        row.append(expected[-1])
        if len(row) > context:
            row = row[-max(context // 2, 1) :]
    assert actual == expected


def test_a_prompt_longer_than_the_context_counts_by_its_end():
    model, _ = twins(max_seq_len=8)
    prompt = torch.randint(23, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    assert written(model, [prompt], **GREEDY) == written(model, [prompt[-8:]], **GREEDY)


class CountingHead(torch.nn.Module):
    """A head that notes how many hidden states it is given."""

    def __init__(self, head: torch.nn.Module):
        super().__init__()
        self.head, self.weight, self.rows = head, head.weight, []

    def forward(self, hidden: torch.Tensor, *arguments) -> torch.Tensor:
        self.rows.append(hidden.shape[:-1].numel())
        return self.head(hidden, *arguments)


def test_the_head_computes_logits_after_the_last_token_of_each_slot_only():
    model, _ = twins()
    model.lm_head = CountingHead(model.lm_head)
    written(model, PROMPTS, max_new_tokens=38, **GREEDY)  # the longest prompt has 9 tokens, the context 40
    assert model.lm_head.rows == [len(PROMPTS)] * 38


def test_prefill_and_decode_steps_find_the_logits_of_a_pass_without_a_cache():
    model, _ = twins()
    cache = KVCache(model.config, len(PROMPTS), 20)
    appended = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    for _ in range(2):  # the second time, the slots are taken
        steps = [prefill(model, cache, PROMPTS), *(decode_step(model, cache, ids) for ids in appended)]
        for slot, prompt in enumerate(PROMPTS):
            for count, logits in enumerate(steps):
                row = torch.tensor([[*prompt, *appended[:count, slot].tolist()]])
                torch.testing.assert_close(logits[slot], model(row)[0, -1], rtol=1e-4, atol=1e-4)


def test_a_slot_draws_by_its_own_number_whatever_the_others_are():
    logits, config = drawn_logits(), GenerationConfig(temperature=1.5, top_k=0, seed=3)
    together, alone = Sampler([[1]] * 8, 30, config), Sampler([[1]], 30, config)
    for _ in range(5):
        assert together(logits)[:1].tolist() == alone(logits[:1]).tolist()


CHARACTERS = CharTokenizer("abcdefgh, é🙂日")


def talker(tokenizer, **changes) -> Llama:
    model, _ = twins(vocab_size=tokenizer.vocab_size, **changes)
    return model


@pytest.fixture(scope="module")
def byte_tokenizer() -> BPETokenizer:
    """256 bytes: every character beyond ASCII takes several tokens."""
    return BPETokenizer({i: bytes([i]) for i in range(256)}, [], ["<|endoftext|>"])


@pytest.mark.parametrize("seed", range(6))
def test_streamed_pieces_are_whole_characters_and_join_to_the_text(byte_tokenizer, monkeypatch, seed):
    spoken = "né 🙂日本 a\u0301" * 2
    ids = [*byte_tokenizer.encode(spoken), *np.random.default_rng(seed).integers(128, 256, 12).tolist()]
    monkeypatch.setattr("llamita.generate.text.generate_ids", lambda *_: iter([[token] for token in ids]))
    pieces = list(stream(talker(byte_tokenizer), byte_tokenizer, "", GenerationConfig()))
    assert "".join(pieces) == byte_tokenizer.decode(ids)
    assert "".join(pieces).startswith(spoken)
    assert pieces[: len(spoken)] == list(spoken)


@pytest.mark.parametrize("prompt", ["", "abc", "é"])
def test_streaming_generating_and_generating_many_write_the_same(prompt):
    model = talker(CHARACTERS)
    options = {"max_new_tokens": 30, "temperature": 1.2, "seed": 4}
    whole = generate(model, CHARACTERS, prompt, **options)
    assert "".join(stream(model, CHARACTERS, prompt, GenerationConfig(**options))) == whole
    assert generate_many(model, CHARACTERS, [prompt], GenerationConfig(**options)) == [whole]
    assert "<|endoftext|>" not in whole


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"max_new_tokens": 0}], ids=str
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


def said(capsys, *words) -> tuple[str, str]:
    capsys.readouterr()
    assert command("generate", *words) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_the_command_repeats_the_prompt_and_generates_the_same_for_the_same_seed(run, capsys):
    words = ("the llama", "--checkpoint", run, "--max_new_tokens", "30", "--temperature", "1.2")
    first, again, other = (said(capsys, *words, "--seed", seed)[0] for seed in (1, 1, 2))
    assert first == again != other
    assert first.startswith("the llama")
    assert len(first) > len("the llama\n")


def test_a_prompt_longer_than_the_context_is_noted_on_stderr(run, capsys):
    out, error = said(capsys, "the llama ran to the hill and ate", "--checkpoint", run, "--max_new_tokens", 5)
    assert out.startswith("the llama ran to the hill and ate")
    assert error == "note: the prompt has 34 tokens, the context 16: only the last 16 are used\n"


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
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(words, capture_output=True, env=environment, input="é日 é日 é日".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"?? ?? ??")


TINY_AND_HUGE = [5e-324, 1e-308, 1e-45, 1e-6, 1e6, 1e38, 1e39, 1.7e308]


@pytest.mark.parametrize("setting", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", TINY_AND_HUGE)
@pytest.mark.parametrize("more", [{}, {"top_k": 1}, {"top_p": 1e-308}, {"repetition_penalty": 1e-308}, GREEDY], ids=str)
def test_extreme_settings_sample_a_token_that_they_allow(setting, value, more):
    if setting == "top_p" and value > 1:
        return
    config = GenerationConfig(**{"max_new_tokens": 30, **more, setting: value})
    logits = torch.tensor([[3.0, -2.0, 0.0, 50.0, -80.0, 3.4e38, -3.4e38], [0.0] * 7, [-1e-38] * 7, [1e-44] * 7])
    sampler = Sampler([[0, 3], [1], [2, 2], [5, 6]], 7, config)
    for _ in range(20):
        ids = sampler(logits)
        assert ((ids >= 0) & (ids < 7)).all()


def test_the_smallest_temperature_and_top_p_are_greedy_decoding_and_the_largest_temperature_is_uniform():
    logits = drawn_logits()
    for options in ({"temperature": 5e-324}, {"temperature": 1e-308}, {"top_p": 5e-324}, {"top_p": 1e-308, "top_k": 3}):
        assert torch.equal(sample_logits(logits, **{"top_k": 0, **options}), logits.argmax(dim=-1))
    flat = shares(logits[:2], 3000, temperature=1.7e308, top_k=0)
    assert (flat - 1 / 30).abs().max() < 1e-3


def test_the_smallest_penalty_makes_a_likely_token_that_occurred_certain():
    sampler = Sampler([[4]], 6, GenerationConfig(repetition_penalty=1e-308, temperature=1.0))
    assert sampler(torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, -1.0]])).tolist() == [4]


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
