"""What a model is said to score, against sums by brute force and by hand."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import TINY, cache, command, flags, text, tiny_config, train_words, write_text
from torch.nn.functional import cross_entropy

import llamita.corpus.story_corpus
from llamita.config import ModelConfig
from llamita.data import open_dataset
from llamita.evaluate import (
    Evaluation,
    PositionLosses,
    evaluate_loss,
    evaluate_positions,
    evenly_spaced,
    unigram_entropy,
)
from llamita.evaluate import loss as loss_module
from llamita.evaluate import positions as positions_module
from llamita.model import Llama
from llamita.train import checkpoint as checkpoint_module

fixtures = (cache, text)
KINDS = [{"windows": "stream"}, {"windows": "document"}, {"windows": "document", "max_seq_len": 200}]
kinds = pytest.mark.parametrize("kind", KINDS, ids=str)


def opened(text: Path, **options):
    """Data of a tiny run, and a model for it that is sure of itself, though not right."""
    data = open_dataset(tiny_config(text, **options))
    shape = {**vars(tiny_config(text, **options).model), "vocab_size": data.tokenizer.vocab_size, "dropout": 0.5}
    model = Llama(ModelConfig(**shape))
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20)
    return data, model


def brute_force(model, windows, indices) -> tuple[float, list[int]]:
    """The nats of every target, window by window, and the targets."""
    nats, targets = 0.0, []
    for index in indices:
        batch = windows.batch(np.array([index]))
        logits = model.eval()(batch.ids)[0]
        nats += cross_entropy(logits.double(), batch.targets[0], reduction="sum").item()
        targets += [int(target) for target in batch.targets[0] if target != -100]
    return nats, targets


@kinds
@pytest.mark.parametrize("per_batch", [16, 100, 8192])
def test_the_loss_is_the_sum_over_all_windows_one_by_one(text, monkeypatch, kind, per_batch):
    monkeypatch.setattr(loss_module, "TOKENS_PER_BATCH", per_batch)
    data, model = opened(text, **kind)
    result = evaluate_loss(model.train(), data.validation, data.tokenizer.byte_lengths)
    assert model.training  # as it was
    nats, targets = brute_force(model, data.validation, range(len(data.validation)))
    assert result.nats == pytest.approx(nats, rel=1e-6)
    assert result.targets == len(targets)
    assert result.loss == pytest.approx(nats / len(targets), rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(nats / len(targets)), rel=1e-5)


@kinds
def test_some_windows_are_scored_when_some_are_named(text, kind):
    data, model = opened(text, **kind)
    indices = np.array([3, 0, 5])
    result = evaluate_loss(model, data.validation, data.tokenizer.byte_lengths, indices)
    assert result.nats == pytest.approx(brute_force(model, data.validation, indices)[0], rel=1e-6)


def test_in_a_stream_every_token_but_the_first_is_scored_once_the_remainder_too(text):
    data, model = opened(text, windows="stream")
    ids = data.prepared.validation.ids
    assert (len(ids) - 1) % 16  # there is a remainder
    _, targets = brute_force(model, data.validation, range(len(data.validation)))
    assert targets == ids[1:].tolist()


def test_of_documents_every_token_is_scored_once_the_first_and_those_beyond_the_context_too(text):
    data, model = opened(text, windows="document")
    ids = data.prepared.validation.ids
    assert len(data.validation) > data.prepared.validation.part.documents  # some are longer than the context
    _, targets = brute_force(model, data.validation, range(len(data.validation)))
    assert sorted(targets) == sorted(ids.tolist())
    assert evaluate_loss(model, data.validation, data.tokenizer.byte_lengths).targets == len(ids)


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_bits_per_byte_count_the_bytes_of_the_text_itself(tmp_path, tokenizer):
    """Documents whole in their windows: the bytes scored are those of the validation text, markers left out."""
    documents = [f"the {name} 🙂 é {name * 3}." for name in ("llama", "日本", "sun", "hill")] * 10
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{document}\n<|endoftext|>\n" for document in documents), encoding="utf-8")
    data, model = opened(path, tokenizer=tokenizer, vocab_size=300, windows="document", max_seq_len=128)
    result = evaluate_loss(model, data.validation, data.tokenizer.byte_lengths)
    held_out = sum(len(document.encode()) + 1 for document in documents[-4:])
    assert result.bytes == held_out
    assert result.bits_per_byte == pytest.approx(result.nats / math.log(2) / held_out)


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_a_token():
    result = Evaluation(nats=10 * math.log(8), targets=10, bytes=15)
    assert result.loss == pytest.approx(math.log(8))
    assert result.perplexity == pytest.approx(8)
    assert result.bits_per_byte == pytest.approx(2.0)
    assert math.isnan(Evaluation(1.0, 1, 0).bits_per_byte)


@pytest.mark.parametrize("count", [1, 2, 7, 100, 12345])
@pytest.mark.parametrize("requested", [0, 1, 2, 5, 99, 20000])
def test_spread_takes_as_many_as_requested_evenly_and_each_once(count, requested):
    indices = evenly_spaced(count, requested)
    assert len(indices) == (min(count, requested) or count)
    assert len(set(indices.tolist())) == len(indices)
    assert 0 <= indices.min() <= indices.max() < count
    if len(indices) > 1:
        gaps = np.diff(indices)
        assert gaps.max() - gaps.min() <= 1
        assert count - indices[-1] <= gaps.max() + 1


def test_unigram_entropy_is_that_of_the_frequencies():
    assert unigram_entropy(np.array([0, 1, 2, 3] * 5, dtype=np.uint16), 9) == pytest.approx(math.log(4))
    assert unigram_entropy(np.array([0, 0, 0, 1]), 2) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert unigram_entropy(np.array([5, 5]), 9) == 0
    assert unigram_entropy(np.arange(3 << 20) % 8, 8) == pytest.approx(math.log(8))


def test_the_command_scores_the_whole_validation_set_of_the_run(text, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "run", eval_sequences=2)) == 0
    capsys.readouterr()
    assert command("eval", "--checkpoint", tmp_path / "run" / "latest") == 0
    printed = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    model, _, config = llamita.train.load_run(tmp_path / "run" / "latest")
    data = open_dataset(config)
    nats, targets = brute_force(model, data.validation, range(len(data.validation)))
    assert printed["loss"] == f"{nats / len(targets):.4f} nats/token, over {len(targets):,} targets"
    assert printed["perplexity"] == f"{math.exp(nats / len(targets)):.3f}"


def test_the_command_hashes_each_file_of_its_checkpoint_once(text, tmp_path, monkeypatch):
    assert command(*train_words(text, tmp_path / "run")) == 0
    read = []
    digest = checkpoint_module._file_digest
    monkeypatch.setattr(checkpoint_module, "_file_digest", lambda file: read.append(file) or digest(file))
    assert command("eval", "--checkpoint", tmp_path / "run" / "step_00000012") == 0
    assert sorted(file.name for file in read) == ["model.safetensors", "optimizer.safetensors"]


def test_eval_refuses_text_that_has_changed_since_and_whose_tokens_are_gone(text, cache, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "run")) == 0
    write_text(text, seed=1)
    shutil.rmtree(cache)
    capsys.readouterr()
    assert command("eval", "--checkpoint", tmp_path / "run") == 2
    assert "has changed since" in capsys.readouterr().err


def test_on_stories_no_model_is_further_below_the_floor_than_chance_allows(tmp_path, monkeypatch):
    """The floor is what the stories' own grammar scores; a model trained for a while stays above it on other ones."""
    monkeypatch.setattr(llamita.corpus.story_corpus, "TRAINING_STORIES", 100)
    monkeypatch.setattr(llamita.corpus.story_corpus, "VALIDATION_STORIES", 20)
    options = {**TINY, "max_seq_len": 512, "tokenizer": "bpe", "vocab_size": 400, "max_steps": 6, "eval_sequences": 0}
    assert command("train", *flags(**options, output_dir="run")) == 0
    model, tokenizer, config = llamita.train.load_run("run")
    data = open_dataset(config)
    scored = [evaluate_loss(model, data.validation, tokenizer.byte_lengths, np.array([i])) for i in range(20)]
    assert sum(one.targets for one in scored) == data.prepared.validation.part.tokens  # stories whole in their windows
    losses = np.array([one.loss for one in scored])
    assert data.floor is not None
    assert losses.mean() >= data.floor - 4 * losses.std() / math.sqrt(len(losses))


@kinds
@pytest.mark.parametrize("per_batch", [1, 100_000])
def test_losses_by_position_are_the_sums_over_all_windows_one_by_one(text, monkeypatch, kind, per_batch):
    monkeypatch.setattr(positions_module, "LOGITS_PER_BATCH", per_batch)
    data, model = opened(text, **kind)
    found = evaluate_positions(model, data.validation, data.tokenizer.byte_lengths)
    nats, targets = np.zeros(model.config.max_seq_len), np.zeros(model.config.max_seq_len, dtype=np.int64)
    for index in range(len(data.validation)):
        batch = data.validation.batch(np.array([index]))
        losses = cross_entropy(model.eval()(batch.ids)[0].double(), batch.targets[0], reduction="none")
        nats[: len(losses)] += losses.detach().numpy()
        targets[: len(losses)] += (batch.targets[0] != -100).numpy()
    assert found.targets.tolist() == targets.tolist()
    assert found.nats == pytest.approx(nats, rel=1e-5, abs=1e-5)
    whole = evaluate_loss(model, data.validation, data.tokenizer.byte_lengths)
    assert found.total.nats == pytest.approx(whole.nats, rel=1e-6)
    assert (found.total.targets, found.total.bytes) == (whole.targets, whole.bytes)


@pytest.mark.parametrize("context", [1, 2, 3, 7, 8, 100])
def test_positions_in_groups_that_double_are_weighed_by_their_targets(context):
    rng = np.random.default_rng(context)
    nats, targets = rng.random(context), rng.integers(0, 3, context)
    groups = PositionLosses(nats * targets, targets, 0).by_doubling()
    for first, last, loss in groups:
        seen = slice(first - 1, last)
        assert loss == pytest.approx((nats * targets)[seen].sum() / targets[seen].sum())
    covered = {seen for first, last, _ in groups for seen in range(first, last + 1)}
    assert {int(p) + 1 for p in np.flatnonzero(targets)} <= covered
    assert all(last <= min(2 * first - 1, context) for first, last, _ in groups)


def test_a_position_without_targets_has_no_loss():
    means = PositionLosses(np.array([2.0, 0.0]), np.array([4, 0]), 0).means()
    assert means[0] == 0.5
    assert math.isnan(means[1])


@kinds
def test_progress_counts_the_windows_up_to_all_of_them(text, monkeypatch, kind):
    monkeypatch.setattr(positions_module, "LOGITS_PER_BATCH", 500)
    data, model = opened(text, **kind)
    seen = []
    evaluate_positions(
        model, data.validation, data.tokenizer.byte_lengths, progress=lambda done, total: seen.append((done, total))
    )
    counts = [done for done, _ in seen]
    assert counts == sorted(set(counts))
    assert len(counts) > 1
    assert seen[-1] == (len(data.validation), len(data.validation))
