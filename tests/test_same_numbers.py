"""The same command gives the same weights and losses, bit for bit, in any new directory and under any load."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from runs import digest, rows, write_text

SPIN = "while True: pass"
COMMAND = (
    "train --tokenizer char --hidden_size 64 --num_layers 2 --num_heads 2 --max_seq_len 64 --batch_size 8 "
    "--max_steps 12 --warmup_steps 2 --log_every 1 --eval_every 6 --eval_sequences 8 --sample_every 6 --sample_count 2 "
    "--device cpu --micro_batch_size auto"
)
LOADS = (0, 1, 3)
"""Processes that spin next to the run."""
ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {},
    {"OMP_WAIT_POLICY": "PASSIVE"},
    {"GOMP_SPINCOUNT": "100"},
    {"OMP_WAIT_POLICY": "ACTIVE"},
)


@contextmanager
def busy_machine(processes: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(processes):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", SPIN]))
            stack.callback(process.kill)
        yield


def numbers(folder: Path, precision: str, load: int, environment: dict[str, str]) -> tuple[str, str]:
    """(sha256 of all weights and optimizer states, sha256 of all logged numbers) of a run in a new directory."""
    folder.mkdir()
    words = [sys.executable, "-m", "llamita", *COMMAND.split(), "--precision", precision]
    words += ["--data", str(write_text(folder / "text.txt")), "--output_dir", str(folder / "run")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with busy_machine(load):
        subprocess.run(words, env={**kept, **environment}, check=True, capture_output=True)
    tensors = "".join(digest(file) for file in sorted((folder / "run").glob("step_*/*.safetensors")))
    return hashlib.sha256(tensors.encode()).hexdigest(), hashlib.sha256(repr(rows(folder / "run")).encode()).hexdigest()


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_the_same_command_gives_the_same_numbers_idle_and_beside_a_busy_process(tmp_path, precision):
    idle = numbers(tmp_path / "idle", precision, 0, {})
    assert numbers(tmp_path / "busy", precision, 1, {"OMP_WAIT_POLICY": "PASSIVE"}) == idle


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_ten_runs_under_varying_load_give_the_same_numbers(tmp_path, precision):
    found = {
        numbers(tmp_path / str(n), precision, LOADS[n % len(LOADS)], ENVIRONMENTS[n % len(ENVIRONMENTS)])
        for n in range(10)
    }
    assert len(found) == 1
