"""What is measured against each other: models with all that a step of their training takes.

llamita's is built first and leaves its weights, the tokens and their order in a folder, where the others find them: so
all compute the same, and none needs another's code in its memory.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from llamita.bench.shapes import Task
from llamita.errors import UserError

STEPS_IN_ORDER = 64
"""Steps until the tokens are seen again."""
OPTIMIZER: Mapping[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
MAX_NORM = 1.0


@dataclass(frozen=True)
class Contender:
    """A model on its way to a loss, what updates it, and the batches that it learns from."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    clip: Callable[[], Tensor]
    batch: Callable[[int], tuple[Tensor, Tensor]]
    """Number of a step -> ids and targets (batch, seq)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the table says beside the numbers."""


def llamita(task: Task) -> Contender:
    """The model of `llamita train`, on the hardware that it chooses. Fills the folder."""
    from llamita.config import ExecutionConfig
    from llamita.data import IGNORED, BatchOrder, StreamWindows, TokenFile
    from llamita.model import Llama
    from llamita.optim import AdamW, clip_grad_norm_
    from llamita.planning.peak import flops_per_token
    from llamita.runtime.blocks import choose_blocks
    from llamita.runtime.hardware import choose_hardware

    execution, config = ExecutionConfig(device="cpu", threads=task.threads), task.shape.model_config()
    hardware = choose_blocks(choose_hardware(execution), execution, config, task.shape.batch_size)
    model = Llama(config)
    order = BatchOrder(STEPS_IN_ORDER * task.shape.batch_size, task.shape.batch_size, seed=0)
    _leave_for_peers(task, model, np.stack([order.indices(step) for step in range(STEPS_IN_ORDER)]))
    windows = StreamWindows(cast(TokenFile, _Tokens(task.folder)), config.max_seq_len)
    model = hardware.apply(model)

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        with hardware.autocast():
            return model(ids, targets)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        ids, targets, _ = windows.batch(order.indices(step))
        targets[:, -1] = IGNORED  # which transformers cannot see: it makes the targets out of the ids
        return ids, targets

    parameters = list(model.parameters())
    flops = flops_per_token(config, sum(parameter.numel() for parameter in parameters))
    facts = {"threads": hardware.threads, "precision": hardware.precision, "flops_per_token": flops}
    clip = partial(clip_grad_norm_, parameters, MAX_NORM)
    return Contender(model, loss, AdamW(parameters, **OPTIMIZER), clip, batch, facts)


def transformers(task: Task) -> Contender:
    """Hugging Face's `LlamaForCausalLM` with llamita's weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = task.shape
    options: dict[str, Any] = {  # some of which LlamaConfig's signature does not name
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "max_position_embeddings": shape.max_seq_len,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "use_cache": False,
        "attn_implementation": "sdpa",
    }
    model: nn.Module = LlamaForCausalLM(LlamaConfig(**options))
    _take_weights(model, task.folder)
    return _peer(task, model, lambda run, ids, targets: run(input_ids=ids, labels=ids).loss)


def nanogpt(task: Task) -> Contender:
    """nanoGPT's GPT of the same width and layers: another model, with GELU, learned positions and tied embeddings."""
    assert task.clone is not None
    file = task.clone / "model.py" if task.clone.is_dir() else task.clone
    module, shape = _module_of(file), task.shape
    config = module.GPTConfig(
        block_size=shape.max_seq_len,
        vocab_size=shape.vocab_size,
        n_layer=shape.num_layers,
        n_head=shape.num_heads,
        n_embd=shape.hidden_size,
        dropout=0.0,
        bias=False,
    )
    return _peer(task, module.GPT(config), lambda run, ids, targets: run(ids, targets)[1])


def litgpt(task: Task) -> Contender:
    """LitGPT's GPT, set up as a Llama of the same shape, with weights of its own."""
    sys.path.insert(0, str(task.clone))
    try:
        module, shape = importlib.import_module("litgpt.model"), task.shape
    except ImportError as error:
        raise UserError(f"--litgpt {task.clone}: it cannot be imported ({error}): install what it needs") from None
    config = module.Config(
        block_size=shape.max_seq_len,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        n_layer=shape.num_layers,
        n_head=shape.num_heads,
        n_query_groups=shape.num_kv_heads,
        n_embd=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=1e-5,
        mlp_class_name="LLaMAMLP",
    )
    return _peer(
        task,
        module.GPT(config),
        lambda run, ids, targets: cross_entropy(run(ids).flatten(0, 1), targets.flatten()),
    )


KINDS: Mapping[str, Callable[[Task], Contender]] = {
    "llamita": llamita,
    "transformers": transformers,
    "nanogpt": nanogpt,
    "litgpt": litgpt,
}

LossOf = Callable[[Callable[..., Any], Tensor, Tensor], Tensor]


def _peer(task: Task, model: nn.Module, loss_of: LossOf) -> Contender:
    """What torch itself has for all that stands around a model: compiling, autocast, AdamW and clipping."""
    torch.set_num_threads(task.threads)
    compiled = task.compiled and _can_compile()
    run: Callable[..., Any] = torch.compile(model) if compiled else model

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=task.precision == "bf16"):
            return loss_of(run, ids, targets)

    parameters = list(model.parameters())
    clip = partial(torch.nn.utils.clip_grad_norm_, parameters, MAX_NORM)
    facts = {"threads": task.threads, "precision": task.precision, "compiled": compiled}
    optimizer = torch.optim.AdamW(parameters, **OPTIMIZER, fused=True)
    return Contender(model.train(), loss, optimizer, clip, _batches(task), facts)


def _can_compile() -> bool:
    """Whether torch finds what it needs for it: a C++ compiler, above all."""
    try:
        torch.compile(lambda x: x.exp() + 1)(torch.ones(8))
    except Exception:
        torch.compiler.reset()
        return False
    return True


class _Tokens:
    """The tokens in the folder, as windows read them of a token file."""

    end_id = None

    def __init__(self, folder: Path):
        self.path = folder / "tokens.npy"
        self.ids = np.lib.format.open_memmap(self.path, mode="r")

    def __len__(self) -> int:
        return len(self.ids)


def _leave_for_peers(task: Task, model: nn.Module, order: np.ndarray) -> None:
    from safetensors.torch import save_file

    from llamita.tokenizer import token_dtype

    rng, size = np.random.default_rng(0), order.size * task.shape.max_seq_len + 1
    ids = rng.integers(task.shape.vocab_size, size=size)
    np.save(task.folder / "tokens.npy", ids.astype(token_dtype(task.shape.vocab_size)))
    np.save(task.folder / "order.npy", order)
    save_file(model.state_dict(), task.folder / "weights.safetensors")


@torch.no_grad()
def _take_weights(model: nn.Module, folder: Path) -> None:
    """Fill all parameters, one after the other: twice in memory, they would count as the peer's."""
    from safetensors import safe_open

    with safe_open(folder / "weights.safetensors", framework="pt") as file:
        named = dict(model.named_parameters())
        if set(file.keys()) != set(named):
            raise AssertionError(f"the parameters differ: {sorted(set(file.keys()) ^ set(named))}")
        for name, parameter in named.items():
            parameter.copy_(file.get_tensor(name))


def _batches(task: Task) -> Callable[[int], tuple[Tensor, Tensor]]:
    """The batches of llamita's steps, by numpy alone."""
    tokens = np.lib.format.open_memmap(task.folder / "tokens.npy", mode="r")
    order, context = np.lib.format.open_memmap(task.folder / "order.npy", mode="r"), task.shape.max_seq_len

    def batch(step: int) -> tuple[Tensor, Tensor]:
        starts = order[step % len(order)] * context  # (batch,)
        rows = tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)  # (batch, seq + 1)
        return torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())

    return batch


def _module_of(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file}: no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the module that they stand in
    spec.loader.exec_module(module)
    return module
