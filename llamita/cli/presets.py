"""`llamita presets`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamita.config import RunConfig
    from llamita.runtime import Hardware

COLUMNS = "{:<16} {:<28} {:>14}   {:>9} {:>9} {:>9} {:>11} {:>9}   {:>11} {:>11}"

EXPLANATION = """
Memory of training on this machine ({hardware.device}, {hardware.precision}), with the context and (micro-)batch of
the preset, for one process, without the program itself. Weights, gradients and optimizer state are fp32. The kinds are
not all allocated at the same time; the peak includes temporary tensors and, on a CPU, an allowance for glibc's heap
(docs/results.md, "Memory"). The cache is the KV cache of generation, per token of one sequence in bf16, and beside it
its size with multi-head attention. The data are a corpus by name (docs/data.md), fetched when it is used first; --data
trains on other text. Train with `llamita train --preset NAME`."""


def presets() -> None:
    """List the presets for `llamita train --preset NAME`: data, parameters, memory of training by kind, KV cache."""
    from llamita.config import ExecutionConfig, RunConfig
    from llamita.planning import count_parameters
    from llamita.presets import preset_names
    from llamita.runtime import choose_hardware

    hardware = choose_hardware(ExecutionConfig())
    configs = {name: RunConfig.from_preset(name) for name in preset_names()}
    sizes = {name: sum(count_parameters(config.model).values()) for name, config in configs.items()}
    print(COLUMNS.format("", "", "", "training", "", "", "", "", "cache", "if multi-"))
    heads = (
        "preset",
        "data",
        "parameters",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "peak",
        "per token",
        "head",
    )
    print(COLUMNS.format(*heads))
    for name in sorted(configs, key=lambda name: sizes[name]):
        print(_row(name, sizes[name], configs[name], hardware), flush=True)
    print(EXPLANATION.format(hardware=hardware))


def _row(name: str, parameters: int, config: "RunConfig", hardware: "Hardware") -> str:
    from dataclasses import replace

    from llamita.planning import cache_bytes_per_token, training_memory

    memory = training_memory(config, hardware)
    multi_head = replace(config.model, num_kv_heads=config.model.num_heads)
    caches = cache_bytes_per_token(config.model), cache_bytes_per_token(multi_head)
    kinds = memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.peak
    return COLUMNS.format(
        name, _data(config), f"{parameters:,}", *map(_readable, kinds), *(f"{size:,} B" for size in caches)
    )


def _data(config: "RunConfig") -> str:
    """The corpus, and the most documents or tokens of it."""
    data = config.data
    limits = {"documents": data.max_documents, "tokens": data.max_corpus_tokens}
    return ", ".join([*data.data, *(f"{limit:,} {what}" for what, limit in limits.items() if limit)])


def _readable(size: float) -> str:
    """Bytes in a suitable unit."""
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:,.1f} TiB"
