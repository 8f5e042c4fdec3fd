"""`llamita bench train`: real processes, tiny shapes; how fast anything is, no test asks."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import cache, command, refusal

from llamita.bench import shapes, training
from llamita.bench.shapes import SHAPES, Shape, Task
from llamita.bench.training import AS_IT_COMES, AT_ITS_BEST, OURS, Setting, measure, measure_growth
from llamita.bench.training_file import Results
from llamita.bench.training_results import AROUND, Growth, Measured, Row
from llamita.bench.training_worker import build, what_it_is
from llamita.bench.whole_run import WholeRunSetting, made_up_text, measure_whole_run
from llamita.bench.workers import Worker, closing_all
from llamita.errors import UserError

fixtures = (cache,)
TINY = Shape(16, 1, 2, 1, 32, 300, 16, 4, goal=4, goal_at_best=1.5)
QUICK = Setting(rounds=1, compiled=False, threads=1, turn=0)
needs_transformers = pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
PARTS = {"data", "forward", "backward", "clipping", "optimizer", "zeroing", "logging"}

NANOGPT = """
from dataclasses import dataclass
import torch
from torch.nn.functional import cross_entropy

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        print("what a model prints is no answer")
        self.wte = torch.nn.Embedding(config.vocab_size, config.n_embd)

    def forward(self, idx, targets):
        logits = self.wte(idx) @ self.wte.weight.T
        return logits, cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
"""
LITGPT = """
import torch

class Config:
    def __init__(self, **options):
        assert options["n_query_groups"] == 1 and options["mlp_class_name"] == "LLaMAMLP"
        self.__dict__.update(options)

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wte = torch.nn.Embedding(config.padded_vocab_size, config.n_embd)

    def forward(self, idx):
        return self.wte(idx) @ self.wte.weight.T
"""


@pytest.fixture
def clones(tmp_path: Path) -> Setting:
    """Something with the names of nanoGPT, and of LitGPT."""
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "model.py").write_text(NANOGPT)
    (tmp_path / "lit" / "litgpt").mkdir(parents=True)
    (tmp_path / "lit" / "litgpt" / "__init__.py").touch()
    (tmp_path / "lit" / "litgpt" / "model.py").write_text(LITGPT)
    return replace(QUICK, nanogpt=tmp_path / "nano", litgpt=tmp_path / "lit")


def measured(seconds: float, memory: int = 1 << 30) -> Measured:
    parts = {name: seconds / len(PARTS) for name in sorted(PARTS)}
    return Measured([seconds] * 3, memory, parts, {"rest": 1.0}, 1000, "fp32", False)


def results(ours: float, theirs: float = 1.0, memory: int = 1 << 30) -> Results:
    contenders = {OURS: measured(ours, memory), AS_IT_COMES: measured(theirs), AT_ITS_BEST: measured(theirs / 2)}
    growth = Growth([TINY, TINY.with_context(32)], [[1.0], [1.5]], [1.0, 1.4], [1, 1])
    return Results([Row(TINY, contenders, 1e9, 1000, 1)], growth)


class InThisProcess:
    """A worker that shares a process with all others, for what does not ask how much memory each takes."""

    def __init__(self, name: str, task: Task):
        self.steps = build(task)

    def facts(self) -> dict[str, Any]:
        return self.steps.ready()

    def ask(self, what: str) -> dict[str, Any]:
        return getattr(self.steps, what)()

    def close(self) -> None:
        for name in ("model", "litgpt", "litgpt.model"):
            sys.modules.pop(name, None)


KINDS = pytest.mark.parametrize("kind", [InThisProcess, pytest.param(Worker, marks=pytest.mark.slow)])


@needs_transformers
@KINDS
def test_all_contenders_compute_the_same_and_each_says_what_it_took(kind, clones, monkeypatch):
    """Where the losses of the first two steps differ, `measure` raises."""
    monkeypatch.setattr(training, "Worker", kind)
    monkeypatch.setattr(sys, "path", [*sys.path])
    row = measure(TINY, clones)
    assert list(row.contenders) == [OURS, AS_IT_COMES, AT_ITS_BEST, "nanoGPT", "litgpt"]
    for contender in row.contenders.values():
        assert len(contender.seconds) == 1
        assert contender.memory > 50 << 20
        assert set(contender.parts) == PARTS
        assert sum(contender.shares.values()) == pytest.approx(1)
    assert row.ours.parameters == row.contenders[AS_IT_COMES].parameters
    assert row.contenders["nanoGPT"].parameters == 300 * 16
    assert row.contenders[AS_IT_COMES].precision == "fp32"
    assert row.contenders[AT_ITS_BEST].precision == row.ours.precision
    assert row.peak > 0
    assert row.threads == 1


def test_contenders_in_processes_of_their_own_answer_whatever_their_models_print(clones, tmp_path):
    ours = Task(OURS, TINY, tmp_path, threads=1, turn=0)
    workers: dict[str, Worker] = {}
    with closing_all(workers):
        for task in (ours, replace(ours, kind="nanogpt", clone=clones.nanogpt)):  # ours leaves the batches
            worker = workers[task.kind] = Worker(task.kind, task)
            assert worker.facts()["parameters"] >= 300 * 16
            assert worker.ask("turn")["seconds"] > 0
            assert worker.ask("finish")["memory"] > 50 << 20


def test_a_process_that_had_to_compile_loops_is_measured_no_further(monkeypatch):
    """It holds numba and LLVM, which no later run does."""
    started = []

    class Started:
        def __init__(self, name, task):
            started.append(self)

        def facts(self):
            return {"has_compiled": len(started) == 1}

        def close(self):
            self.is_closed = True

    monkeypatch.setattr(training, "Worker", Started)
    workers = {}
    assert training._start(workers, OURS, None) == {"has_compiled": False}
    assert workers == {OURS: started[1]}
    assert started[0].is_closed


def test_losses_that_lie_too_far_apart_are_refused():
    facts = {name: {"losses": [5.0, 4.0], "parameters": 1} for name in (OURS, AS_IT_COMES, AT_ITS_BEST)}
    training._require_same_losses(facts)
    with pytest.raises(AssertionError, match="compute different things"):
        training._require_same_losses({**facts, AT_ITS_BEST: {"losses": [5.0, 4.2], "parameters": 1}})
    with pytest.raises(AssertionError, match="number of parameters"):
        training._require_same_losses({**facts, AS_IT_COMES: {"losses": [5.0, 4.0], "parameters": 2}})


@pytest.mark.slow
@needs_transformers
def test_the_peer_at_its_best_is_compiled_and_computes_the_same():
    assert measure(TINY, replace(QUICK, compiled=True)).contenders[AT_ITS_BEST].compiled


@KINDS
def test_growth_is_counted_from_the_first_context(kind, monkeypatch):
    monkeypatch.setattr(training, "Worker", kind)
    growth = measure_growth([TINY.with_context(length) for length in (16, 48)], QUICK)
    assert growth.ratios[0] == [1.0]
    assert growth.expected[0] == 1.0
    assert 1 < growth.expected[1] < 3
    assert [shape.batch_size for shape in growth.shapes] == [4, 1]


@pytest.mark.slow
def test_a_whole_run_is_timed_with_all_that_it_does():
    setting = WholeRunSetting(max_steps=4, every=2, eval_sequences=4, sample_count=1, turns=1, threads=1, documents=40)
    run = measure_whole_run(TINY, setting)
    assert run.whole > run.looping > 0
    assert run.tokens == TINY.tokens


def test_made_up_text_has_words_for_a_large_vocabulary():
    text = made_up_text(1000)
    assert len(set(text.split())) > 5000
    assert text == made_up_text(1000)


def test_a_longer_context_has_as_many_tokens_a_step_and_no_goal():
    assert [SHAPES[0].with_context(length).batch_size for length in shapes.CONTEXTS] == [16, 4, 1]
    assert SHAPES[0].with_context(256) == SHAPES[0]
    assert SHAPES[0].with_context(1024).goal is None


def test_parts_that_are_not_the_model_are_parts():
    assert set(AROUND) == PARTS - {"forward", "backward"}


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::mm", "products"),
        ("aten::bmm", "products"),
        ("_BlockedAttentionBackward", "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("_LinearCrossEntropy", "head"),
        ("Optimizer.step#AdamW.step", "optimizer"),
        ("aten::mul", None),
    ],
)
def test_an_operation_is_known_by_its_name(operation, kind):
    assert what_it_is(operation) == kind


def test_ratios_and_shares_come_of_the_same_row():
    (row,) = results(ours=0.25, theirs=1.0, memory=1 << 29).rows
    assert row.ratios(AS_IT_COMES) == [4, 4, 4]
    assert row.ratios(AT_ITS_BEST) == [2, 2, 2]
    assert row.memory_share() == 0.5
    assert row.peak_share() == pytest.approx(1000 * 64 / 0.25 / 1e9)
    assert row.around_share() == pytest.approx(5 / 7)


def test_what_became_slower_or_larger_is_named(tmp_path):
    results(ours=0.25).write(tmp_path / "old.json")
    old = json.loads((tmp_path / "old.json").read_text())
    *_, said = results(ours=0.25).compared(old)
    assert said.endswith(": nothing.")
    lines = list(results(ours=0.3, memory=1 << 31).compared(old))
    assert "ms a step" in lines[-1]
    assert "16x1, 4 x 16: llamita, MiB" in lines[-1]
    assert "times as fast as transformers" in lines[-1]
    assert f"{AS_IT_COMES}, ms a step" not in lines[-1]
    assert any(line.startswith("| 16x1, 4 x 16: llamita, ms a step | 300 | 250 | +20.0% |") for line in lines)


def test_a_peer_that_became_slower_is_nobodys_fault(tmp_path):
    results(ours=0.25, theirs=1.0).write(tmp_path / "old.json")
    *_, said = results(ours=0.25, theirs=2.0).compared(json.loads((tmp_path / "old.json").read_text()))
    assert said.endswith(": nothing.")


def test_another_machine_is_said_in_one_line(tmp_path):
    results(ours=0.25).write(tmp_path / "old.json")
    old = json.loads((tmp_path / "old.json").read_text())
    old["machine"]["torch"] = "1.0"
    first, *_ = results(ours=0.25).compared(old)
    assert "torch 1.0, now 2" in first
    assert first.count("\n") == 1


@needs_transformers
def test_the_command_prints_tables_and_keeps_what_a_later_one_compares_with(monkeypatch, tmp_path, capsys):
    (row,), growth = results(ours=0.25).rows, results(ours=0.25).growth
    monkeypatch.setattr(training, "measure", lambda shape, setting: replace(row, shape=shape))
    monkeypatch.setattr(training, "measure_growth", lambda shapes, setting: growth)
    assert command("bench", "train", "--json", tmp_path / "old.json") == 0
    printed = capsys.readouterr().out
    assert all(f"| {shape.name} | {shape.vocab_size:,} | {shape.batch} |" in printed for shape in SHAPES)
    assert "| 512x4 | 10,000 | 1 x 4,096 |" in printed
    assert "operations a token" in printed
    assert command("bench", "train", "--shapes", 2, "128x4", "--against", tmp_path / "old.json") == 0
    printed = capsys.readouterr().out
    assert "| 288x6, 16 x 256: llamita, ms a step | 250 | 250 | +0.0% |" in printed
    assert "512x4" not in printed
    assert "More than 5% slower or larger: nothing." in printed
    assert len(list(tmp_path.glob("bench-train-*.json"))) == 1


@needs_transformers
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shapes", "9"], "--shapes: '9' is none: choose of 1 (512x4)"),
        (["--contexts", "0"], "--contexts: 0 is no length"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--threads", "-1"], "--threads is -1"),
        (["--end_to_end", "--steps", "0"], "max_steps is 0, but must be above 0"),
        (["--end_to_end", "--shapes", "4"], "--end_to_end: made-up words have no vocabulary of 65"),
        (["--nanogpt", "nowhere"], "--nanogpt nowhere: there is no model.py"),
        (["--litgpt", "nowhere"], "--litgpt nowhere: there is no litgpt/model.py"),
        (["--against", "nowhere.json"], "--against nowhere.json: cannot be read"),
        (["--against", "broken.json"], "--against broken.json: not JSON"),
        (["--against", "other.json"], "--against other.json: no measurement of training"),
        (["--json", "nowhere/new.json"], "there is no folder nowhere"),
        (["--json", "."], "that is a folder"),
    ],
)
def test_a_mistake_is_said_before_anything_is_measured(words, said, tmp_path, capsys):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text("[1]")
    assert said in refusal(capsys, "bench", "train", *words)


def test_what_a_clone_misses_is_a_mistake_of_a_line(clones):
    assert clones.litgpt is not None
    (clones.litgpt / "litgpt" / "model.py").write_text("import a_package_that_is_not_there")
    workers = {"litgpt": Worker("litgpt", Task("litgpt", TINY, clones.litgpt, clone=clones.litgpt, threads=1))}
    with closing_all(workers), pytest.raises(UserError, match=r"--litgpt .*a_package_that_is_not_there"):
        workers["litgpt"].facts()
