"""`llamita ablate`: variants, pairs, comparisons, and the command."""

import json
import os
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from runs import TINY, cache, command, flags, refusal, rows, text, tiny_config, tree

import llamita.corpus.story_corpus
from llamita.config import ModelConfig, RunConfig, default_learning_rate, replace
from llamita.corpus.stories import validation_stories
from llamita.data import open_dataset
from llamita.errors import UserError
from llamita.evaluate import evaluate_loss
from llamita.experiments import Ablation, PlannedRun, Result
from llamita.experiments.ablation import Group, parse_grid
from llamita.experiments.ablation_report import verdict, width_changes
from llamita.experiments.comparison import Comparison, compare, curve, gradient_spikes, pair_differences, spikes
from llamita.experiments.result import Outcome
from llamita.experiments.statistics import paired_difference
from llamita.experiments.variants import LADDERS, VARIANTS
from llamita.experiments.word_kinds import ExactLosses, grouped_loss, kinds_of_tokens
from llamita.model import Llama
from llamita.planning import count_parameters

fixtures = (cache, text)
BASE = ModelConfig(vocab_size=100, hidden_size=64, num_layers=2, num_heads=4, max_seq_len=32)
GROUPED = replace(RunConfig(model=BASE), num_kv_heads=2).model
"""A base that the variants mqa and mha both change."""


def varied(name: str, base: ModelConfig = BASE) -> ModelConfig:
    return replace(RunConfig(model=base), **VARIANTS[name].settings(base)).model


@pytest.fixture
def few_stories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamita.corpus.story_corpus, "TRAINING_STORIES", 60)
    monkeypatch.setattr(llamita.corpus.story_corpus, "VALIDATION_STORIES", 10)


# --- Variants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_starts_with_the_baselines_values_of_all_parameters_in_common(name):
    base = GROUPED if name in ("mqa", "mha") else BASE
    here, there = (dict(Llama(config, seed=3).named_parameters()) for config in (base, varied(name, base)))
    common = [key for key in here if key in there and here[key].shape == there[key].shape]
    assert "model.embed_tokens.weight" in common
    assert all((here[key] == there[key]).all() for key in common)
    assert varied(name, base) != base


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_says_what_it_tests_in_one_sentence_with_a_paper(name):
    tests = VARIANTS[name].tests
    assert tests.endswith(".")
    assert ". " not in tests.replace("et al. ", "")
    assert "20" in tests or "19" in tests


@pytest.mark.parametrize("name", ["gelu", "relu2"])
@pytest.mark.parametrize("width", [64, 96, 128])
def test_a_plain_feed_forward_layer_has_as_many_weights_as_the_gated_one(name, width):
    base = replace(RunConfig(model=BASE), hidden_size=width).model
    assert count_parameters(varied(name, base)) == count_parameters(base)


def test_swiglu_in_place_of_gelu_has_as_many_weights():
    base = RunConfig(model=replace(RunConfig(model=BASE), mlp="gelu").model)
    groups = Ablation(base, grid={"mlp": ["gelu", "swiglu"]}).groups()
    sizes = [sum(count_parameters(replace(base, **group.settings).model).values()) for group in groups]
    assert sizes[1] / sizes[0] == pytest.approx(1, abs=0.01)


def test_the_ladder_changes_one_switch_at_a_time_from_gpt2_to_llama():
    base = RunConfig(model=BASE)
    groups = Ablation(base, ladder="gpt2-to-llama").groups()
    models = [replace(base, **group.settings).model for group in groups]
    switches = "norm", "position", "mlp", "num_kv_heads", "bias"
    for number, (before, after) in enumerate(pairwise(models)):
        changed = [name for name in switches if getattr(before, name) != getattr(after, name)]
        assert changed == [switches[number]]
        assert groups[number + 1].reference == groups[number].name
    assert models[0] == varied("gpt2-baseline")
    assert models[-1] == varied("gqa")
    assert len(groups) == len(LADDERS["gpt2-to-llama"])


# --- Planning --------------------------------------------------------------------------------------------------------


def test_a_grid_has_every_combination_compared_with_the_base_configuration(text):
    base = tiny_config(text)
    groups = Ablation(base, grid=parse_grid(["learning_rate=1e-3,1e-2", "mlp=swiglu,gelu,relu2"])).groups()
    assert len(groups) == 6
    assert {group.reference for group in groups} == {"", "learning_rate=0.01,mlp=swiglu"}
    assert groups[0].settings == {"learning_rate": 1e-3, "mlp": "swiglu"}


def test_variants_in_a_grid_are_compared_at_the_same_values(text):
    groups = Ablation(tiny_config(text), ["nope"], parse_grid(["learning_rate=1e-3,1e-2"])).groups()
    assert [(group.name, group.reference) for group in groups if group.reference] == [
        ("nope,learning_rate=0.001", "baseline,learning_rate=0.001"),
        ("nope,learning_rate=0.01", "baseline,learning_rate=0.01"),
    ]


def test_widths_repeat_everything_with_sizes_derived_for_each(text):
    ablation = Ablation(replace(tiny_config(text), num_heads=0), ["gelu"], widths=[64, 128], seeds=2)
    groups = ablation.groups()
    assert [(g.name, g.reference, g.width) for g in groups][2:] == [
        ("baseline@128", "", 128),
        ("gelu@128", "baseline@128", 128),
    ]
    assert len(ablation.plan().runs) == 8
    models = [replace(ablation.base, **group.settings).model for group in groups]
    assert [sum(count_parameters(m).values()) for m in models[::2]] == [
        sum(count_parameters(m).values()) for m in models[1::2]
    ]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"variants": ["post_norms"]}, "unknown variant 'post_norms': did you mean post-norm?"),
        ({"variants": ["zzz"]}, "unknown variant 'zzz': there are no-norm, "),
        ({"variants": ["mha"]}, "nothing to compare: the base configuration already is mha"),
        ({"ladder": "gpt3-to-llama"}, "unknown ladder 'gpt3-to-llama': did you mean gpt2-to-llama?"),
        ({"ladder": "gpt2-to-llama", "variants": ["nope"]}, "--ladder decides what is compared"),
        ({"seeds": 0}, "--seeds is 0, but must be from 1"),
        ({"tune": "beta1"}, "--tune beta1: cannot be tuned"),
        ({"grid": {"mlpp": ["gelu"]}}, "unknown setting 'mlpp'"),
    ],
)
def test_mistakes_are_one_line(text, options, reason):
    with pytest.raises(UserError) as refused:
        Ablation(tiny_config(text), **options).plan()
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("option", ["mlp", "mlp=", "=3", "=,"])
def test_a_grid_without_values_is_refused(option):
    with pytest.raises(UserError, match="write --vary setting=value,value"):
        parse_grid([option])


# --- Comparisons -----------------------------------------------------------------------------------------------------


def result(folder: Path, config: RunConfig, group: str, seed: int, losses: dict[int, float], **options) -> Result:
    """A run with these validation losses by step, 10 tokens a step, `speed` tokens per second."""
    path = folder / f"{group}{seed}"
    path.mkdir()
    training = [
        {"step": step, "train_loss": 1.0, "tokens_per_second": options.get("speed", 5.0), "tokens": 10 * step}
        for step in losses
        if step
    ]
    scored = [{"step": step, "val_loss": loss, "tokens": 10 * step} for step, loss in losses.items()]
    lines = [json.dumps({**row, "timestamp": None}) for row in training + scored]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return Result(PlannedRun.of(group, seed, {}), config, path, Outcome(options.get("status", "finished")))


GROUPS = [Group("a", {}), Group("b", {}, "a"), Group("c", {}, "a")]


def test_differences_are_taken_within_pairs_of_finished_runs(tmp_path, text):
    config = tiny_config(text)
    results = [result(tmp_path, config, "a", seed, {0: 5.0, 10: 1.0 + seed}) for seed in range(3)]
    results += [result(tmp_path, config, "b", seed, {0: 5.0, 10: 1.5 + seed}) for seed in range(2)]
    results.append(result(tmp_path, config, "b", 2, {0: 5.0}, status="diverged"))
    assert pair_differences(results, "b", "a", "steps") == pytest.approx([0.5, 0.5])
    (comparison, none) = compare(results, GROUPS)
    assert (comparison.runs, comparison.diverged) == (3, 1)
    assert none.differences["steps"].pairs == 0


def test_at_equal_seconds_the_slower_run_is_read_off_where_the_faster_one_ended(tmp_path, text):
    config = tiny_config(text)
    fast = result(tmp_path, config, "a", 0, {0: 4.0, 10: 2.0, 20: 1.0}, speed=10.0)  # 20 seconds
    slow = result(tmp_path, config, "b", 0, {0: 4.0, 10: 2.0, 20: 1.0}, speed=5.0)  # 40
    assert curve(slow, "seconds")[0].tolist() == [0.0, 20.0, 40.0]
    assert pair_differences([fast, slow], "b", "a", "steps") == [0.0]
    assert pair_differences([fast, slow], "b", "a", "seconds") == pytest.approx([1.0])
    assert pair_differences([fast, slow], "b", "a", "FLOPs") == pytest.approx([0.0])


def test_at_equal_flops_the_costlier_run_is_read_off_earlier(tmp_path, text):
    config = tiny_config(text)
    small = result(tmp_path, config, "a", 0, {0: 4.0, 20: 1.0})
    large = result(tmp_path, replace(config, num_layers=2), "b", 0, {0: 4.0, 20: 1.0})
    ratio = small.flops_per_token / large.flops_per_token
    assert ratio < 1
    expected = 4.0 - 3.0 * ratio - 1.0
    assert pair_differences([small, large], "b", "a", "FLOPs") == pytest.approx([expected])


def test_p_values_are_corrected_for_all_comparisons_of_a_sweep(tmp_path, text):
    config, rng = tiny_config(text), np.random.default_rng(0)
    results = [
        result(tmp_path, config, group, seed, {0: 5.0, 10: float(rng.normal(shift, 0.1))})
        for group, shift in {"a": 1.0, "b": 1.3, "c": 1.1}.items()
        for seed in range(5)
    ]
    raw = sorted(paired_difference(pair_differences(results, g, "a", "steps")).p_value for g in "bc")
    assert sorted(c.p_value for c in compare(results, GROUPS)) == pytest.approx([2 * raw[0], max(2 * raw[0], raw[1])])


def test_a_spike_is_a_loss_far_above_those_before_it():
    losses = np.linspace(3.0, 2.0, 100)
    assert spikes(losses) == 0
    noisy = losses + np.random.default_rng(0).normal(0, 0.02, 100)
    assert spikes(noisy) == 0
    noisy[50:53] += 1.0
    noisy[80] += 1.0
    assert spikes(noisy) == 2
    assert spikes(losses[:5]) == 0


def test_a_gradient_spike_is_a_norm_of_five_times_those_before_it():
    norms = np.random.default_rng(0).uniform(0.5, 1.5, 100)
    assert gradient_spikes(norms) == 0
    norms[[40, 41, 70]] = 30.0
    assert gradient_spikes(norms) == 2
    assert gradient_spikes(norms[:10]) == 0


def comparison(differences: list[float], group: str = "b", reference: str = "a", diverged: int = 0) -> Comparison:
    found = paired_difference(differences)
    measures = {"steps": found, "FLOPs": found, "seconds": found}
    return Comparison(group, reference, measures, found.p_value, len(differences) + diverged, diverged, 0, 0)


def test_a_verdict_says_better_worse_or_how_many_seeds_would_tell():
    assert verdict(comparison([0.5, 0.52, 0.48])).startswith("b against a: worse by 0.5000 nats/token (p = ")
    assert "better by 0.5000" in verdict(comparison([-0.5, -0.52, -0.48]))
    unclear = verdict(comparison([0.5, -0.3, 0.2]))
    assert "3 seeds do not suffice to tell a difference; about " in unclear
    assert "no number of seeds" in verdict(comparison([0.1, -0.1]))
    assert "one seed has no interval" in verdict(comparison([0.1]))
    assert verdict(comparison([], diverged=3)).endswith("It diverged in 3 of 3 runs.")


def test_a_conclusion_that_changes_with_the_width_is_reported():
    groups = [Group(f"{name}@{width}", {}, "", width) for width in (64, 128) for name in "ab"]
    found = [comparison([0.5, 0.51], "b@64", "a@64"), comparison([-0.5, -0.51], "b@128", "a@128")]
    assert width_changes(found, groups) == [
        "b against a: the conclusion changes with the width (64: worse, 128: better)."
    ]
    assert "does not change" in width_changes([found[0]], groups)[0]


# --- Kinds of words --------------------------------------------------------------------------------------------------


def test_kinds_of_words_and_positions_divide_the_loss_of_all_targets(few_stories):
    config = replace(RunConfig(), hidden_size=32, num_layers=1, vocab_size=300, max_seq_len=512)
    data = open_dataset(config)
    model = Llama(replace(config, vocab_size=data.tokenizer.vocab_size).model)
    stories = validation_stories(0, 10)
    scored = grouped_loss(model, data, stories, ExactLosses())
    total = evaluate_loss(model, data.validation, data.tokenizer.byte_lengths)
    for groups in (scored.kinds, scored.positions):
        assert sum(group.targets for group in groups.values()) == total.targets
        assert sum(group.loss * group.targets for group in groups.values()) == pytest.approx(total.nats, rel=1e-5)
        floor = sum(group.floor * group.targets for group in groups.values())
        assert floor == pytest.approx(sum(story.nats for story in stories), rel=1e-9)
    assert scored.kinds["names recalled"].floor < scored.kinds["new names"].floor
    ids = [*data.tokenizer.encode(stories[0].text), data.tokenizer.end_id]
    kinds = kinds_of_tokens(stories[0], data.tokenizer, ids)
    texts = dict.fromkeys(kinds, "")
    for token, kind in zip(ids, kinds, strict=True):
        texts[kind] += data.tokenizer.decode([token])
    name = next(stories[0].text[c.start : c.end] for c in stories[0].choices if c.kind == "name")
    assert name in texts["new names"]
    assert name in texts["names recalled"]
    assert re.fullmatch(r"(?:\s|she|he|him|her|his)+", texts["pronouns"], re.IGNORECASE)
    assert kinds[-1] == "endings"


# --- The command -----------------------------------------------------------------------------------------------------

STORIES = {**TINY, "tokenizer": "bpe", "vocab_size": 300, "max_seq_len": 512, "max_steps": 4, "eval_every": 2}


def test_the_command_compares_resumes_and_extends(few_stories, tmp_path, capsys):
    words = ["ablate", *flags(**STORIES, variants="nope", output_dir="sweep")]
    assert command(*words, "--seeds", 2) == 0
    first = capsys.readouterr().out
    assert "nope - baseline" in first
    assert "names recalled" in first
    assert "above the floor" in first
    assert "was not tuned" in first
    assert len(list((tmp_path / "sweep").glob("*/step_00000004"))) == 4
    before = tree(tmp_path / "sweep")
    assert command(*words, "--seeds", 2) == 0
    assert tree(tmp_path / "sweep") == before
    assert capsys.readouterr().out.split("\n\n")[1:] == first.split("\n\n")[1:]
    assert "other settings: weight_decay" in refusal(capsys, *words, "--seeds", 2, "--weight_decay", 0.2)
    assert tree(tmp_path / "sweep") == before


def test_paired_runs_have_the_same_first_batch_and_weights(text, tmp_path):
    words = flags(**TINY, data=text, output_dir="sweep", seeds=1)
    assert command("ablate", *words, "--vary", "weight_decay=0.1,0.2", "beta1=0.9,0.8") == 0
    logs = [rows(path) for path in sorted(tmp_path.glob("sweep/*-seed0"))]
    assert len(logs) == 4
    assert len({log[1]["train_loss"] for log in logs}) == 1
    assert len({log[-1]["val_loss"] for log in logs}) == 4


def test_tuning_chooses_a_learning_rate_for_each_group_and_says_so(text, tmp_path, capsys):
    words = flags(**{**TINY, "max_steps": 4}, data=text, variants="nope", seeds=1, tune="learning_rate", output_dir="s")
    assert command("ablate", *words) == 0
    assert "learning_rate was tuned for each group" in capsys.readouterr().out
    tuned = {path.name: path for path in tmp_path.glob("s/tuning/*-seed1000000")}
    assert len(tuned) == 6
    for group in ("baseline", "nope"):
        losses = {path: rows(path)[-1]["val_loss"] for name, path in tuned.items() if name.startswith(f"{group},")}
        best = RunConfig.from_toml(min(losses, key=lambda path: losses[path]) / "config.toml").optimizer.learning_rate
        assert RunConfig.from_toml(tmp_path / "s" / f"{group}-seed0" / "config.toml").optimizer.learning_rate == best


SUBCLASS = """
import torch
from llamita.model import Llama

class Scaled(Llama):
    def __init__(self, config, seed=0):
        super().__init__(config, seed)
        self.scale = torch.nn.Parameter(torch.full((1,), 2.0))

    def forward(self, ids, targets=None, **options):
        return super().forward(ids, targets, **options) * self.scale
"""


def test_a_subclass_of_the_model_in_a_file_is_one_more_variant(text, tmp_path, capsys):
    Path("scaled.py").write_text(SUBCLASS)
    words = flags(**{**TINY, "max_steps": 4}, data=text, seeds=2, code="scaled.py", output_dir="sweep")
    assert command("ablate", *words) == 0
    assert "code-scaled - baseline" in capsys.readouterr().out
    first = [rows(tmp_path / "sweep" / f"{group}-seed0")[0]["val_loss"] for group in ("baseline", "code-scaled")]
    assert first[1] == pytest.approx(2 * first[0])
    Path("scaled.py").write_text(SUBCLASS.replace("2.0", "3.0"))
    assert "other settings: code " in refusal(capsys, "ablate", *words)


@pytest.mark.slow
def test_another_checkout_computes_its_runs_with_its_own_code(text, tmp_path):
    package = Path(llamita.__file__).parent
    shutil.copytree(package, tmp_path / "other" / "llamita", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "other" / "llamita" / "model" / "init.py"
    file.write_text(file.read_text().replace("std = scale / math.sqrt", "std = 2 * scale / math.sqrt"))
    words = flags(**{**TINY, "max_steps": 4}, data=text, seeds=1, code="other", output_dir="sweep")
    assert command("ablate", *words) == 0
    losses = [rows(tmp_path / "sweep" / f"{group}-seed0")[0]["val_loss"] for group in ("baseline", "code-other")]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "neither a Python file nor a folder with the package llamita"),
        ("import torch", "must define one subclass of llamita.model.Llama, but defines none"),
        (SUBCLASS + "\nclass Other(Scaled): pass", "but defines Other, Scaled"),
        ("def", "cannot be imported (invalid syntax"),
    ],
)
def test_code_without_one_model_is_refused_in_one_line(capsys, text, content, reason):
    if content is not None:
        Path("changed.py").write_text(content)
    assert reason in refusal(capsys, "ablate", *flags(**TINY, data=text, code="changed.py"))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--variants", "nop"], "unknown variant 'nop': did you mean nope?"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--variants", "mha"], "nothing to compare"),
        (["--widths", "64,x"], "--widths is 64,x, but must be whole numbers"),
        (["--vary", "mlp"], "write --vary setting=value,value"),
    ],
)
def test_the_commands_mistakes_are_one_line_and_leave_no_file(capsys, tmp_path, words, reason):
    assert reason in refusal(capsys, "ablate", *words)
    assert os.listdir(tmp_path) == []


def test_the_bare_command_is_that_of_the_literature():
    base = RunConfig.from_preset("ablation")
    assert base.model.num_layers >= 4
    assert base.model.head_init == "random"
    plan = Ablation(base).plan()
    assert len(plan.runs) == 20
    assert {run.group for run in plan.runs} == {"baseline", "no-norm", "post-norm", "nope"}
    assert base.optimizer.learning_rate == default_learning_rate(base.model.hidden_size, "random")
