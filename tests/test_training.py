"""The loop against plain torch; gradient accumulation; and what a run writes down."""

import io
import itertools
import math
import random
import re
import shutil
import tomllib
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import (
    TINY,
    cache,
    command,
    flags,
    last_checkpoint,
    refusal,
    rows,
    runs_in,
    spy_on_gradients,
    text,
    tiny_config,
    train_words,
    training_rows,
    tree,
    write_text,
)
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import llamita.corpus.story_corpus
import llamita.train.loop
from llamita.config import GenerationConfig
from llamita.corpus.stories import validation_stories
from llamita.data import BatchOrder, open_dataset
from llamita.errors import UserError
from llamita.evaluate import Evaluation
from llamita.generate import generate_ids
from llamita.model import Llama, ModelConfig
from llamita.parallel import Processes
from llamita.train import Display, train
from llamita.train.hints import OverfittingHint, overfits
from llamita.train.run import open_run
from llamita.train.steps import evaluate

fixtures = (cache, text)
both_windows = pytest.mark.parametrize("windows", ["stream", "document"])


def gradients(text, tmp_path, monkeypatch, **options) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of the first update of a run."""
    options = {**options, "max_steps": 1, "output_dir": str(tmp_path / "-".join(map(str, options.values())))}
    with monkeypatch.context() as patch:
        seen = spy_on_gradients(patch)
        run = train(tiny_config(text, **options), Display(quiet=True))
    return training_rows(run)[0]["train_loss"], seen[0]


def assert_near(actual: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    for found, requested in zip(actual, expected, strict=True):
        assert (found - requested).abs().max() <= tolerance


@both_windows
@pytest.mark.parametrize(
    "cut", [{"micro_batch_size": 2}, {"micro_batch_size": 3}, {"batch_size": 2, "grad_accum_steps": 4}], ids=str
)
def test_micro_batches_give_the_gradients_of_the_whole_batch(text, tmp_path, monkeypatch, windows, cut):
    loss, expected = gradients(text, tmp_path, monkeypatch, windows=windows, batch_size=8)
    pieces, actual = gradients(text, tmp_path, monkeypatch, windows=windows, **{"batch_size": 8, **cut})
    assert pieces == pytest.approx(loss, abs=1e-6)
    assert_near(actual, expected, 1e-6)


@both_windows
def test_the_gradients_are_those_of_the_mean_over_all_targets_of_the_update(text, tmp_path, monkeypatch, windows):
    options = {"windows": windows, "batch_size": 8, "micro_batch_size": 2, "max_seq_len": 64}
    _, actual = gradients(text, tmp_path, monkeypatch, **options)
    model, batches = plain_run(tiny_config(text, **options))
    batch = next(batches)
    per_row = (batch.targets != -100).sum(dim=1)
    assert windows == "stream" or len(set(per_row.tolist())) > 1  # a mean of means would be something else
    plain_loss(model, batch).backward()
    assert_near(actual, [p.grad for p in model.parameters() if p.grad is not None], 1e-6)


@both_windows
def test_training_in_micro_batches_ends_with_the_weights_of_whole_batches(text, tmp_path, windows):
    cuts = {"whole": {"batch_size": 8}, "cut": {"batch_size": 8, "micro_batch_size": 2}}
    cuts["accumulated"] = {"batch_size": 2, "grad_accum_steps": 4}
    ends = {}
    for name, cut in cuts.items():
        assert command(*train_words(text, tmp_path / name, windows=windows, **cut)) == 0
        ends[name] = list(load_file(tmp_path / name / "step_00000012" / "model.safetensors").values())
    assert_near(ends["cut"], ends["whole"], 1e-5)
    assert_near(ends["accumulated"], ends["whole"], 1e-5)


def plain_loss(model, batch) -> torch.Tensor:
    return cross_entropy(model(batch.ids).flatten(0, 1), batch.targets.flatten())


def plain_run(config):
    """The model of a run at its beginning, and the batches that it learns from."""
    data = open_dataset(config)
    model = Llama(ModelConfig(**{**vars(config.model), "vocab_size": data.tokenizer.vocab_size}), config.training.seed)
    order = BatchOrder(len(data.train), config.training.batch_size, config.training.seed)
    return model, (data.train.batch(order.indices(step)) for step in itertools.count())


def plain_training(config, steps: int) -> list[float]:
    """The losses of a loop in torch's own words."""
    options = config.optimizer
    model, batches = plain_run(config)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    kept = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(options.beta1, options.beta2), eps=options.adam_eps)
    warmup = [options.learning_rate * (i + 1) / options.warmup_steps for i in range(options.warmup_steps)]
    losses = []
    for step in range(steps):
        through = (step - options.warmup_steps) / (config.training.max_steps - options.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * through)) * options.learning_rate
        for group in optimizer.param_groups:
            group["lr"] = warmup[step] if step < options.warmup_steps else cosine
        loss = plain_loss(model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.grad_clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


@both_windows
def test_the_loop_learns_what_a_plain_torch_loop_learns(text, tmp_path, windows):
    torch.set_num_threads(1)
    options = {"windows": windows, "grad_clip": 0.5, "micro_batch_size": 3, "seed": 3}
    assert command(*train_words(text, tmp_path / "run", **options)) == 0
    losses = [row["train_loss"] for row in training_rows(tmp_path / "run")]
    expected = plain_training(tiny_config(text, **options), 12)
    np.testing.assert_allclose(losses, expected, atol=1e-5, rtol=0)
    assert losses[-1] < losses[0] - 0.1


def test_training_steps_and_evaluations_are_separate_lines_with_every_field(text, tmp_path):
    began = datetime.now(UTC).replace(microsecond=0)
    assert command(*train_words(text, tmp_path / "run")) == 0
    log = llamita.train.RunDirectory(tmp_path / "run").metrics.rows()
    trained, scored = {"train_loss", "lr", "grad_norm"}, {"val_loss", "perplexity", "bits_per_byte"}
    common = {"step", "tokens", "timestamp"}
    assert all(row.keys() == {*trained, *scored, *common, "tokens_per_second"} for row in log)
    assert [(row["step"], row["val_loss"] is not None) for row in log] == [
        (0, True), *((step, scored) for step in range(1, 13) for scored in ([False] if step % 4 else [False, True]))
    ]  # fmt: skip
    for row in log:
        filled = {name for name, value in row.items() if value is not None}
        assert filled == common | (scored if row["val_loss"] is not None else {*trained, "tokens_per_second"})
        assert row["tokens"] == 64 * row["step"]
        assert datetime.fromisoformat(row["timestamp"]).tzinfo is not None
        assert began <= datetime.fromisoformat(row["timestamp"]) <= datetime.now(UTC)
        assert (row["tokens_per_second"] or 1) > 0
    assert log[0]["perplexity"] == pytest.approx(math.exp(log[0]["val_loss"]))


def test_every_evaluation_scores_the_same_windows(text, tmp_path, monkeypatch):
    scored = []
    whole = llamita.train.steps.evaluate_loss

    def spy(model, windows, lengths, indices, precision):
        scored.append(indices.tolist())
        return whole(model, windows, lengths, indices, precision)

    monkeypatch.setattr(llamita.train.steps, "evaluate_loss", spy)
    assert command(*train_words(text, tmp_path / "run", eval_sequences=5)) == 0
    assert scored == [scored[0]] * 4
    assert len(set(scored[0])) == 5


@pytest.mark.parametrize(("data", "expected"), [("text", [5] * 2), ("stories", [500] * 2)])
def test_by_default_a_part_is_scored_but_everything_if_there_is_a_loss_floor(
    text, tmp_path, monkeypatch, data, expected
):
    scored = []

    def spy(model, windows, lengths, indices, precision):
        scored.append(len(indices))
        return Evaluation(1.0, 1, 1)

    monkeypatch.setattr(llamita.train.steps, "evaluate_loss", spy)
    monkeypatch.setattr(llamita.train.steps, "EVAL_TOKENS", 70)  # of windows of 16
    options = {**TINY, "eval_sequences": "auto", "max_steps": 1}
    if data == "stories":
        options |= {"tokenizer": "bpe", "vocab_size": 300, "max_seq_len": 1000, "data": "stories", "max_documents": 20}
    else:
        options |= {"data": text}
    assert command("train", *flags(**options, output_dir=tmp_path / "run")) == 0
    assert scored == expected


@pytest.mark.parametrize("directory", [None, "here"])
def test_the_written_config_finds_its_own_finished_run_again(text, tmp_path, monkeypatch, capsys, directory):
    named = {} if directory is None else {"output_dir": directory}
    assert command("train", *flags(data=text.name, **TINY, **named)) == 0
    (run,) = [tmp_path / directory] if directory else runs_in(tmp_path / "runs")
    assert directory or run.name.startswith("text-")
    before = tree(run)
    assert command("train", "--config", run / "config.toml") == 0
    assert tree(run) == before
    assert directory or runs_in(tmp_path / "runs") == [run]


def test_the_written_config_with_another_width_is_a_run_whose_sizes_and_learning_rate_fit_it(text, tmp_path):
    options = {**TINY, "data": text, "max_steps": 1}
    del options["num_heads"], options["learning_rate"]
    assert command("train", *flags(**options, output_dir="narrow")) == 0
    words = flags(hidden_size=256, output_dir="wide")
    assert command("train", "--config", tmp_path / "narrow" / "config.toml", *words) == 0
    wide = tomllib.loads((tmp_path / "wide" / "config.toml").read_text())
    sizes = {"num_heads": 8, "num_kv_heads": 8, "head_dim": 32, "intermediate_size": 688}
    assert sizes.items() <= wide["model"].items()
    assert wide["optimizer"]["learning_rate"] == 0.75 / 256


def test_a_bpe_vocabulary_smaller_than_requested_finds_its_run_again(text, tmp_path):
    words = ["train", *flags(data=text, **{**TINY, "tokenizer": "bpe", "vocab_size": 2000})]
    assert command(*words) == 0
    (run,) = runs_in(tmp_path / "runs")
    config = tomllib.loads((run / "config.toml").read_text())
    assert 256 < config["model"]["vocab_size"] < 2000
    before = tree(run)
    assert command(*words) == 0
    assert command("train", "--config", run / "config.toml") == 0
    assert runs_in(tmp_path / "runs") == [run]
    assert tree(run) == before


def test_config_toml_has_all_settings_resolved_and_the_facts(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run", max_steps=0, epochs=1)) == 0
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    data = open_dataset(tiny_config(text))
    assert config["model"] == {**config["model"], "vocab_size": data.tokenizer.vocab_size, "intermediate_size": 48}
    assert config["model"]["num_kv_heads"] == 2
    assert config["model"]["head_init"] == "random"
    assert config["training"]["max_steps"] == math.ceil(len(data.train) / 4)
    assert config["facts"]["threads"] == 1
    assert config["facts"]["torch"] == torch.__version__
    assert "loss_floor" not in config["facts"]


def test_another_seed_or_shape_starts_another_run_and_the_same_command_finds_the_first(text, tmp_path):
    options = {**TINY, "max_steps": 1, "data": text}
    for change in ({}, {"seed": 1}, {"hidden_size": 32}, {}, {"log_every": 7}):
        assert command("train", *flags(**{**options, **change})) == 0
    assert len(runs_in(tmp_path / "runs")) == 3


def test_a_run_on_stories_knows_its_floor_and_the_cli_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(llamita.corpus.story_corpus, "TRAINING_STORIES", 200)
    monkeypatch.setattr(llamita.corpus.story_corpus, "VALIDATION_STORIES", 30)
    options = {**TINY, "max_seq_len": 512, "tokenizer": "bpe", "vocab_size": 400, "max_steps": 2, "eval_sequences": 0}
    assert command("train", *flags(**options)) == 0
    (run,) = runs_in(tmp_path / "runs")
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["model"]["head_init"] == "copy"
    data = open_dataset(llamita.config.RunConfig.from_toml(run / "config.toml"))
    targets = sum(int((data.validation.batch(np.array([i])).targets != -100).sum()) for i in range(30))
    floor = config["facts"]["loss_floor"]
    assert floor == pytest.approx(sum(story.nats for story in validation_stories(0, 30)) / targets)
    assert all(row["val_loss"] > floor for row in rows(run) if row["val_loss"] is not None)
    assert f"loss floor {floor:.4f} nats/token" in capsys.readouterr().out
    assert run.name.startswith("stories-")
    assert command("eval") == 0
    assert f"loss floor      {floor:.4f}" in capsys.readouterr().out


def test_samples_are_logged_with_their_step(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run", sample_every=5, sample_count=3)) == 0
    samples = llamita.train.RunDirectory(tmp_path / "run").samples.rows()
    assert [row["step"] for row in samples] == [0, 5, 10, 12]
    assert all(len(row["samples"]) == 3 for row in samples)
    assert all(datetime.fromisoformat(row["timestamp"]).tzinfo is not None for row in samples)


def test_samples_may_contain_any_character(tmp_path):
    log = llamita.train.RunDirectory(tmp_path).samples
    for line in ("a\u2028b\x85c", "\r\n", "\x1c", "é🙂"):
        log.append({"samples": [line]})
    assert [row["samples"][0] for row in log.rows()] == ["a\u2028b\x85c", "\r\n", "\x1c", "é🙂"]


def test_a_non_finite_loss_ends_the_run_with_one_line_and_saves_nothing(text, tmp_path, capsys):
    words = train_words(text, tmp_path / "run", learning_rate=1e30, grad_clip=0, save_every=1)
    error = refusal(capsys, *words)
    assert "training has diverged" in error
    assert "--precision fp32" not in error  # it is that already
    for weights in (tmp_path / "run").glob("step_*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(weights).values())


def test_train_can_be_called_from_python_and_returns_the_directory(text, tmp_path):
    config = tiny_config(text, output_dir=str(tmp_path / "a"))
    assert train(config, Display(quiet=True)) == tmp_path / "a"
    assert command(*train_words(text, tmp_path / "b")) == 0
    assert last_checkpoint(tmp_path / "a") == last_checkpoint(tmp_path / "b")


def test_intervals_may_be_epochs(text, tmp_path, capsys):
    options = {"max_steps": 0, "epochs": 3, "keep_last": 0, "log_every": "epoch", "sample_every": "epoch"}
    assert command(*train_words(text, tmp_path / "run", save_every="epoch", eval_every="epoch", **options)) == 0
    windows = len(open_dataset(tiny_config(text)).train)
    ends = [math.ceil(epoch * windows / 4) for epoch in (1, 2, 3)]
    assert llamita.train.RunDirectory(tmp_path / "run").steps() == ends
    assert [row["step"] for row in rows(tmp_path / "run") if row["val_loss"]] == [0, *ends]
    samples = llamita.train.RunDirectory(tmp_path / "run").samples.rows()
    assert [row["step"] for row in samples] == [0, *ends]


def test_an_invalid_interval_is_one_line(text, tmp_path, capsys):
    assert "save" in refusal(capsys, *train_words(text, tmp_path / "run", save_every="week"))


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_a_run_follows_its_schedule(text, tmp_path, schedule):
    options = {"schedule": schedule, "decay_share": 0.5}
    assert command(*train_words(text, tmp_path / "run", **options)) == 0
    found = [row["lr"] for row in training_rows(tmp_path / "run")]
    assert found[:2] == pytest.approx([5e-3, 1e-2])
    middle = [1e-2] * 4 if schedule == "constant" else [1e-2 * (12 - step) / 10 for step in range(2, 6)]
    assert found[2:6] == pytest.approx(middle)
    assert found[-1] == pytest.approx(1e-2 / (6 if schedule == "constant" else 10))


def test_finite_weights_with_non_finite_logits_are_detected_by_evaluation_and_generation(text, tmp_path):
    """Gains so large that products of what they scale overflow."""
    config = tiny_config(text, output_dir=str(tmp_path / "run"))
    with open_run(config, Processes(), Display(quiet=True)) as run:
        for name, weight in run.model.named_parameters():
            if "norm" in name:
                weight.data.fill_(3e38)
        with pytest.raises(UserError, match=r"the validation loss is .* at step 0: training has diverged"):
            evaluate(run)
        with pytest.raises(UserError, match="NaN or infinite logits: training has diverged; use an earlier checkpoint"):
            generate_ids(run.model, [[1]], GenerationConfig())


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory) -> tuple[list[str], Path, str]:
    """The command of a run that learns a few documents by heart, its directory, and what it said."""
    options = {"max_steps": 600, "eval_every": 30, "hidden_size": 64, "save_every": 30, "log_every": 30, "keep_last": 0}
    folder = tmp_path_factory.mktemp("overfitted")
    words = train_words(write_text(folder / "few.txt", documents=12), folder / "run", **options)
    with redirect_stdout(io.StringIO()) as said, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMITA_CACHE", str(folder / "cache"))
        assert command(*words) == 0
    return words, folder / "run", said.getvalue()


def test_one_hint_at_overfitting_names_the_flags_that_help(overfitted):
    _, _, said = overfitted
    assert said.count("hint: ") == 1
    assert all(flag in said for flag in ("--dropout", "--epochs", "--weight_decay", "--hidden_size"))


@pytest.mark.parametrize(
    ("scored", "is_so"),
    [
        ([(3.0, 2.0), (2.0, 2.1), (1.0, 2.2)], True),
        ([(3.0, 2.0), (2.0, 2.1)], False),
        ([(3.0, 2.0), (2.0, 2.1), (2.5, 2.2)], False),
        ([(3.0, 2.0), (2.0, 1.9), (1.0, 2.2)], False),
        ([(1.0, 2.0), (2.0, 2.1), (3.0, 2.2)], False),
    ],
)
def test_overfitting_is_validation_up_and_training_down_all_along(scored, is_so):
    assert overfits(scored) == is_so


def hints(losses: list[tuple[float, float]]) -> list[int]:
    """After which of these pairs (training loss, validation loss) the hint is given."""
    hint, given = OverfittingHint(), []
    for step, (training, validation) in enumerate(losses):
        hint.trained(training)
        if hint.evaluated(step, validation):
            given.append(step)
    return given


def test_losses_that_only_fluctuate_are_not_overfitting():
    """Noise alone, of 3 % in the training loss and 0.3 % in the validation loss."""
    rng = random.Random(0)
    assert hints([(rng.gauss(1.5, 0.045), rng.gauss(1.65, 0.005)) for _ in range(200)]) == []


def test_a_slow_rise_of_the_validation_loss_is_overfitting_once_it_is_noticeable():
    assert hints([(1.5 - 0.01 * step, 2.0 * 1.003**step) for step in range(20)]) == [7]


def test_a_resumed_run_hints_at_overfitting_where_an_undisturbed_one_does(overfitted, capsys):
    """The log says what the evaluations before the stop had found, and that the hint was given."""
    words, run, said = overfitted
    at = int(re.findall(r"step (\d+): validation", said.partition("hint: ")[0])[-1])
    for stopped, times in ((at - 30, 1), (at, 0)):  # just before the hint, and just after it
        for step in range(stopped + 30, 601, 30):
            shutil.rmtree(run / f"step_{step:08d}")
        assert command(*words) == 0
        again = capsys.readouterr().out
        assert again.count("hint: ") == times
        assert times == 0 or again[again.index("hint: ") :].splitlines()[0] in said


def test_a_run_that_ends_within_its_warmup_gets_a_warning(text, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "short", warmup_steps=48)) == 0
    said = capsys.readouterr().out
    assert "the run ends after 12 of 48 warmup steps, so the learning rate reaches only 25% of its peak" in said
    assert max(row["lr"] or 0 for row in rows(tmp_path / "short")) == pytest.approx(0.25 * TINY["learning_rate"])
    assert command(*train_words(text, tmp_path / "long", warmup_steps=12)) == 0
    assert "warning: " not in capsys.readouterr().out
