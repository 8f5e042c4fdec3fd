"""What runs on an accelerator, run on one that every machine has: right devices, the CPU's results, no float64.

Everything with an accelerator runs in one process of its own, since torch knows it for the whole process.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import fake_accelerator
import numpy as np
import pytest
import torch
import torchgen
import yaml
from fake_accelerator import DEVICE, Accelerator, AcceleratorTensor, WrongDeviceError
from runs import digest, forks
from torch import Tensor

from llamita.config import GenerationConfig
from llamita.data import Batch
from llamita.evaluate import evaluate_loss
from llamita.evaluate.positions import evaluate_positions
from llamita.generate import generate_ids
from llamita.model import Attention, Llama, ModelConfig
from llamita.optim import AdamW, clip_grad_norm_
from llamita.train import load_checkpoint, save_checkpoint

VOCAB, CONTEXT, STEPS = 31, 16, 3
DEFAULT: dict[str, Any] = {}
SWITCHES: list[dict[str, Any]] = [
    DEFAULT,
    {"norm": "layer", "bias": True, "mlp": "gelu", "position": "learned", "tie_embeddings": False},
    {"norm": "none", "mlp": "relu2", "position": "none", "qk_norm": True},
    {"norm_position": "post", "num_kv_heads": 1, "dropout": 0.1},
    {"rope_scaling_factor": 4.0, "rope_original_max_seq_len": 8},
]
PROMPTS = [[3], [1, 2, 3, 4, 5], [7, 7]]
CALLED_WITHIN = {  # composite kernels, unseen by a recorder
    *("_index_put_impl_", "_softmax", "masked_fill.Scalar", "lerp_.Scalar", "addcmul_", "addcdiv_", "sqrt_"),
    "_scaled_dot_product_attention_math_for_mps",
}
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(scope="module")
def apart() -> Iterator[Callable[..., Any]]:
    """Calls a function in the process that has the accelerator -> its result; its exceptions are raised here."""
    with ProcessPoolExecutor(1, mp_context=forks, initializer=fake_accelerator.register) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result()


def model_on(device: str, **changes: Any) -> Llama:
    shape = {"vocab_size": VOCAB, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}
    return Llama(ModelConfig(**{**shape, "max_seq_len": CONTEXT, **changes})).to(device)


class SomeWindows:
    """Eleven windows of any ids, with a few targets that do not count."""

    def __len__(self) -> int:
        return 11

    def batch(self, indices: np.ndarray) -> Batch:
        ids = torch.randint(VOCAB, (11, CONTEXT + 1), generator=torch.Generator().manual_seed(0))[indices]
        targets = ids[:, 1:].clone()
        targets[:, ::7] = -100
        return Batch(ids[:, :-1], targets, (torch.arange(CONTEXT) // 6).expand(len(ids), -1))


def autocast(device: str, precision: str) -> AbstractContextManager[object]:
    return torch.autocast(device, PRECISIONS[precision]) if precision in PRECISIONS else nullcontext()


def trained(device: str, precision: str = "fp32", packed: bool = False, **changes: Any) -> tuple[Llama, AdamW, list]:
    """Steps as the training loop makes them -> model with its last gradients, optimizer, losses and gradient norms."""
    model, found = model_on(device, **changes), []
    optimizer, batch = AdamW(model.parameters(), lr=1e-2), SomeWindows().batch(np.arange(4)).to(device)
    documents = batch.document_ids if packed else None
    for step in range(STEPS):
        torch.manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            nats = model(batch.ids, batch.targets, document_ids=documents, reduction="sum")
        (nats / 64).backward()
        norm = clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append((nats.item() / 64, norm.item()))
    return model, optimizer, found


def gradients(model: Llama) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def training_on_both(precision: str, packed: bool, changes: dict[str, Any]) -> tuple[list, list, dict, dict]:
    model, _, expected = trained("cpu", precision, packed, **changes)
    with Accelerator():
        moved, _, found = trained(DEVICE, precision, packed, **changes)
        assert all(
            isinstance(tensor, AcceleratorTensor) for tensor in (*moved.parameters(), *gradients(moved).values())
        )
        return found, expected, {name: g.cpu() for name, g in gradients(moved).items()}, gradients(model)


@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_training_steps_find_what_the_cpu_finds(apart, changes, packed):
    changes = {**changes, "dropout": 0.0}  # which every device draws in its own way
    found, expected, found_gradients, expected_gradients = apart(training_on_both, "fp32", packed, changes)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert found[-1] < found[0]
    torch.testing.assert_close(found_gradients, expected_gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_steps_under_autocast_come_near_those_of_the_cpu(apart, precision):
    found, expected, *_ = apart(training_on_both, precision, False, DEFAULT)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=2e-2, atol=2e-2)


def dtype_of_logits() -> torch.dtype:
    with Accelerator(), autocast(DEVICE, "bf16"):
        return model_on(DEVICE)(torch.zeros(1, 4, dtype=torch.int64, device=DEVICE)).dtype


def test_autocast_reaches_the_matrix_products_of_the_accelerator(apart):
    assert apart(dtype_of_logits) == torch.bfloat16


def evaluations(device: str) -> tuple[Any, Any]:
    model, lengths = model_on(device), np.ones(VOCAB, dtype=np.int64)
    return evaluate_loss(model, SomeWindows(), lengths), evaluate_positions(model, SomeWindows(), lengths)


def evaluations_on_both() -> tuple[Any, Any]:
    with Accelerator():
        return evaluations("cpu"), evaluations(DEVICE)


def test_evaluation_finds_what_the_cpu_finds(apart):
    (loss, positions), (found_loss, found_positions) = apart(evaluations_on_both)
    assert found_loss.loss == pytest.approx(loss.loss, rel=1e-5)
    assert (found_loss.targets, found_loss.bytes) == (loss.targets, loss.bytes)
    np.testing.assert_allclose(found_positions.means(), positions.means(), rtol=1e-5)


def written(device: str, options: dict[str, Any]) -> list[list[int]]:
    """Three times what the context holds, so that it is prefilled again."""
    return generate_ids(model_on(device).eval(), PROMPTS, GenerationConfig(3 * CONTEXT, **options), end_id=0)


def written_on_both(options: dict[str, Any]) -> tuple[Any, Any]:
    with Accelerator():
        return written("cpu", options), written(DEVICE, options)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {}, {"top_k": 0, "top_p": 0.9, "repetition_penalty": 1.3}], ids=str
)
def test_the_same_tokens_are_written_as_on_the_cpu(apart, options):
    expected, found = apart(written_on_both, options)
    assert found == expected
    assert max(map(len, found)) > CONTEXT


def saved_on_both(folder: Path) -> None:
    """The same training state, saved from the CPU, loaded to the accelerator and saved from there."""
    model, optimizer, _ = trained("cpu")
    save_checkpoint(folder / "cpu", model, optimizer, STEPS)
    with Accelerator():
        moved = model_on(DEVICE)
        fresh = AdamW(moved.parameters())
        assert load_checkpoint(folder / "cpu", moved, fresh) == STEPS
        moments = [state[name] for state in fresh.state.values() for name in ("exp_avg", "exp_avg_sq")]
        assert all(isinstance(tensor, AcceleratorTensor) for tensor in (*moments, *moved.parameters()))
        save_checkpoint(folder / "accelerator", moved, fresh, STEPS)


def test_a_checkpoint_of_the_cpu_loads_on_the_accelerator_and_saves_the_same_files(apart, tmp_path):
    apart(saved_on_both, tmp_path)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert digest(tmp_path / "accelerator" / name) == digest(tmp_path / "cpu" / name)


class MisplacedAttention(Attention):
    """Forgets to say on which device."""

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        return super().forward(x, *arguments) + torch.zeros(x.shape[1:])


class WideAttention(Attention):
    """Adds something in float64."""

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        return super().forward(x, *arguments) + x.double().mean(dim=-1, keepdim=True).float()


def forward_through(attention: type[Attention]) -> None:
    with Accelerator():
        model = model_on(DEVICE)
        model.model.layers[1].self_attn = attention(model.config).to(DEVICE)
        model(torch.zeros(1, 4, dtype=torch.int64, device=DEVICE))


def test_a_tensor_on_the_wrong_device_and_float64_are_caught(apart):
    apart(forward_through, Attention)
    with pytest.raises(WrongDeviceError, match=r"add.Tensor: tensors of shape \[\(4, 24\)\] are on the CPU"):
        apart(forward_through, MisplacedAttention)
    with pytest.raises(TypeError, match="no float64"):
        apart(forward_through, WideAttention)


def recorded_operations(folder: Path) -> set[str]:
    """Every operation that training, evaluation, sampling and checkpoints run on an accelerator."""
    with Accelerator() as accelerator:
        for changes in SWITCHES:
            trained(DEVICE, **changes)
            trained(DEVICE, packed=True, **changes)
        for precision in PRECISIONS:
            trained(DEVICE, precision)
        evaluations(DEVICE)
        written(DEVICE, {})
    saved_on_both(folder)
    return accelerator.operations


def mps_support() -> dict[str, bool]:
    """Whether MPS has a kernel of each operation, by torch's own list of operations and their kernels."""
    file = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = {e["func"].partition("(")[0]: e for e in yaml.safe_load(file.read_text(encoding="utf-8"))}

    def supported(entry: dict[str, Any]) -> bool:
        if "structured_delegate" in entry:
            return supported(entries[entry["structured_delegate"]])
        if "dispatch" not in entry:
            return True  # composite: made of other operations
        keys = {key.strip() for keys in entry["dispatch"] for key in keys.split(",")}
        return "MPS" in keys or any(key.startswith("Composite") for key in keys)

    return {name: supported(entry) for name, entry in entries.items()}


def test_every_operation_has_a_kernel_on_apples_gpus_and_is_documented(apart, tmp_path):
    operations, support = apart(recorded_operations, tmp_path) | CALLED_WITHIN, mps_support()
    assert not support["geqrf"]  # the list tells what is missing
    assert {name for name in operations if not support[name]} == set()
    documentation = (Path(__file__).parents[1] / "docs" / "platforms.md").read_text(encoding="utf-8")
    assert {name for name in operations if f"`{name}`" not in documentation} == set(), "list these in docs/platforms.md"
