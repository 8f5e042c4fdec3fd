"""Compare the memory estimate of `llamita presets` with real runs: `python benchmarks/memory.py` (Linux; minutes).

Each run is a separate process, with evaluations, samples and a checkpoint, on the built-in stories, and reports its
peak resident memory. Memory in use before the run is subtracted, after loading the program, opening the data and
training a tiny model, which triggers PyTorch's lazy imports. The rest is compared with the estimate.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from llamita.config import ExecutionConfig, RunConfig, replace
from llamita.data import open_dataset
from llamita.planning import count_parameters, training_memory
from llamita.runtime import choose_hardware
from llamita.train import Display, train

STEPS: dict[str, Any] = {"max_steps": 2, "eval_every": 2, "sample_every": 2, "save_every": 2, "eval_sequences": 64}
TINY: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 32, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 32,
    "max_seq_len": 32, "batch_size": 1, "grad_accum_steps": 1, "micro_batch_size": 1, "sample_count": 1,
}  # fmt: skip
OWN: dict[str, Any] = {  # nothing to download
    "data": "stories",
    "max_documents": 0,
    "tokenizer": "bpe",
    "vocab_size": 2048,
    "windows": "stream",
}
RUNS: dict[str, dict[str, Any]] = {
    "stories": {},
    "tinystories-10m": {**OWN, "batch_size": 8},
    "tinystories-17m": OWN,
    "owt-125m": {**OWN, "batch_size": 4, "grad_accum_steps": 1, "micro_batch_size": 2},
}


def configuration(name: str, precision: str) -> RunConfig:
    """The config of a preset, shortened to a few steps."""
    return replace(RunConfig.from_preset(name), **{**STEPS, **RUNS[name]}, precision=precision)


def resident(which: str) -> int:
    """Resident bytes of this process: VmRSS is current, VmHWM is the peak."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[which].split()[0]) * 1024


def run_one(name: str, precision: str) -> None:
    """Train in this process, and print its memory as the last line."""
    config = configuration(name, precision)
    vocabulary = open_dataset(config, Display().progress).tokenizer.vocab_size
    with tempfile.TemporaryDirectory() as folder:
        train(replace(config, **TINY, output_dir=f"{folder}/tiny"))
        before = resident("VmRSS")
        train(replace(config, output_dir=f"{folder}/run"))
    print(json.dumps({"before": before, "peak": resident("VmHWM"), "vocab_size": vocabulary}))


def measured(name: str, precision: str) -> dict[str, int]:
    """`run_one` in a separate process."""
    done = subprocess.run([sys.executable, __file__, name, precision], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    print("| preset | precision | parameters | program, MiB | estimate, MiB | measured, MiB | off | with program |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name in RUNS:
        for precision in ("fp32", "bf16"):
            config = configuration(name, precision)
            open_dataset(config, Display().progress)  # prepared here, so that the measured process only reads it
            seen = measured(name, precision)
            config = replace(config, vocab_size=seen["vocab_size"])
            parameters = sum(count_parameters(config.model).values())
            estimate = training_memory(config, choose_hardware(ExecutionConfig(precision=precision))).peak
            taken = seen["peak"] - seen["before"]
            whole = (seen["before"] + estimate) / seen["peak"] - 1
            mib = " | ".join(f"{size / 2**20:,.0f}" for size in (seen["before"], estimate, taken))
            print(
                f"| {name} | {precision} | {parameters:,} | {mib} | {estimate / taken - 1:+.1%} | {whole:+.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    run_one(*sys.argv[1:]) if len(sys.argv) > 1 else main()
