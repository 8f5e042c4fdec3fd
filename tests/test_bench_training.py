"""`benchmarks/train.py`: real processes, tiny shapes; no test depends on speed."""

import importlib.util
import itertools
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import cache

import train
from common.command import UsageError, run_command
from common.intervals import median_interval
from common.made_up_text import made_up_text
from common.rounds import interleaved
from llamita.model import Llama
from llamita.planning.peak import flops_per_token
from training import baseline, busy, peers, shapes, worker_process
from training.baseline import choose_sides, measure_baseline
from training.busy import ONE_THREAD, busy_process, measure_busy
from training.full_run import FullRunSetting, measure_full_run
from training.peers import DEFAULT, LLAMITA, TUNED, Setting, measure, measure_scaling
from training.results import OVERHEAD, BaselineRow, BusyRow, ContextScaling, Load, Measured, Row
from training.results_file import Results
from training.shapes import SHAPES, Shape, Task
from training.worker import build, kind_of
from training.worker_process import Worker, closing_all, start, write_inputs

fixtures = (cache,)
ROOT = Path(__file__).resolve().parents[1]
TINY = Shape(16, 1, 2, 1, 32, 300, 16, 4, goal=4, goal_tuned=1.5)
QUICK = Setting(rounds=1, compiled=False, threads=1, min_seconds=0)
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
    candidates = {LLAMITA: measured(ours, memory), DEFAULT: measured(theirs), TUNED: measured(theirs / 2)}
    scaling = ContextScaling([TINY, TINY.with_context(32)], [[1.0], [1.5]], [1.0, 1.4], [1, 1])
    return Results([Row(TINY, candidates, 1e9, 1000, 1)], scaling)


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
def test_all_candidates_compute_the_same_and_each_says_what_it_took(kind, clones, monkeypatch):
    """Where the losses of the first two steps differ, `measure` raises."""
    monkeypatch.setattr(worker_process, "Worker", kind)
    monkeypatch.setattr(sys, "path", [*sys.path])
    row = measure(TINY, clones)
    assert list(row.candidates) == [LLAMITA, DEFAULT, TUNED, "nanoGPT", "litgpt"]
    for candidate in row.candidates.values():
        assert len(candidate.seconds) == 1
        assert candidate.memory > 50 << 20
        assert set(candidate.parts) == PARTS
        assert sum(candidate.profile.values()) == pytest.approx(1)
    assert row.ours.parameters == row.candidates[DEFAULT].parameters
    assert row.candidates["nanoGPT"].parameters == 300 * 16
    assert row.candidates[DEFAULT].precision == "fp32"
    assert row.candidates[TUNED].precision == row.ours.precision
    assert row.peak > 0
    assert row.threads == 1


@pytest.mark.slow
def test_candidates_in_processes_of_their_own_answer_whatever_their_models_print(clones, tmp_path):
    ours = Task(LLAMITA, TINY, tmp_path, threads=1, min_seconds=0)
    write_inputs(ours)
    workers: dict[str, Worker] = {}
    with closing_all(workers):
        for task in (ours, replace(ours, kind="nanogpt", precision="fp32", clone=clones.nanogpt)):
            worker = workers[task.kind] = Worker(task.kind, task)
            assert worker.facts()["parameters"] >= 300 * 16
            assert worker.ask("measure")["seconds"] > 0
            assert worker.ask("finish")["memory"] > 50 << 20


def test_the_measuring_process_needs_neither_llamita_nor_torch():
    """What llamita sets in the environment when it is imported must not reach the workers of its peers."""
    code = "import sys, train; sys.exit(any(name in sys.modules for name in ('llamita', 'torch')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "benchmarks")
    assert done.returncode == 0


@pytest.mark.slow
@needs_transformers
def test_the_process_of_a_peer_does_not_load_llamita(tmp_path):
    write_inputs(Task(LLAMITA, TINY, tmp_path))
    task = f"Task('transformers', {TINY!r}, Path({str(tmp_path)!r}), threads=1, precision='fp32', min_seconds=0)"
    code = f"""
import sys
from pathlib import Path
from training.shapes import Shape, Task
from training.worker import build
build({task}).measure()
sys.exit(any(name.partition('.')[0] == 'llamita' for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "benchmarks")
    assert done.returncode == 0


def test_a_process_that_had_to_compile_kernels_is_measured_no_further(monkeypatch):
    """It holds numba and LLVM, which no later run does."""
    started = []

    class Started:
        def __init__(self, name, task):
            started.append(self)

        def facts(self):
            return {"has_compiled": len(started) == 1}

        def close(self):
            self.is_closed = True

    monkeypatch.setattr(worker_process, "Worker", Started)
    workers = {}
    assert start(workers, LLAMITA, None) == {"has_compiled": False}
    assert workers == {LLAMITA: started[1]}
    assert started[0].is_closed


def test_losses_that_lie_too_far_apart_are_refused():
    ours = {"losses": [5.0, 4.0], "parameters": 1}
    peers.require_same_losses(ours, {DEFAULT: ours, TUNED: {"losses": [5.004, 4.01], "parameters": 1}})
    with pytest.raises(AssertionError, match="compute different things"):
        peers.require_same_losses(ours, {TUNED: {"losses": [5.0, 4.2], "parameters": 1}})
    with pytest.raises(AssertionError, match="parameters"):
        peers.require_same_losses(ours, {DEFAULT: {"losses": [5.0, 4.0], "parameters": 2}})


@pytest.mark.slow
@needs_transformers
def test_the_tuned_peer_is_compiled_and_computes_the_same():
    assert measure(TINY, replace(QUICK, compiled=True)).candidates[TUNED].compiled


@KINDS
def test_scaling_is_relative_to_the_first_context(kind, monkeypatch):
    monkeypatch.setattr(worker_process, "Worker", kind)
    scaling = measure_scaling([TINY.with_context(length) for length in (16, 48)], QUICK)
    assert scaling.ratios[0] == [1.0]
    assert scaling.expected[0] == 1.0
    assert 1 < scaling.expected[1] < 3
    assert [shape.batch_size for shape in scaling.shapes] == [4, 1]


@pytest.mark.slow
def test_a_full_run_is_timed_with_all_that_it_does():
    setting = FullRunSetting(4, 2, eval_sequences=4, sample_count=1, measurements=1, threads=1, documents=40)
    run = measure_full_run(TINY, setting)
    assert run.command > run.loop > 0
    assert run.tokens == TINY.tokens


@pytest.mark.slow
def test_this_very_tree_as_baseline_gives_a_row_of_ratios(tmp_path):
    """Both sides train the same model: `measure_baseline` refuses other losses, and a llamita from elsewhere."""
    sides = choose_sides(ROOT, tmp_path / "caches")
    row = measure_baseline(TINY, sides, QUICK)
    assert len(row.ratios) == 1
    assert row.ratios[0] == row.old.seconds[0] / row.new.seconds[0]
    assert row.new.parameters == row.old.parameters
    assert 0.5 < row.memory_ratio < 2


@pytest.mark.slow
def test_a_baseline_is_imported_from_its_checkout_or_refused(tmp_path):
    """A package of the same name in the checkout that is no llamita is loaded instead of the installed one."""
    (tmp_path / "llamita").mkdir()
    (tmp_path / "llamita" / "__init__.py").write_text("raise ValueError('the checkout was imported')")
    with pytest.raises(RuntimeError, match="the checkout was imported"):
        measure_baseline(TINY, choose_sides(tmp_path, tmp_path / "caches"), QUICK)


@pytest.mark.parametrize(
    ("new", "memory", "missed"),
    [(1.0, 100, []), (1.02, 104, []), (1.04, 100, ["speed 0.962"]), (1.0, 106, ["memory 1.060"])],
)
def test_a_row_that_is_slower_or_larger_than_its_goals_says_so(new, memory, missed):
    row = BaselineRow.of(TINY, measured(new, memory), measured(1.0, 100))
    assert baseline.misses(row) == missed
    said = list(baseline.notes([row]))
    assert ("Rows that miss: none." in said) == (not missed)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9, 12])
def test_the_interval_of_a_median_covers_it_as_often_as_it_says(count):
    """Each value is below the true median or above it, with equal probability: all 2ⁿ cases are counted."""
    values = random.Random(count).sample(range(1000), count)
    interval = median_interval(values)
    low, high = (sorted(values).index(edge) for edge in (interval.low, interval.high))
    cases = list(itertools.product((0, 1), repeat=count))  # 1: the value of this rank is below the median

    def coverage(low: int, high: int) -> float:
        covered = [case for case in cases if low < sum(case) <= high]  # x[low] ≤ median ≤ x[high]
        return len(covered) / len(cases)

    assert interval.coverage == pytest.approx(coverage(low, high))
    assert high == count - 1 - low
    assert interval.coverage >= 0.95 or low == 0
    assert low + 1 >= high - 1 or coverage(low + 1, high - 1) < 0.95
    assert interval.median == sorted(values)[count // 2] or count % 2 == 0


def test_every_other_round_goes_backwards():
    assert list(interleaved("ab", 2)) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


@needs_transformers
def test_beside_a_busy_process_every_candidate_is_measured_idle_and_busy(clones, monkeypatch):
    monkeypatch.setattr(worker_process, "Worker", InThisProcess)
    row = measure_busy(TINY, replace(clones, threads=2, litgpt=None, rounds=2))
    assert list(row.candidates) == ["llamita, 2 threads", ONE_THREAD, TUNED, "nanoGPT"]
    for name, candidate in row.candidates.items():
        assert len(candidate.idle) == len(candidate.busy) == 2
        assert candidate.threads == (1 if name == ONE_THREAD else 2)


def test_the_busy_process_runs_until_the_block_ends():
    with busy_process() as process:
        assert process.poll() is None
    assert process.poll() is not None


def test_a_candidate_that_falls_below_half_of_one_thread_misses_the_goal():
    loads = {"llamita, 2 threads": Load(2, [0.5], [2.5]), ONE_THREAD: Load(1, [1.0], [1.6])}
    row = BusyRow(TINY, loads)
    assert row.retained(ONE_THREAD) == [0.625]
    assert row.speed("llamita, 2 threads", "busy") == pytest.approx(0.4 * row.speed(ONE_THREAD, "idle"))
    *_, missed = busy.notes([row])
    assert missed == "Rows that miss: 16x1, 4 x 16, llamita, 2 threads."


def test_flops_are_those_that_the_plan_of_llamita_prints():
    for shape in (TINY, SHAPES[4], replace(SHAPES[0], tie_embeddings=True)):
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in Llama(shape.model_config()).parameters())
        assert shape.flops_per_token(parameters) == flops_per_token(shape.model_config(), parameters)


def test_made_up_text_has_words_for_a_large_vocabulary():
    text = made_up_text(1000)
    assert len(set(text.split())) > 5000
    assert text == made_up_text(1000)


def test_a_longer_context_has_as_many_tokens_a_step_and_no_goal():
    assert [SHAPES[0].with_context(length).batch_size for length in shapes.CONTEXTS] == [16, 4, 1]
    assert SHAPES[0].with_context(256) == SHAPES[0]
    assert SHAPES[0].with_context(1024).goal is None


def test_overhead_is_all_but_forward_and_backward():
    assert set(OVERHEAD) == PARTS - {"forward", "backward"}


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::mm", "matmul"),
        ("aten::bmm", "matmul"),
        ("_BlockedAttentionBackward", "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("_LinearCrossEntropy", "head"),
        ("Optimizer.step#AdamW.step", "optimizer"),
        ("aten::mul", None),
    ],
)
def test_an_operation_is_known_by_its_name(operation, kind):
    assert kind_of(operation) == kind


def test_ratios_and_shares_come_of_the_same_row():
    (row,) = results(ours=0.25, theirs=1.0, memory=1 << 29).rows
    assert row.ratios(DEFAULT) == [4, 4, 4]
    assert row.ratios(TUNED) == [2, 2, 2]
    assert row.memory_ratio() == 0.5
    assert row.mfu() == pytest.approx(1000 * 64 / 0.25 / 1e9)
    assert row.overhead() == pytest.approx(5 / 7)


def test_what_became_slower_or_larger_is_named(tmp_path):
    results(ours=0.25).write(tmp_path / "old.json")
    old = json.loads((tmp_path / "old.json").read_text())
    *_, said = results(ours=0.25).compared(old)
    assert said.endswith(": nothing.")
    lines = list(results(ours=0.3, memory=1 << 31).compared(old))
    assert "ms a step" in lines[-1]
    assert "16x1, 4 x 16: llamita, MiB" in lines[-1]
    assert "speed-up over transformers" in lines[-1]
    assert f"{DEFAULT}, ms a step" not in lines[-1]
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
    (row,), scaling = results(ours=0.25).rows, results(ours=0.25).scaling
    monkeypatch.setattr(peers, "measure", lambda shape, setting: replace(row, shape=shape))
    monkeypatch.setattr(peers, "measure_scaling", lambda shapes, setting: scaling)
    train.main(["--json", str(tmp_path / "old.json")])
    printed = capsys.readouterr().out
    assert all(f"| {shape.name} | {shape.vocab_size:,} | {shape.batch} |" in printed for shape in SHAPES)
    assert "| 512x4 | 10,000 | 1 x 4,096 |" in printed
    assert "FLOPs per token" in printed
    train.main(["--shapes", "2", "128x4", "--against", str(tmp_path / "old.json")])
    printed = capsys.readouterr().out
    assert "| 288x6, 16 x 256: llamita, ms a step | 250 | 250 | +0.0% |" in printed
    assert "512x4" not in printed
    assert "More than 5% slower or larger: nothing." in printed
    assert len(list(tmp_path.glob("bench-train-*.json"))) == 1


def test_with_a_baseline_nine_rounds_of_all_shapes_and_contexts_are_measured(monkeypatch, tmp_path, capsys):
    asked = []

    def measure_nothing(shape: Shape, sides: baseline.Sides, setting: Setting) -> BaselineRow:
        asked.append((shape, setting.rounds))
        return BaselineRow.of(shape, measured(1.0), measured(1.1))

    monkeypatch.setattr(baseline, "measure_baseline", measure_nothing)
    train.main(["--baseline", str(ROOT), "--json", str(tmp_path / "new.json")])
    assert [shape for shape, _ in asked] == [*SHAPES, *(SHAPES[0].with_context(length) for length in (1024, 4096))]
    assert {rounds for _, rounds in asked} == {9}
    assert "| 1.100 (1.100-1.100) |" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "new.json").read_text())["numbers"]
    assert numbers["512x4, 16 x 256: speed, new/old"] == pytest.approx(1.1)


@needs_transformers
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shapes", "9"], "--shapes: '9' is unknown: choose from 1 (512x4)"),
        (["--contexts", "0"], "--contexts: 0 is not a length"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--threads", "-1"], "--threads is -1"),
        (["--end-to-end", "--steps", "0"], "--max_steps is 0, but must be at least 1"),
        (["--end_to_end", "--shapes", "4"], "--end_to_end: the generated text does not support a vocabulary of 65"),
        (["--nanogpt", "nowhere"], "--nanogpt nowhere: model.py not found"),
        (["--litgpt", "nowhere"], "--litgpt nowhere: litgpt/model.py not found"),
        (["--against", "nowhere.json"], "--against nowhere.json: cannot be read"),
        (["--against", "broken.json"], "--against broken.json: not JSON"),
        (["--against", "other.json"], "--against other.json: not a results file"),
        (["--json", "nowhere/new.json"], "folder nowhere does not exist"),
        (["--json", "."], "is a folder"),
        (["--baseline", "nowhere"], "--baseline nowhere: llamita/__init__.py not found"),
        (["--baseline", ".", "--busy"], "--baseline cannot be combined with"),
        (["--round_trip"], "unrecognized arguments: --round_trip"),
    ],
)
def test_a_mistake_is_said_before_anything_is_measured(words, said, tmp_path, capsys):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: train.main(words))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_what_a_clone_misses_is_a_mistake_of_a_line(clones):
    assert clones.litgpt is not None
    (clones.litgpt / "litgpt" / "model.py").write_text("import a_package_that_is_not_there")
    workers = {"litgpt": Worker("litgpt", Task("litgpt", TINY, clones.litgpt, clone=clones.litgpt, threads=1))}
    with closing_all(workers), pytest.raises(UsageError, match=r"--litgpt .*a_package_that_is_not_there"):
        workers["litgpt"].facts()
