"""What is decided of a run's steps before the first: micro-batches that fit, compiling, the peak they are held to."""

import dataclasses
import math
import shutil
import subprocess
import sys
from dataclasses import replace as changed

import pytest
import torch
from nearness import distance
from runs import cache as cache
from runs import command, last_checkpoint, refusal, rows, train_words
from runs import text as text

from llamita.config import ExecutionConfig
from llamita.errors import UserError
from llamita.jit.tiles import has_bf16_products
from llamita.model import Llama, ModelConfig
from llamita.planning import room
from llamita.planning.peak import matrix_peak
from llamita.runtime import blocks, compiling, hardware
from llamita.runtime.compiling import Compiled, choose_compile
from llamita.runtime.hardware import Blocks, Hardware, choose_hardware
from llamita.train import RunDirectory, fit

GIB = 2**30
PLAIN = Hardware("cpu", "fp32", 1, "plain")
NATIVE = Hardware("cpu", "bf16", 1, "native")


@pytest.fixture
def scarce(monkeypatch):
    """A function (bytes) that makes so much memory free, as far as runs can see."""

    def leave(size: float) -> None:
        monkeypatch.setattr(fit, "available_memory", lambda device: size)

    return leave


@pytest.fixture
def eager_compiler(monkeypatch):
    """torch.compile without its compiler: traced, but computed by torch's own operations."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: whole(model, backend="eager", **options))
    monkeypatch.setattr(compiling, "compile_problem", lambda device: None)


def train(text, path, **options):
    assert command(*train_words(text, path, **options)) == 0
    return RunDirectory(path)


def val_losses(run):
    return [row["val_loss"] for row in rows(run.path) if row["val_loss"] is not None]


# --- blocks of the native kernels ---


@pytest.fixture
def blocks_take(monkeypatch):
    """A function ({block: seconds}) that makes trials of attention take as long as that."""
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)

    def take(seconds: dict[int, float]) -> None:
        monkeypatch.setattr(blocks, "_try_attention", lambda model, rows: seconds)

    return take


NATIVELY = {"precision": "bf16", "kernels": "native"}


def test_blocks_are_tried_written_down_told_and_taken_again(text, tmp_path, blocks_take, capsys):
    blocks_take({128: 0.020, 256: 0.010})
    run = train(text, tmp_path / "run", max_steps=4, **NATIVELY)
    assert run.facts()["attention_block"] == 256
    assert "attention of 256 queries at once (ms on trial: 128: 20.0, 256: 10.0)" in capsys.readouterr().out
    blocks_take({128: 0.001, 256: 0.010})
    again = train(text, tmp_path / "run", max_steps=8, extend=True, **NATIVELY)
    assert again.facts()["attention_block"] == 256
    assert "attention of 256 queries at once (as when the run began)" in capsys.readouterr().out


def test_blocks_that_are_hardly_faster_are_left(text, tmp_path, blocks_take):
    blocks_take({128: 0.0100, 256: 0.0096})
    assert train(text, tmp_path / "run", max_steps=2, **NATIVELY).facts()["attention_block"] == 128


def test_a_run_without_native_kernels_has_no_blocks(text, tmp_path):
    assert "attention_block" not in train(text, tmp_path / "run", max_steps=2, precision="fp32").facts()


def test_what_is_tried_is_what_computes():
    """On real kernels: the blocks in question, forward and backward, in seconds."""
    model = ModelConfig(vocab_size=97, hidden_size=64, num_layers=1, num_heads=4, num_kv_heads=2, max_seq_len=160)
    attention, head = blocks._try_attention(model, 2), blocks._try_head(model, 20)
    assert list(attention) == ([32, 64, 128, 256] if has_bf16_products() else [128, 256])
    assert all(value > 0 for value in attention.values())
    assert list(head) == [(1 << 23) // 97]  # with few tokens there is one slice
    assert list(blocks._try_head(dataclasses.replace(model, vocab_size=10_000), 20)) == [838, 1024]


def test_trials_and_steps_leave_what_torch_does_not_need_out_of_memory():
    """sympy and torch's compiler are 100 MB together, and a second or two; so are numba and LLVM."""
    code = (
        f"llvm = {['llvmlite'] if shutil.which('cc') else []}\n"
        "import sys, torch; from llamita.config import ModelConfig; from llamita.model import Llama\n"
        "from llamita.optim import AdamW; from llamita.runtime import blocks, hardware\n"
        "config = ModelConfig(vocab_size=9, hidden_size=64, num_layers=1, num_heads=4, max_seq_len=160)\n"
        "blocks._try_attention(config, 2), blocks._try_head(config, 2)\n"
        "machine = hardware.Hardware('cpu', 'bf16', 2); model = machine.apply(Llama(config))\n"
        "ids = torch.zeros(1, 160, dtype=torch.int64); optimizer = AdamW(model.parameters())\n"
        "with machine.autocast(): loss = model(ids, ids)\n"
        "loss.backward(); optimizer.step(); optimizer.zero_grad()\n"
        "print(*{'sympy', 'torch._dynamo', 'torch._inductor', 'numba', *llvm} & sys.modules.keys())"
    )
    for _ in range(2):  # the first may have to compile what the second finds
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(("attention_block", "head_block"), [(32, 64), (7, 1), (1000, 100_000)])
def test_a_model_learns_the_same_with_blocks_of_any_size(attention_block, head_block):
    losses = []
    ids = torch.randint(97, (3, 150), generator=torch.Generator().manual_seed(0))
    for chosen in (Blocks(), Blocks(attention_block, head_block)):
        machine = Hardware("cpu", "bf16", 2, "native", chosen)
        model = machine.apply(Llama(ModelConfig(vocab_size=97, hidden_size=64, num_layers=2, max_seq_len=160)))
        with machine.autocast():
            loss = model(ids, ids)
        loss.backward()
        losses.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    for expected, found in zip(*losses, strict=True):
        assert distance(found, expected) < 0.02


# --- micro-batches ---


def test_auto_chooses_a_micro_batch_writes_it_down_and_takes_it_again(text, tmp_path, monkeypatch):
    seconds = {4: 4.0, 2: 1.0, 1: 0.9}  # two at a time are the fastest
    monkeypatch.setattr(fit, "micro_batch_seconds", lambda run, rows: seconds[rows])
    run = train(text, tmp_path / "run", micro_batch_size="auto", max_steps=4)
    assert run.facts()["micro_batch_size"] == 2
    seconds[4] = 0.1
    again = train(text, tmp_path / "run", micro_batch_size="auto", max_steps=8, extend=True)
    assert again.facts()["micro_batch_size"] == 2
    assert train(text, tmp_path / "new", micro_batch_size="auto", max_steps=4).facts()["micro_batch_size"] == 4


def test_of_two_equally_fast_micro_batches_the_larger_one_is_taken(text, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "micro_batch_seconds", lambda run, rows: float(rows))
    assert train(text, tmp_path / "run", micro_batch_size="auto", max_steps=2).facts()["micro_batch_size"] == 4


def test_micro_batches_leave_the_update_as_it_is(text, tmp_path):
    whole, cut = (
        train(text, tmp_path / str(size), micro_batch_size=size, batch_size=5, max_steps=6) for size in (0, 2)
    )
    assert val_losses(cut) == pytest.approx(val_losses(whole), rel=1e-5)
    assert [row["tokens"] for row in rows(cut.path)] == [row["tokens"] for row in rows(whole.path)]


def test_a_trial_leaves_no_trace_in_the_run(text, tmp_path):
    tried = train(text, tmp_path / "tried", micro_batch_size="auto", dropout=0.1)
    chosen = tried.facts()["micro_batch_size"]
    told = train(text, tmp_path / "told", micro_batch_size=chosen, dropout=0.1)
    assert val_losses(tried) == val_losses(told)


def test_a_micro_batch_that_does_not_fit_is_refused_before_step_1_naming_one_that_does(capsys, text, tmp_path, scarce):
    scarce(0.3e9)
    shape = {"hidden_size": 256, "max_seq_len": 64, "batch_size": 256, "num_layers": 4}
    line = refusal(capsys, *train_words(text, tmp_path / "run", **shape))
    assert "256 sequences x 64 tokens do not fit into memory" in line
    smaller = int(line.partition("--micro_batch_size ")[2].split()[0])
    assert 1 <= smaller < 256
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    scarce(64 * GIB)
    assert command(*train_words(text, tmp_path / "run", **{**shape, "batch_size": 4, "max_steps": 1})) in (0, 2)


def test_auto_passes_over_micro_batches_that_do_not_fit(text, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "_fits", lambda run, rows: rows <= 2)
    monkeypatch.setattr(fit, "micro_batch_seconds", lambda run, rows: float(rows))
    assert train(text, tmp_path / "run", micro_batch_size="auto", max_steps=2).facts()["micro_batch_size"] == 2


def test_where_not_even_one_sequence_fits_a_smaller_model_is_advised(capsys, text, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "_fits", lambda run, rows: False)
    for size in (0, "auto"):
        line = refusal(capsys, *train_words(text, tmp_path / "run", micro_batch_size=size))
        assert "choose a smaller model, or lower --max_seq_len" in line


def test_a_model_whose_weights_have_no_room_is_refused_before_it_is_made(capsys, text, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "available_memory", lambda device: 10e9)
    shape = {"hidden_size": 16384, "num_layers": 80, "num_heads": 64}
    line = refusal(capsys, *train_words(text, tmp_path / "run", **shape))
    assert "GB for weights, gradients and AdamW, and 10.0 GB are free: choose a smaller model" in line


def test_available_memory_is_what_the_machine_and_the_container_leave(tmp_path, monkeypatch):
    whole = room.available_memory("cpu")
    assert whole > 0
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(room, "CONTROL_GROUP", tmp_path)
    assert room.available_memory("cpu") == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert room.available_memory("cpu") == pytest.approx(whole, rel=0.5)


# --- compiling ---


def decided(wish="auto", hardware=PLAIN, seconds=1e6):
    return choose_compile(wish, hardware, seconds * compiling.TYPICAL_SHARE, peak=1.0)


def test_auto_compiles_long_runs_that_have_no_kernels_of_their_own(monkeypatch):
    monkeypatch.setattr(compiling, "compile_problem", lambda device: None)
    assert decided(seconds=1e5) == ("on", "the run is long enough: about 100,000 s")
    assert decided(seconds=10) == ("off", "the run is too short to win back the wait: about 10 s")
    assert decided(hardware=NATIVE)[0] == "off"
    assert decided(hardware=changed(NATIVE, kernels="plain"))[0] == "on"
    assert decided("on", seconds=1) == ("on", "asked for")
    assert decided("off") == ("off", "asked for")


def test_without_a_compiler_auto_says_so_and_on_is_refused(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert decided() == ("off", "there is no C++ compiler")
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
    assert line == "llamita: --compile graphs: CUDA graphs need a GPU of NVIDIA's; use --compile auto or off\n"
    compiling.require_graphs("cuda", 1, 1)
    with pytest.raises(UserError, match="not 2 parts of it"):
        compiling.require_graphs("cuda", 2, 1)
    with pytest.raises(UserError, match="one process"):
        compiling.require_graphs("cuda", 1, 2)


def test_a_run_that_began_with_cuda_graphs_is_asked_again_where_it_goes_on(text, tmp_path, capsys):
    run = train(text, tmp_path / "run", max_steps=2)
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace('compile = "off"', 'compile = "graphs"'))
    assert run.facts()["compile"] == "graphs"
    line = refusal(capsys, *train_words(text, tmp_path / "run", max_steps=4, extend=True))
    assert line == "llamita: --compile graphs: CUDA graphs need a GPU of NVIDIA's; use --compile auto or off\n"


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


def test_a_compiled_run_learns_as_a_plain_one_and_its_choice_holds_when_it_goes_on(text, tmp_path, eager_compiler):
    plain = train(text, tmp_path / "plain", max_steps=8, windows="document")
    run = train(text, tmp_path / "run", max_steps=8, windows="document", compile="on")
    assert run.facts()["compile"] == "on"
    assert val_losses(run) == pytest.approx(val_losses(plain), rel=1e-4)
    assert set(torch.nn.Module.state_dict(Llama(run.config().model))) >= {"lm_head.weight"}
    train(text, tmp_path / "run", max_steps=12, windows="document", extend=True)
    assert run.facts()["compile"] == "on"


@pytest.mark.slow
def test_compiled_for_real_a_run_that_goes_on_ends_bit_for_bit_the_same(text, tmp_path):
    if compiling.compile_problem("cpu"):
        pytest.skip("needs a C++ compiler")
    # A rate that does not depend on where the run was to end.
    options = {"windows": "document", "compile": "on", "max_steps": 8, "schedule": "constant", "decay_share": 0}
    train(text, tmp_path / "whole", **options)
    train(text, tmp_path / "halves", **{**options, "max_steps": 4})
    train(text, tmp_path / "halves", **options, extend=True)
    assert last_checkpoint(tmp_path / "whole") == last_checkpoint(tmp_path / "halves")


# --- kernels and the peak ---


def test_native_kernels_are_chosen_for_bf16_on_a_cpu_only():
    chosen = {p: choose_hardware(ExecutionConfig(device="cpu", precision=p)).kernels for p in ("bf16", "fp16", "fp32")}
    assert chosen == {"bf16": "native", "fp16": "plain", "fp32": "plain"}
    assert choose_hardware(ExecutionConfig(device="cpu", precision="bf16", kernels="plain")).kernels == "plain"


def test_native_kernels_are_refused_where_they_cannot_compute(capsys, text, tmp_path):
    line = refusal(capsys, *train_words(text, tmp_path / "run", kernels="native", precision="fp32"))
    assert line == "llamita: --kernels native are for bf16 on a CPU, not for fp32 on cpu: use --kernels auto\n"


def test_a_run_that_goes_on_computes_with_the_kernels_it_began_with_or_says_so(text, tmp_path, capsys):
    train(text, tmp_path / "run", precision="bf16", kernels="plain", max_steps=4)
    run = train(text, tmp_path / "run", precision="bf16", max_steps=8, extend=True)
    assert run.facts()["kernels"] == "plain"
    capsys.readouterr()
    train(text, tmp_path / "run", precision="bf16", kernels="native", max_steps=12, extend=True)
    assert "note: kernels was plain, is native now: from here on not the same bit for bit" in capsys.readouterr().out


def test_the_plan_gives_the_measured_peak_and_the_share_of_it_that_a_step_reaches(text, tmp_path, capsys):
    train(text, tmp_path / "run", max_steps=1)
    out = capsys.readouterr().out
    assert "the matrix peak here is" in out
    assert "MFU" in out


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_peak_of_a_processor_is_a_plausible_number(precision):
    peak = matrix_peak(Hardware("cpu", precision, 1))
    assert math.isfinite(peak)
    assert 1e8 < peak < 1e14
