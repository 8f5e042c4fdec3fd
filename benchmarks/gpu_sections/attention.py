"""Which kernels compute attention, forward and backward, according to the profiler, and in how much memory?

A fused kernel never materializes the scores (batch, heads, seq, seq). Its name contains `flash` (FlashAttention, also
cuDNN's) or `fmha` (CUTLASS; torch's memory-efficient attention, which supports masks). The fallback is matrix products
and a softmax.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any

from common.markdown import header, line
from gpu_sections.section import Section, Setting

CONTEXTS = {"cuda": (1024, 2048, 4096, 8192, 16384), "cpu": (64, 128)}
TOKENS = {"cuda": 16384, "cpu": 128}
HEADS = 8
KV_HEADS = (8, 2)
DOCUMENTS_PER_ROW = 4
FUSED = re.compile(r"flash|fmha|cudnn.*(attention|sdpa)", re.IGNORECASE)
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """One shape of attention."""

    context: int
    kv_heads: int
    packed: bool
    """Whether each row packs several documents, which do not attend to one another."""

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.context:,} tokens, {HEADS} heads, {self.kv_heads} of keys{', packed' if self.packed else ''}"


def run(setting: Setting) -> Section:
    """Profile a step of every case."""
    kind = "cuda" if setting.on_gpu else "cpu"
    cases = [Case(n, heads, packed) for packed in (False, True) for heads in KV_HEADS for n in CONTEXTS[kind]]
    found = {case: _profile(case, setting, TOKENS[kind]) for case in cases}
    data = {case.name: {**asdict(case), **seen} for case, seen in found.items()}
    lines = [header(("case", "forward and backward", "kernels", "peak memory, MiB"))]
    for case, seen in found.items():
        verdict = "fused" if is_fused(seen["kernels"]) else "not fused"
        kernels = ", ".join(f"`{name[:60]}`" for name in attention_kernels(seen["kernels"])[:4])
        lines.append(line([case.name, verdict if setting.on_gpu else "", kernels, f"{seen['memory'] / MIB:,.0f}"]))
    if not setting.on_gpu:
        least, *_, most = CONTEXTS["cuda"]
        would = f"would look for kernels named flash or fmha at contexts of {least:,} to {most:,}"
        return Section("skipped", f"skipped: no CUDA device; {would}", lines, data)
    problems = [f"not fused: {case.name}" for case, seen in found.items() if not is_fused(seen["kernels"])]
    return Section.judged(problems, f"fused in all {len(cases)} cases", lines, data)


def _profile(case: Case, setting: Setting, tokens: int) -> dict[str, Any]:
    """The names of the kernels of a training step (on a CPU: of the operations), and its peak memory."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from llamita.config import ExecutionConfig
    from llamita.model import Llama, ModelConfig
    from llamita.train import choose_hardware

    config = ModelConfig(vocab_size=256, hidden_size=64 * HEADS, num_layers=1, num_heads=HEADS,
                         num_kv_heads=case.kv_heads, head_dim=64, max_seq_len=case.context)  # fmt: skip
    hardware = choose_hardware(ExecutionConfig(device=setting.device, precision="bf16"))
    model = hardware.apply(Llama(config))
    rows = max(1, tokens // case.context)
    ids = torch.randint(256, (rows, case.context), device=setting.device)
    length = case.context // DOCUMENTS_PER_ROW
    packing = {"document_ids": (torch.arange(case.context, device=setting.device) // length).expand(rows, -1)}

    def step() -> None:
        with hardware.autocast():
            loss = model(ids, ids, **(packing if case.packed else {}))
        loss.backward()

    step()  # warm-up
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    activity = ProfilerActivity.CUDA if setting.on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as found:
        step()
    memory = torch.cuda.max_memory_allocated() if setting.on_gpu else 0
    return {"kernels": sorted({event.key for event in found.key_averages()}), "memory": memory}


def is_fused(kernels: list[str]) -> bool:
    """Whether attention ran on fused kernels, forward and backward."""
    fused = [name for name in kernels if FUSED.search(name)]
    backward = [name for name in fused if re.search(r"bwd|backward|bprop|cutlassB", name)]
    return bool(backward) and len(fused) > len(backward)


def attention_kernels(kernels: list[str]) -> list[str]:
    """The kernels of attention; on a GPU without a fused kernel, the softmax of the fallback."""
    return [name for name in kernels if FUSED.search(name) or "attention" in name.lower() or "softmax" in name.lower()]
