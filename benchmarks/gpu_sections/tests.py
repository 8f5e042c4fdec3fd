"""The tests that train, evaluate, sample and resume, with their tiny runs on the GPU.

`tests/runs.py` reads LLAMITA_TEST_DEVICE. CPU-only tests (CPU kernels, bitwise reproducibility on the CPU) and tests
that use no device (tokenizer, corpus, config) are not repeated.
"""

import re
import subprocess
import sys

from gpu_sections.section import Section, Setting
from training.worker_process import BENCHMARKS, environment

FILES = (
    "test_hardware.py", "test_training.py", "test_checkpoint.py", "test_resume.py", "test_evaluate.py",
    "test_generate.py", "test_loss_scaling.py", "test_writing.py", "test_step_choices.py",
)  # fmt: skip
TOY_FILES = ("test_hardware.py",)
COUNTS = re.compile(r"(\d+) (passed|failed|error|skipped)")


def run(setting: Setting) -> Section:
    """Run pytest; report how many tests passed and which failed."""
    folder = BENCHMARKS.parent / "tests"
    if not folder.is_dir():
        return Section("skipped", f"no tests in {folder.parent}")
    files = FILES if setting.on_gpu else TOY_FILES
    command = [sys.executable, "-P", "-m", "pytest", "-rf", "--no-header", *(str(folder / name) for name in files)]
    variables = {**environment(None, None), "LLAMITA_TEST_DEVICE": setting.device, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, cwd=folder.parent, env=variables, capture_output=True, text=True)
    return summarize(done.returncode, done.stdout + done.stderr, files)


def summarize(code: int, output: str, files: tuple[str, ...]) -> Section:
    """The section for pytest's output and exit code."""
    counts = {kind: int(number) for number, kind in COUNTS.findall(output.strip().splitlines()[-1] if output else "")}
    failed = [line.removeprefix("FAILED ") for line in output.splitlines() if line.startswith("FAILED ")]
    summary = ", ".join(f"{number} {kind}" for kind, number in counts.items()) or f"pytest ended with {code}"
    tail = [] if counts else ["```", *output.splitlines()[-20:], "```"]
    lines = [f"`{'`, `'.join(files)}`: {summary}.", *(f"- {name}" for name in failed), *tail]
    data = {"files": list(files), "counts": counts, "failed": failed}
    return Section("failed" if code else "passed", summary, lines, data)
