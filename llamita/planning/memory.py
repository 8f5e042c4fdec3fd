"""Estimate the memory of a training run before it starts, by running an update on FakeTensors.

FakeTensors have shapes, dtypes and storage sizes, but no memory. The actual training code runs on them while a dispatch
mode counts what real tensors would allocate and free. So a laptop can estimate a model of 65 billion parameters, and no
formula has to be kept in line with the code.
"""

import dataclasses
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llamita import ops
from llamita.config import ModelConfig, RunConfig
from llamita.evaluate.loss import TOKENS_PER_BATCH
from llamita.model import Llama
from llamita.ops.cpu.scratch import fake_buffers
from llamita.optim import Optimizer, build_optimizer
from llamita.runtime.hardware import Hardware

FEW_LAYERS = 1, 2
"""All layers are alike: two estimates with different numbers of layers give the memory of each additional one."""


HEAP = {"fp32": 1.32, "bf16": 1.2}
"""Resident bytes on a CPU per byte in use, by precision: glibc's heap is fragmented, and keeps freed memory.

Fitted to measured runs, not derived (docs/results.md, "Memory"). With large blocks mapped one by one, resident memory
would be what is counted, but each step would fault its memory in again (see `_keep_freed_memory`).
"""


@dataclass(frozen=True)
class Memory:
    """Bytes of a training run by kind. The kinds do not all coexist, so `peak` is not their sum.

    activations    what the forward pass of a micro-batch saves for the backward pass
    peak           of updates, evaluation and sampling, including temporaries, and on a CPU the overhead of the heap;
                   without the program itself
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int


def training_memory(config: RunConfig, hardware: Hardware) -> Memory:
    """Memory of training by `config` on `hardware`, assuming that the vocabulary reaches its requested size."""
    parameters, state = sum(count_parameters(config.model).values()), optimizer_state_bytes(config)
    layers = config.model.num_layers
    few, more = FEW_LAYERS if layers > max(FEW_LAYERS) else (layers, layers)
    phases = _phases(_with_layers(config, few), hardware)
    if more != few:
        longer = _phases(_with_layers(config, more), hardware)
        phases = {name: size + (longer[name] - size) * (layers - few) // (more - few) for name, size in phases.items()}
    activations = phases.pop("activations")
    if config.run.sample_every:
        tokens = config.run.sample_count * config.model.max_seq_len
        phases["samples"] = 4 * parameters + state + tokens * cache_bytes_per_token(config.model, bytes_per_number=4)
    heap = HEAP.get(hardware.precision, 1.0) if hardware.device == "cpu" else 1.0
    return Memory(4 * parameters, 4 * parameters, state, activations, round(heap * max(phases.values())))


def _with_layers(config: RunConfig, num_layers: int) -> RunConfig:
    """`config` with another number of layers, and width and batch as they are: they may follow from a size."""
    training = dataclasses.replace(config.training)
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, num_layers=num_layers), training=training
    )


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by group, as `Llama.num_parameters` returns them, without allocating them."""
    with torch.device("meta"):
        return Llama(config).num_parameters()


def optimizer_state_bytes(config: RunConfig) -> int:
    """Bytes of the optimizer's state after the first update, without allocating it."""
    with torch.device("meta"):
        return build_optimizer(config.optimizer, Llama(config.model)).state_bytes()


def cache_bytes_per_token(config: ModelConfig, bytes_per_number: int = 2) -> int:
    """Bytes of the KV cache per token of a sequence; 2 bytes per number is bf16."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * bytes_per_number


def _phases(config: RunConfig, hardware: Hardware) -> dict[str, int]:
    """Peak bytes of evaluation, forward pass, backward pass and optimizer step, and bytes of activations."""
    with torch.device("meta"):
        model = Llama(config.model)
    requested = config.run.micro_batch_size
    rows = requested if isinstance(requested, int) and requested else config.training.batch_size
    with ops.backend(hardware.kernels), FakeTensorMode(), _AllocationTracker() as tracker, fake_buffers():
        tensors = {name: torch.empty(value.shape, dtype=value.dtype, device=hardware.device).requires_grad_(learned)
                   for named, learned in ((model.named_parameters(), True), (model.named_buffers(), False))
                   for name, value in named}  # fmt: skip
        weights = [tensor for tensor in tensors.values() if tensor.requires_grad]
        optimizer = _optimizer_of(tensors, model, config)
        _allocate_state(optimizer, weights)
        phases = {}
        for weight in weights:  # gradients exist when the second micro-batch, or trial step, accumulates into them
            weight.grad = torch.empty_like(weight)
        before = tracker.bytes
        with tracker.peak(phases, "forward"):
            loss = _loss(model, tensors, config, hardware, rows)
        phases["activations"] = tracker.bytes - before
        with tracker.peak(phases, "backward"):
            loss.backward()
        del loss
        with tracker.peak(phases, "optimizer"):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad(), tracker.peak(phases, "evaluation"):  # last: a step leaves buffers that it will reuse
            _loss(model, tensors, config, hardware, max(1, TOKENS_PER_BATCH // config.model.max_seq_len))
    return phases


def _loss(model: Llama, tensors: dict[str, Tensor], config: RunConfig, hardware: Hardware, rows: int) -> Tensor:
    ids = torch.empty(rows, config.model.max_seq_len, dtype=torch.int64, device=hardware.device)
    with hardware.autocast():
        return functional_call(model, tensors, (ids, ids), {"reduction": "sum"})


def _optimizer_of(tensors: dict[str, Tensor], model: Llama, config: RunConfig) -> Optimizer:
    """The optimizer of the run, with `tensors` in place of the parameters with these names."""
    optimizer = build_optimizer(config.optimizer, model)
    replacements = {parameter: tensors[name] for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        group["params"] = [replacements[parameter] for parameter in group["params"]]
    return optimizer


def _allocate_state(optimizer: Optimizer, weights: list[Tensor]) -> None:
    """Allocate the optimizer state, which exists from the first update on."""
    for weight in weights:
        weight.grad = torch.empty_like(weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class _AllocationTracker(TorchDispatchMode):
    """Tracks the storages that are alive, and their peak size."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self.known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and track the storages that it allocates."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._track(tensor.untyped_storage())
        return out

    @contextmanager
    def peak(self, phases: dict[str, int], name: str) -> Iterator[None]:
        """Set `phases[name]` to the peak bytes inside the block."""
        self.most = self.bytes
        yield
        phases[name] = self.most

    def _track(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self.known:
            self.known[address] = weakref.ref(storage, lambda _: self._untrack(address, size))
            self.bytes += size
            self.most = max(self.most, self.bytes)

    def _untrack(self, address: int, size: int) -> None:
        del self.known[address]
        self.bytes -= size
