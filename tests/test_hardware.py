"""What `auto` chooses, which devices are refused and how, and, where there is a GPU, that training runs on it."""

import math

import pytest
import torch
from runs import cache as cache
from runs import command, last_checkpoint, refusal, rows, text, train_words

from llamita.config import ExecutionConfig
from llamita.data import Batch
from llamita.errors import UserError
from llamita.parallel import Processes
from llamita.runtime import hardware
from llamita.runtime.hardware import Hardware, choose_hardware

fixtures = (text,)
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
on_mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs an Apple GPU")


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16"), ((12, 0), "bf16")],
)
def test_on_cuda_auto_is_bf16_where_there_is_bf16_then_fp16_then_fp32(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert hardware.best_precision("cuda") == hardware.best_precision("cuda:1") == precision


@pytest.mark.parametrize(
    ("instructions", "precision"), [({}, "fp32"), ({"amx_bf16": True}, "bf16"), ({"bf16": True}, "bf16")]
)
def test_on_a_cpu_auto_is_bf16_where_it_has_instructions_for_it(monkeypatch, instructions, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert hardware.best_precision("cpu") == precision


def test_on_mps_auto_is_fp32():
    assert hardware.best_precision("mps") == "fp32"


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_cuda_then_mps_then_the_cpu(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(hardware, "_check_device", lambda name: None)
    assert choose_hardware(ExecutionConfig(precision="fp32")).device == device


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_computes_products_in_the_precision(precision, dtype):
    with Hardware("cpu", precision, 1).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    with Hardware("cpu", "fp32", 1).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_cores_are_shared_among_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setattr(hardware, "usable_cores", lambda: 9)
    config = ExecutionConfig(device="cpu", precision="fp32")
    threads = {local: choose_hardware(config, Processes(0, 16, 0, local)).threads for local in (1, 2, 4, 16)}
    assert threads == {1: 9, 2: 4, 4: 2, 16: 1}


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_one_device_is_not_for_several_processes(monkeypatch, device):
    monkeypatch.setattr(hardware, "_check_device", lambda name: None)
    with pytest.raises(UserError, match=f"--device {device} is a single device, for one process"):
        choose_hardware(ExecutionConfig(device=device, precision="fp32"), Processes(0, 2, 0, 2))


def test_each_process_takes_the_gpu_of_its_number_and_too_few_are_one_line(monkeypatch):
    taken = []
    monkeypatch.setattr(hardware, "_check_device", lambda name: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    config = ExecutionConfig(device="cuda", precision="fp32")
    assert choose_hardware(config, Processes(5, 8, 1, 2)).device == "cuda"
    assert taken == [1]
    with pytest.raises(UserError, match="3 processes here, but each needs a GPU, and there are 2"):
        choose_hardware(config, Processes(0, 3, 0, 3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is here")
def test_cuda_that_is_not_here_is_one_line(text, tmp_path, capsys):
    assert "--device cuda cannot be used here" in refusal(capsys, *train_words(text, tmp_path / "run", device="cuda"))


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="mps is here")
def test_mps_that_is_not_here_is_one_line(text, tmp_path, capsys):
    message = refusal(capsys, *train_words(text, tmp_path / "run", device="mps"))
    assert message.startswith("llamita: --device mps cannot be used here (PyTorch finds no Apple GPU): use --device ")


def test_a_batch_on_the_cpu_is_not_pinned():
    batch = Batch(*(torch.arange(6).view(2, 3) for _ in range(3)))
    assert batch.to("cpu").ids is batch.ids


@on_cuda
def test_a_batch_arrives_on_the_gpu_whole():
    batch = Batch(*(torch.arange(6_000_000).view(2, -1) for _ in range(3)))
    moved = batch.to("cuda")
    assert moved.ids.device.type == "cuda"
    assert all(torch.equal(a.cpu(), b) for a, b in zip(moved, batch, strict=True))


@on_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_a_run_learns_what_it_learns_on_the_cpu(text, tmp_path, precision):
    for device, kind in {"cpu": "fp32", "cuda": precision}.items():
        assert command(*train_words(text, tmp_path / device, device=device, precision=kind)) == 0
    losses = [[row["val_loss"] for row in rows(tmp_path / d) if row["val_loss"]] for d in ("cpu", "cuda")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3 if precision == "fp32" else 0.05)
    assert math.isfinite(losses[1][-1])


@on_cuda
def test_on_a_gpu_the_same_run_twice_ends_the_same(text, tmp_path):
    for name in ("a", "b"):
        assert command(*train_words(text, tmp_path / name, device="cuda", precision="auto", dropout=0.1)) == 0
    assert last_checkpoint(tmp_path / "a") == last_checkpoint(tmp_path / "b")


@on_mps
def test_on_an_apple_gpu_a_run_learns_what_it_learns_on_the_cpu(text, tmp_path):
    for device in ("cpu", "mps"):
        assert command(*train_words(text, tmp_path / device, device=device)) == 0
    losses = [rows(tmp_path / device)[-1]["val_loss"] for device in ("cpu", "mps")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-2)
