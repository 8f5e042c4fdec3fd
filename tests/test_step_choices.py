"""What is decided of a run's steps before the first: micro-batches that fit, compiling, the peak they are held to."""

import math
import shutil
import subprocess
import sys
from dataclasses import replace as changed
from types import SimpleNamespace

import pytest
import torch
from runs import cache as cache
from runs import command, last_checkpoint, outcome, refusal, rows, tiny_config, train_words
from runs import text as text

from llamita.config import ExecutionConfig, replace
from llamita.errors import UserError
from llamita.model import Llama, ModelConfig
from llamita.parallel import Processes
from llamita.planning import compile_choice, machine_memory, micro_batch, training_memory
from llamita.planning.compile_choice import choose_compile, expected_flops
from llamita.planning.micro_batch import choose_micro_batch
from llamita.planning.peak import peak_flops
from llamita.planning.plan import FEW, MANY, seconds_of_step
from llamita.runtime import compiling
from llamita.runtime.compiling import Compiled
from llamita.runtime.hardware import Hardware, choose_hardware
from llamita.train import RunDirectory

GIB = 2**30
PLAIN = Hardware("cpu", "fp32", 1, "plain")
NATIVE = Hardware("cpu", "bf16", 1, "native")


@pytest.fixture
def machine_with(monkeypatch):
    """A function (bytes) that lets a process plan with so much memory, whatever machine this is."""

    def let(size: float) -> None:
        monkeypatch.setattr(micro_batch, "memory_limit", lambda device, processes: size)

    return let


@pytest.fixture
def eager_compiler(monkeypatch):
    """torch.compile without its compiler: traced, but computed by torch's own operations."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: whole(model, backend="eager", **options))
    monkeypatch.setattr(compile_choice, "compile_problem", lambda device: None)


def train(text, path, **options):
    assert command(*train_words(text, path, **options)) == 0
    return RunDirectory(path)


def val_losses(run):
    return [row["val_loss"] for row in rows(run.path) if row["val_loss"] is not None]


# --- fused kernels ---


def test_steps_leave_what_torch_does_not_need_out_of_memory():
    """sympy and torch's compiler are 100 MB together, and a second or two; so are numba and LLVM."""
    code = (
        f"llvm = {['llvmlite'] if shutil.which('cc') else []}\n"
        "import sys, torch; from llamita.config import ModelConfig; from llamita.model import Llama\n"
        "from llamita.optim import AdamW; from llamita.runtime import hardware\n"
        "config = ModelConfig(vocab_size=9, hidden_size=64, num_layers=1, num_heads=4, max_seq_len=160)\n"
        "machine = hardware.Hardware('cpu', 'bf16', 2); model = machine.apply(Llama(config))\n"
        "ids = torch.zeros(1, 160, dtype=torch.int64); optimizer = AdamW(model.parameters())\n"
        "with machine.autocast(): loss = model(ids, ids)\n"
        "loss.backward(); optimizer.step(); optimizer.zero_grad()\n"
        "print(*{'sympy', 'torch._dynamo', 'torch._inductor', 'numba', *llvm} & sys.modules.keys())"
    )
    for _ in range(2):  # the first may have to compile what the second finds
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# --- micro-batches ---

LARGE = {"hidden_size": 256, "num_heads": 4, "max_seq_len": 64, "batch_size": 256, "num_layers": 4, "vocab_size": 50}


def memory_of(config, rows) -> int:
    return training_memory(replace(config, micro_batch_size=rows), PLAIN).peak


@pytest.mark.parametrize("rows", [256, 128, 64, 32])
def test_auto_takes_the_largest_share_that_fits_by_the_estimate(text, machine_with, rows):
    config = tiny_config(text, **LARGE, micro_batch_size="auto")
    machine_with(memory_of(config, rows))
    assert choose_micro_batch(config, PLAIN, Processes())[0] == rows


def test_neither_free_memory_nor_the_clock_has_a_say_in_what_auto_takes(text, tmp_path, monkeypatch, capsys):
    usual = train(text, tmp_path / "usual", micro_batch_size="auto", max_steps=4)
    assert "warning: training needs" not in capsys.readouterr().out
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: 1e3)
    monkeypatch.setattr("time.perf_counter", iter(range(10**6)).__next__)  # every step takes a second
    full = train(text, tmp_path / "full", micro_batch_size="auto", max_steps=4)
    assert "warning: training needs about 0.0 GB, and 0.0 GB are free now" in capsys.readouterr().out
    assert full.facts() == usual.facts()
    assert last_checkpoint(full.path) == last_checkpoint(usual.path)


def test_what_auto_chose_is_written_down_and_taken_again_on_another_machine(text, tmp_path, machine_with):
    run = train(text, tmp_path / "run", micro_batch_size="auto", max_steps=4)
    assert run.facts()["micro_batch_size"] == 4
    machine_with(memory_of(run.config(), 1))
    again = train(text, tmp_path / "run", micro_batch_size="auto", max_steps=8, extend=True)
    assert again.facts()["micro_batch_size"] == 4


def test_micro_batches_leave_the_update_as_it_is(text, tmp_path):
    whole, cut = (
        train(text, tmp_path / str(size), micro_batch_size=size, batch_size=5, max_steps=6) for size in (0, 2)
    )
    assert val_losses(cut) == pytest.approx(val_losses(whole), rel=1e-5)
    assert [row["tokens"] for row in rows(cut.path)] == [row["tokens"] for row in rows(whole.path)]


@pytest.mark.parametrize("options", [{"dropout": 0.1}, {"precision": "bf16"}], ids=str)
def test_a_trial_leaves_no_trace_in_the_run(text, tmp_path, monkeypatch, options):
    options = {**options, "micro_batch_size": 3, "sample_every": 6}
    tried = train(text, tmp_path / "tried", **options)
    monkeypatch.setattr("llamita.train.loop.measure", lambda run: 1.0)
    untried = train(text, tmp_path / "untried", **options)
    assert outcome(tried.path) == outcome(untried.path)


def test_how_often_a_step_is_tried_out_is_decided_for_all_processes_by_the_slowest():
    """They compute it together: where one did it more often than another, both would wait for ever."""
    for slowest, times in {0.9: 1 + MANY, 1.1: 1 + FEW}.items():
        tried: list[int] = []
        processes = SimpleNamespace(max=lambda seconds, slowest=slowest: slowest)
        seconds_of_step(lambda tried=tried: tried.append(1), processes)  # pyright: ignore[reportArgumentType]
        assert len(tried) == times


def test_a_micro_batch_that_does_not_fit_is_refused_before_step_1_naming_one_that_does(
    capsys, text, tmp_path, machine_with
):
    machine_with(0.1e9)
    large = {**LARGE, "hidden_size": 128, "num_layers": 2}
    line = refusal(capsys, *train_words(text, tmp_path / "run", **large))
    assert "256 sequences x 64 tokens do not fit into memory: they need about" in line
    assert "and a process may use 0.1 GB here" in line
    smaller = int(line.partition("--micro_batch_size ")[2].split()[0])
    assert memory_of(tiny_config(text, **large), smaller) <= 0.1e9 < memory_of(tiny_config(text, **large), 2 * smaller)
    assert not (tmp_path / "run" / "config.toml").exists()
    assert command(*train_words(text, tmp_path / "run", **{**large, "micro_batch_size": smaller, "max_steps": 1})) == 0


def test_where_not_even_one_sequence_fits_a_smaller_model_is_advised(capsys, text, tmp_path, machine_with):
    machine_with(1e3)
    for size in (0, "auto"):
        line = refusal(capsys, *train_words(text, tmp_path / "run", micro_batch_size=size))
        assert "choose a smaller model, or lower --max_seq_len" in line


def test_a_model_whose_weights_exceed_the_memory_is_refused_before_it_is_made(capsys, text, tmp_path, monkeypatch):
    monkeypatch.setattr(machine_memory, "memory_limit", lambda device, processes: 10e9)
    shape = {"hidden_size": 16384, "num_layers": 80, "num_heads": 64}
    line = refusal(capsys, *train_words(text, tmp_path / "run", **shape))
    assert (
        "GB for weights, gradients and optimizer state, and a process may use 10.0 GB here: choose a smaller model"
        in line
    )


def test_the_memory_of_the_machine_is_that_of_its_container_where_that_is_less(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_memory, "CONTROL_GROUP", tmp_path)
    whole, free = machine_memory.total_memory(), machine_memory.free_memory("cpu")
    assert 0 < free <= whole < math.inf
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert machine_memory.total_memory() == 3_000_000
    assert machine_memory.free_memory("cpu") == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_memory.total_memory() == whole


def test_what_a_process_may_use_is_a_fixed_share_of_the_total_for_each_process_of_the_machine(monkeypatch):
    monkeypatch.setattr(machine_memory, "total_memory", lambda: 100e9)
    assert machine_memory.memory_limit("cpu") == 90e9
    assert machine_memory.memory_limit("cpu", processes=3) == 30e9


def test_the_peak_memory_is_that_of_this_process_and_unknown_where_python_lacks_the_module(monkeypatch):
    assert 2**20 < machine_memory.peak_memory("cpu") < machine_memory.total_memory()
    monkeypatch.setitem(sys.modules, "resource", None)
    assert math.isnan(machine_memory.peak_memory("cpu"))


# --- compiling ---


LONG = {"max_steps": 10**7, "hidden_size": 64, "vocab_size": 50}


def decided(text, hardware=PLAIN, **options):
    return choose_compile(tiny_config(text, **{**LONG, **options}), hardware)


def test_auto_compiles_long_runs_that_have_no_kernels_of_their_own(text, monkeypatch):
    monkeypatch.setattr(compile_choice, "compile_problem", lambda device: None)
    flops = expected_flops(tiny_config(text, **LONG))
    assert flops > 600 * compile_choice.NOMINAL_FLOPS["cpu"]
    assert decided(text) == ("on", f"{flops:.1e} FLOP, long enough to pay off")
    assert decided(text, max_steps=100)[0] == "off"
    assert decided(text, NATIVE)[0] == "off"
    assert decided(text, changed(NATIVE, kernels="plain"))[0] == "on"
    assert decided(text, compile="on", max_steps=1) == ("on", "as requested")
    assert decided(text, compile="off") == ("off", "as requested")


def test_the_processes_of_a_run_share_its_operations(text, monkeypatch):
    monkeypatch.setattr(compile_choice, "compile_problem", lambda device: None)
    config = tiny_config(text, **LONG)
    processes = math.ceil(expected_flops(config) / (600 * compile_choice.NOMINAL_FLOPS["cpu"]))
    kinds = {number: choose_compile(config, PLAIN, number)[0] for number in (1, processes - 1, processes)}
    assert kinds == {1: "on", processes - 1: "on", processes: "off"}


def test_without_a_compiler_auto_says_so_and_on_is_refused(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert decided(text) == ("off", "there is no C++ compiler")
    line = refusal(capsys, *train_words(text, tmp_path / "run", compile="on"))
    assert line == "llamita: --compile on: there is no C++ compiler; use --compile auto or off\n"
    capsys.readouterr()
    train(text, tmp_path / "auto", max_steps=1)
    assert "not compiled (there is no C++ compiler)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("capability", "triton", "problem"),
    [((6, 1), True, "too old"), ((8, 0), False, "triton is not installed"), ((9, 0), True, None)],
)
def test_old_gpus_and_those_without_triton_are_not_compiled_for(monkeypatch, capability, triton, problem):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(compiling, "find_spec", lambda name: triton or None)
    found = compiling.compile_problem("cuda")
    assert (found is None) if problem is None else problem in found
    assert "Apple" in compiling.compile_problem("mps")


def test_cuda_graphs_are_refused_where_they_cannot_be(text, tmp_path, capsys):
    line = refusal(capsys, *train_words(text, tmp_path / "run", compile="graphs"))
    assert line == "llamita: --compile graphs: CUDA graphs need an NVIDIA GPU; use --compile auto or off\n"
    compiling.require_graphs("cuda", 1, 1)
    with pytest.raises(UserError, match="not in 2"):
        compiling.require_graphs("cuda", 2, 1)
    with pytest.raises(UserError, match="one process"):
        compiling.require_graphs("cuda", 1, 2)


def test_a_run_that_began_with_cuda_graphs_checks_for_them_again_when_it_resumes(text, tmp_path, capsys):
    run = train(text, tmp_path / "run", max_steps=2)
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace('compile = "off"', 'compile = "graphs"'))
    assert run.facts()["compile"] == "graphs"
    line = refusal(capsys, *train_words(text, tmp_path / "run", max_steps=4, extend=True))
    assert line == "llamita: --compile graphs: CUDA graphs need an NVIDIA GPU; use --compile auto or off\n"


def test_cuda_graphs_are_asked_of_the_compiler_for_training_only(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.append(options) or model)
    model = Llama(ModelConfig(vocab_size=40, hidden_size=32, num_layers=1, num_heads=4, max_seq_len=24))
    for graphs in (False, True):
        assert Compiled(model, 2, 24, graphs=graphs).compiled is model
    assert asked == [{"dynamic": False, "mode": None}, {"dynamic": False, "mode": "reduce-overhead"}]


def test_a_compiled_model_has_the_loss_and_gradients_of_the_plain_one_whatever_the_batch_lacks(eager_compiler):
    config = ModelConfig(vocab_size=40, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, max_seq_len=24)
    plain, inner = Llama(config), Llama(config)
    model = Compiled(inner, 4, 24)
    for rows_, seq in ((4, 24), (3, 24), (4, 17), (1, 8)):
        ids = torch.randint(40, (rows_, seq), generator=torch.Generator().manual_seed(seq))
        targets = ids.roll(-1, 1).clone()
        targets[0, 2] = -100
        losses = [m(ids, targets, reduction="sum") for m in (plain, model)]
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
        for m, loss in zip((plain, inner), losses, strict=True):
            m.zero_grad()
            loss.backward()
        for a, b in zip(plain.parameters(), inner.parameters(), strict=True):
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-5)


def test_a_compiled_run_learns_as_a_plain_one_and_keeps_its_choice_when_it_resumes(text, tmp_path, eager_compiler):
    plain = train(text, tmp_path / "plain", max_steps=8, windows="document")
    run = train(text, tmp_path / "run", max_steps=8, windows="document", compile="on")
    assert run.facts()["compile"] == "on"
    assert val_losses(run) == pytest.approx(val_losses(plain), rel=1e-4)
    assert set(torch.nn.Module.state_dict(Llama(run.config().model))) >= {"lm_head.weight"}
    train(text, tmp_path / "run", max_steps=12, windows="document", extend=True)
    assert run.facts()["compile"] == "on"


@pytest.mark.slow
def test_a_really_compiled_run_that_resumes_ends_bit_for_bit_the_same(text, tmp_path):
    if compiling.compile_problem("cpu"):
        pytest.skip("needs a C++ compiler")
    # A rate that does not depend on where the run was to end.
    options = {"windows": "document", "compile": "on", "max_steps": 8, "schedule": "constant", "decay_share": 0}
    train(text, tmp_path / "whole", **options)
    train(text, tmp_path / "halves", **{**options, "max_steps": 4})
    train(text, tmp_path / "halves", **options, extend=True)
    assert last_checkpoint(tmp_path / "whole") == last_checkpoint(tmp_path / "halves")


# --- kernels and the peak ---


def test_fused_kernels_are_chosen_wherever_they_can_be_compiled(monkeypatch):
    assert choose_hardware(ExecutionConfig(device="cpu")).kernels == "native"
    assert choose_hardware(ExecutionConfig(device="cpu", kernels="plain")).kernels == "plain"
    monkeypatch.setattr("llamita.jit.available", lambda: False)
    assert choose_hardware(ExecutionConfig(device="cpu")).kernels == "plain"


def test_a_resumed_run_computes_with_the_kernels_it_began_with_or_says_so(text, tmp_path, capsys):
    train(text, tmp_path / "run", precision="bf16", kernels="plain", max_steps=4)
    run = train(text, tmp_path / "run", precision="bf16", max_steps=8, extend=True)
    assert run.facts()["kernels"] == "plain"
    capsys.readouterr()
    train(text, tmp_path / "run", precision="bf16", kernels="native", max_steps=12, extend=True)
    assert "note: kernels was plain, is native now: not bitwise reproducible from here on" in capsys.readouterr().out


def test_the_plan_gives_the_measured_peak_and_the_share_of_it_that_a_step_reaches(text, tmp_path, capsys):
    train(text, tmp_path / "run", max_steps=1)
    out = capsys.readouterr().out
    assert "measured peak " in out
    assert "MFU" in out


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_peak_of_a_processor_is_a_plausible_number(precision):
    peak = peak_flops(Hardware("cpu", precision, 1))
    assert math.isfinite(peak)
    assert 1e8 < peak < 1e14
