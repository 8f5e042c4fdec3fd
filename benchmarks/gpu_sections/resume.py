"""Kill a run with SIGKILL, resume it, and compare its weights with those of an undisturbed run.

If two undisturbed runs differ (some GPU kernels are not deterministic), the resumed one may differ by as much.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from common.made_up_text import made_up_text
from gpu_sections.section import Section, Setting
from training.worker_process import environment

STEPS = {"cuda": 400, "cpu": 60}
SAVE_EVERY = 10
DOCUMENTS = 40
SLACK = 4  # times the difference between two undisturbed runs
DEADLINE = 300  # seconds
POLL = 0.005


def run(setting: Setting) -> Section:
    """Train twice undisturbed and once killed, and compare the last checkpoints."""
    folder = Path(setting.folder)
    (folder / "text.txt").write_text(made_up_text(DOCUMENTS), encoding="utf-8", newline="")
    for name in ("first", "second"):
        _finish(_start(setting, name))
    killed_after = _kill(_start(setting, "killed"), folder / "killed")
    _finish(_start(setting, "killed"))
    first, second, resumed = (last_weights(folder / name) for name in ("first", "second", "killed"))
    noise, difference = largest_difference(first, second), largest_difference(first, resumed)
    summary = f"killed after {killed_after}; largest difference of a weight {difference:.3g}"
    lines = [f"Killed after {killed_after}, resumed, and compared after {STEPS[_kind(setting)]} steps.", "",
             f"- undisturbed against resumed: largest difference of a weight {difference:.3g}",
             f"- undisturbed against undisturbed: {noise:.3g}"]  # fmt: skip
    data = {"killed_after": killed_after, "difference": difference, "noise": noise}
    problems = [summary] if difference > SLACK * noise else []
    return Section.judged(problems, summary, lines, data)


def _kind(setting: Setting) -> str:
    return "cuda" if setting.on_gpu else "cpu"


def _start(setting: Setting, name: str) -> subprocess.Popen[str]:
    """Start `llamita train`; the same name means the same command."""
    flags = {
        "data": "text.txt", "tokenizer": "char", "output_dir": name, "device": setting.device,
        "hidden_size": 64, "num_layers": 2, "num_heads": 2, "max_seq_len": 64, "batch_size": 8, "compile": "off",
        "max_steps": STEPS[_kind(setting)], "log_every": 1, "save_every": SAVE_EVERY, "eval_every": SAVE_EVERY,
        "eval_sequences": 16, "sample_every": 0,
    }  # fmt: skip
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "llamita", "train", *words],
        cwd=setting.folder,
        env=environment(None, None),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=DEADLINE)
    if process.returncode:
        raise RuntimeError(f"llamita train ended with {process.returncode}:\n{output[-4000:]}")


def _kill(process: subprocess.Popen[str], directory: Path) -> str:
    """Kill the run once it has two checkpoints -> the name of the newest."""
    deadline = time.monotonic() + DEADLINE
    while len(found := checkpoints(directory)) < 2:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            output, _ = process.communicate()
            raise RuntimeError(f"the run ended before it could be killed:\n{output[-4000:]}")
        time.sleep(POLL)
    process.kill()
    process.communicate()
    return found[-1].name


def checkpoints(directory: Path) -> list[Path]:
    """Complete checkpoints, newest last."""
    return [manifest.parent for manifest in sorted(directory.glob("step_*/manifest.json"))]


def last_weights(directory: Path) -> dict[str, np.ndarray]:
    """The weights of the newest checkpoint, by name."""
    from safetensors.numpy import load_file

    return load_file(checkpoints(directory)[-1] / "model.safetensors")


def largest_difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference of any weight; 0 means bitwise equal. Raises `AssertionError` for different models."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)
