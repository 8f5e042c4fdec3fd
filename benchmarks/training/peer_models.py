"""The peers' models, optimizers and batches for a training step. Nothing here imports llamita."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common.command import UsageError
from training.inputs import load_weights, read_order, read_tokens
from training.shapes import Task

OPTIMIZER: Mapping[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
MAX_NORM = 1.0
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Implementation:
    """A model, its loss, its optimizer, and its batches."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    clip: Callable[[], Tensor]
    batch: Callable[[int], tuple[Tensor, Tensor]]
    """Step -> ids and targets, (batch, seq) each."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Threads, precision, compiled, device; shown in the tables."""


def transformers(task: Task) -> Implementation:
    """Hugging Face's `LlamaForCausalLM` with llamita's initial weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = task.shape
    options: dict[str, Any] = {  # not all are in LlamaConfig's signature
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "max_position_embeddings": shape.max_seq_len,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": shape.tie_embeddings,
        "use_cache": False,
        "attn_implementation": "sdpa",
    }
    model: nn.Module = LlamaForCausalLM(LlamaConfig(**options))
    load_weights(model, task.folder)
    return _with_torch(task, model, lambda run, ids, targets: run(input_ids=ids, labels=ids).loss)


def nanogpt(task: Task) -> Implementation:
    """nanoGPT's GPT of the same width and depth: another model, with GELU, learned positions and tied embeddings."""
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
    return _with_torch(task, module.GPT(config), lambda run, ids, targets: run(ids, targets)[1])


def litgpt(task: Task) -> Implementation:
    """LitGPT's GPT, configured as a Llama of the same shape, with its own initial weights."""
    sys.path.insert(0, str(task.clone))
    try:
        module, shape = importlib.import_module("litgpt.model"), task.shape
    except ImportError as error:
        raise UsageError(f"--litgpt {task.clone}: cannot be imported ({error}): install its dependencies") from None
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
    return _with_torch(
        task,
        module.GPT(config),
        lambda run, ids, targets: cross_entropy(run(ids).flatten(0, 1), targets.flatten()),
    )


PEERS: Mapping[str, Callable[[Task], Implementation]] = {
    "transformers": transformers,
    "nanogpt": nanogpt,
    "litgpt": litgpt,
}

LossOf = Callable[[Callable[..., Any], Tensor, Tensor], Tensor]


def _with_torch(task: Task, model: nn.Module, loss_of: LossOf) -> Implementation:
    """A peer's model with torch.compile, autocast, torch's AdamW and gradient clipping."""
    torch.set_num_threads(task.threads)
    model, compiled = model.to(task.device).train(), task.compiled and can_compile()
    run: Callable[..., Any] = torch.compile(model) if compiled else model
    kind, narrow = torch.device(task.device).type, AUTOCAST.get(task.precision)

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(kind, narrow, enabled=narrow is not None):
            return loss_of(run, ids, targets)

    parameters = list(model.parameters())
    clip = partial(torch.nn.utils.clip_grad_norm_, parameters, MAX_NORM)
    facts = {"threads": task.threads, "precision": task.precision, "compiled": compiled, "device": task.device}
    optimizer = torch.optim.AdamW(parameters, **OPTIMIZER, fused=True)
    return Implementation(model, loss, optimizer, clip, _batches(task), facts)


def can_compile() -> bool:
    """Whether torch.compile works here; it needs a C++ compiler."""
    try:
        torch.compile(lambda x: x.exp() + 1)(torch.ones(8))
    except Exception:
        torch.compiler.reset()
        return False
    return True


def _batches(task: Task) -> Callable[[int], tuple[Tensor, Tensor]]:
    """The same batches as llamita's, with numpy alone."""
    tokens, order, context = read_tokens(task.folder), read_order(task.folder), task.shape.max_seq_len

    def batch(step: int) -> tuple[Tensor, Tensor]:
        starts = order[step % len(order)] * context  # (batch,)
        rows = tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)  # (batch, seq + 1)
        ids, targets = torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())
        return ids.to(task.device), targets.to(task.device)

    return batch


def _module_of(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module here
    spec.loader.exec_module(module)
    return module
