"""Compare the memory estimate made before step 1 with a run.

On a GPU it is torch's peak allocated memory, minus what was allocated before. At toy size on a CPU it is resident
memory, most of which is the program itself: the section runs, but is not judged.
"""

from pathlib import Path
from typing import Any

from common.made_up_text import made_up_text
from common.markdown import header, line
from gpu_sections.section import Section, Setting
from training.worker import peak_memory

MIB = 1 << 20
TOLERANCE = 0.25  # of the measured peak
DOCUMENTS = 400
OWN: dict[str, Any] = {"tokenizer": "bpe", "vocab_size": 2048, "pattern": "gpt2", "compile": "off"}  # no download
RUNS: dict[str, dict[str, Any]] = {
    "tinystories-17m": {"batch_size": 64, "grad_accum_steps": 1},
    "owt-125m": {"batch_size": 16, "grad_accum_steps": 2},
    "llama-3.2-1b": {"batch_size": 2, "grad_accum_steps": 1, "max_seq_len": 2048},
}
TOY_RUNS: dict[str, dict[str, Any]] = {
    "stories": {"hidden_size": 16, "intermediate_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2,
                "head_dim": 8, "max_seq_len": 16, "batch_size": 2, "vocab_size": 300},
}  # fmt: skip


def run(setting: Setting) -> Section:
    """Train each preset for two steps."""
    text = Path(setting.folder) / "text.txt"
    text.write_text(made_up_text(DOCUMENTS if setting.on_gpu else 20), encoding="utf-8", newline="")
    lines = [header(("preset", "batch", "parameters", "estimate, MiB", "measured, MiB", "estimate / measured"))]
    data, problems = {}, []
    for name, options in (RUNS if setting.on_gpu else TOY_RUNS).items():
        found = data[name] = _measure(name, {**OWN, **options, "data": (str(text),)}, setting)
        ratio = found["estimate"] / found["measured"] if found["measured"] else float("nan")
        sizes = [f"{found[key] / MIB:,.1f}" for key in ("estimate", "measured")]
        lines.append(line([name, found["batch"], f"{found['parameters']:,}", *sizes, f"{ratio:.2f}"]))
        if setting.on_gpu and abs(ratio - 1) > TOLERANCE:
            problems.append(f"{name}: the estimate is {ratio:.2f} of the measured peak")
    good = f"within {TOLERANCE:.0%} of the measured peak" if setting.on_gpu else "not judged on a CPU"
    return Section.judged(problems, good, lines, data)


def _measure(name: str, options: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """The estimate for a preset with these settings, and the peak of a run of it, bytes each."""
    from llamita.config import ExecutionConfig, RunConfig, replace
    from llamita.train import choose_hardware, count_parameters, train, training_memory

    directory = Path(setting.folder) / name
    steps = {"max_steps": 2, "eval_every": 2, "save_every": 2, "sample_every": 0, "eval_sequences": 16}
    run = {**steps, "device": setting.device, "output_dir": str(directory)}
    config = replace(RunConfig.from_preset(name), **{**options, **run})
    before = _reset(setting)
    train(config)
    measured = _peak(setting) - before
    vocab_size = RunConfig.from_toml(directory / "config.toml").model.vocab_size  # which came from the text
    config = replace(config, vocab_size=vocab_size)
    estimate = training_memory(config, choose_hardware(ExecutionConfig(device=setting.device))).peak
    batch = f"{config.training.batch_size} x {config.model.max_seq_len:,}"
    parameters = sum(count_parameters(config.model).values())
    return {"estimate": estimate, "measured": measured, "parameters": parameters, "batch": batch}


def _reset(setting: Setting) -> int:
    """Bytes in use before the run; resets the peak."""
    if not setting.on_gpu:
        return peak_memory()
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(setting: Setting) -> int:
    if not setting.on_gpu:
        return peak_memory()
    import torch

    return torch.cuda.max_memory_allocated()
