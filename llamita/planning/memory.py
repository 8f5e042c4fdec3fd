"""How much memory a training run takes, before there is one: an update is computed on tensors without values.

PyTorch's fake tensors have shapes, types and storages of a size, but no memory. What real ones would take, and when
they would be freed, is counted while the very code of training runs on them: so a preset of 65 billion parameters is
looked at on a laptop, and no formula has to follow the code.
"""

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
from llamita.config import ModelConfig, RunConfig, replace
from llamita.evaluate.loss import TOKENS_AT_ONCE
from llamita.model import Llama
from llamita.ops.cpu.scratch import fake_buffers
from llamita.optim import Optimizer, build_optimizer
from llamita.runtime.hardware import Hardware

FEW_LAYERS = 1, 2
"""Layers are all alike: two numbers of them tell what each further one takes."""


HEAP = {"fp32": 1.32, "bf16": 1.2}
"""Resident bytes on a CPU for a byte in use, by precision: glibc's heap keeps what was freed between what is in use.

An allowance fitted to runs, not derived (docs/results.md, "Memory"). With large blocks mapped one by one, what is
resident is what is counted, but each step then faults its memory in again (see `_keep_freed_memory`).
"""


@dataclass(frozen=True)
class Memory:
    """Bytes of a training run by kind. The kinds are not all there at once: `peak` is the most at any moment.

    activations    what the forward pass of a micro-batch leaves for the backward pass
    peak           of updates, evaluations and samples, with what is there for a moment only, and on a CPU with what
                   the heap holds besides; without the program itself
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int


def training_memory(config: RunConfig, hardware: Hardware) -> Memory:
    """What training by `config` takes on `hardware`, where the vocabulary has the size that is asked for."""
    parameters, state = sum(count_parameters(config.model).values()), optimizer_state_bytes(config)
    layers = config.model.num_layers
    few, more = FEW_LAYERS if layers > max(FEW_LAYERS) else (layers, layers)
    phases = _phases(replace(config, num_layers=few), hardware)
    if more != few:
        longer = _phases(replace(config, num_layers=more), hardware)
        phases = {name: size + (longer[name] - size) * (layers - few) // (more - few) for name, size in phases.items()}
    activations = phases.pop("activations")
    if config.run.sample_every:
        tokens = config.run.sample_count * config.model.max_seq_len
        phases["samples"] = 4 * parameters + state + tokens * cache_bytes_per_token(config.model, bytes_per_number=4)
    heap = HEAP.get(hardware.precision, 1.0) if hardware.device == "cpu" else 1.0
    return Memory(4 * parameters, 4 * parameters, state, activations, round(heap * max(phases.values())))


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by group, as of `Llama.num_parameters`, without allocating them."""
    with torch.device("meta"):
        return Llama(config).num_parameters()


def optimizer_state_bytes(config: RunConfig) -> int:
    """Bytes of the optimizer's state after the first update, without allocating it."""
    with torch.device("meta"):
        return build_optimizer(config.optimizer, Llama(config.model)).state_bytes()


def cache_bytes_per_token(config: ModelConfig, bytes_per_number: int = 2) -> int:
    """Bytes of the key-value cache for one token of one sequence; numbers of 2 bytes are bf16."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * bytes_per_number


def _phases(config: RunConfig, hardware: Hardware) -> dict[str, int]:
    """Peak bytes of evaluation, forward pass, backward pass and optimizer; and the activations."""
    with torch.device("meta"):
        model = Llama(config.model)
    asked_for = config.run.micro_batch_size
    rows = asked_for if isinstance(asked_for, int) and asked_for else config.training.batch_size
    with ops.backend(hardware.kernels), FakeTensorMode(), _Ledger() as ledger, fake_buffers():
        tensors = {name: torch.empty(value.shape, dtype=value.dtype, device=hardware.device).requires_grad_(learned)
                   for named, learned in ((model.named_parameters(), True), (model.named_buffers(), False))
                   for name, value in named}  # fmt: skip
        weights = [tensor for tensor in tensors.values() if tensor.requires_grad]
        optimizer = _optimizer_of(tensors, model, config)
        _allocate_state(optimizer, weights)
        phases = {}
        for weight in weights:  # which the second micro-batch adds to, and the plan's second step on trial
            weight.grad = torch.empty_like(weight)
        before = ledger.bytes
        with ledger.peak(phases, "forward"):
            loss = _loss(model, tensors, config, hardware, rows)
        phases["activations"] = ledger.bytes - before
        with ledger.peak(phases, "backward"):
            loss.backward()
        del loss
        with ledger.peak(phases, "optimizer"):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad(), ledger.peak(phases, "evaluation"):  # last: a step leaves what it will use again
            _loss(model, tensors, config, hardware, max(1, TOKENS_AT_ONCE // config.model.max_seq_len))
    return phases


def _loss(model: Llama, tensors: dict[str, Tensor], config: RunConfig, hardware: Hardware, rows: int) -> Tensor:
    ids = torch.empty(rows, config.model.max_seq_len, dtype=torch.int64, device=hardware.device)
    with hardware.autocast():
        return functional_call(model, tensors, (ids, ids), {"reduction": "sum"})


def _optimizer_of(tensors: dict[str, Tensor], model: Llama, config: RunConfig) -> Optimizer:
    """The optimizer of the run, with `tensors` in place of the parameters of these names."""
    optimizer = build_optimizer(config.optimizer, model)
    stand_ins = {parameter: tensors[name] for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        group["params"] = [stand_ins[parameter] for parameter in group["params"]]
    return optimizer


def _allocate_state(optimizer: Optimizer, weights: list[Tensor]) -> None:
    """After the first update there is always an optimizer state."""
    for weight in weights:
        weight.grad = torch.empty_like(weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class _Ledger(TorchDispatchMode):
    """Keeps account of the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self.known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, and enter what is new."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._enter(tensor.untyped_storage())
        return out

    @contextmanager
    def peak(self, phases: dict[str, int], name: str) -> Iterator[None]:
        """Enter the most bytes that are alive at once inside the block as `phases[name]`."""
        self.most = self.bytes
        yield
        phases[name] = self.most

    def _enter(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place not in self.known:
            self.known[place] = weakref.ref(storage, lambda _: self._strike(place, size))
            self.bytes += size
            self.most = max(self.most, self.bytes)

    def _strike(self, place: int, size: int) -> None:
        del self.known[place]
        self.bytes -= size
