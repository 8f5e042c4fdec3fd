"""Tokens per second and MFU of training steps, compared with transformers and nanoGPT.

Uses `benchmarks/train.py`: the same weights, batches and optimizer settings, losses compared first, each
candidate in a separate process. They run one by one, since a GPU cannot hold them all.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common.command import is_mistake
from common.markdown import header, line
from gpu_sections.section import Section, Setting
from training.peers import MATMUL, like_llamita, measured, require_same_losses
from training.results import MIB, Measured
from training.shapes import Shape, Task
from training.worker_process import Worker, closing_all, start, write_inputs

SHAPES = {
    "17 M": Shape(512, 4, 16, 16, 1344, 10_000, 256, 128, tie_embeddings=True),
    "owt-125m": Shape(768, 12, 12, 12, 2048, 50_257, 1024, 16, tie_embeddings=True),
    "1 B": Shape(2048, 16, 32, 8, 8192, 128_256, 2048, 4, tie_embeddings=True),
}
TOY_SHAPES = {"toy": Shape(16, 1, 2, 1, 32, 300, 16, 4, tie_embeddings=True)}
LLAMITA = "llamita"
ROUNDS, TOY_ROUNDS = 5, 1
DENSE_BF16 = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12}
"""Peak dense bf16 FLOP/s from NVIDIA's data sheets, by a substring of the GPU's name."""


def run(setting: Setting) -> Section:
    """Measure every shape; a peer that fails only loses its row."""
    data: dict[str, Any] = {}
    problems, lines = [], [header(("shape", "batch", "candidate", "tokens/s", "MFU, measured peak",
                                   "MFU, data sheet", "peak memory, MiB"))]  # fmt: skip
    nominal = _nominal_peak(setting)
    for name, shape in (SHAPES if setting.on_gpu else TOY_SHAPES).items():
        found = data[name] = measure_shape(shape, setting, Path(setting.folder) / name)
        lines += [
            _line(name, shape, candidate, each, found["peak"], nominal) for candidate, each in found["rows"].items()
        ]
        lines += [line([name, shape.batch, each, "failed", "", "", ""]) for each in found["failed"]]
        problems += [f"{name}, {each}: {why}" for each, why in found["failed"].items() if each.startswith(LLAMITA)]
    for found in data.values():
        found["rows"] = {candidate: asdict(each) for candidate, each in found["rows"].items()}
    return Section.judged(problems, f"measured: {', '.join(data)}", lines, data)


def measure_shape(shape: Shape, setting: Setting, folder: Path) -> dict[str, Any]:
    """`rows` by candidate, the measured `peak` FLOP/s, and the errors of those that `failed`."""
    folder.mkdir()
    base = Task(LLAMITA, shape, folder, device=setting.device, min_seconds=1.0 if setting.on_gpu else 0)
    write_inputs(base)
    reference: dict[str, Any] = {}
    rows: dict[str, Measured] = {}
    failed: dict[str, str] = {}
    for name, task in candidates(base, setting):
        try:
            rows[name] = _measure(name, task, setting, reference)
        except (RuntimeError, AssertionError) as error:
            failed[name] = str(error).strip().splitlines()[-1]
        except Exception as error:
            if not is_mistake(error):
                raise
            failed[name] = str(error)
        if not reference:  # llamita itself failed; the others need its threads and precision
            break
    peak = _matmul_peak(like_llamita(replace(base, kind=MATMUL), reference)) if reference else 0.0
    return {"rows": rows, "peak": peak, "failed": failed}


def candidates(base: Task, setting: Setting) -> Iterator[tuple[str, Task]]:
    """(name, task) of each; compiled variants only on a GPU, where compiling pays off."""
    yield LLAMITA, base
    if setting.on_gpu:
        yield f"{LLAMITA}, compiled", replace(base, compiled=True)
    yield "transformers", replace(base, kind="transformers")
    if setting.on_gpu:
        yield "transformers, compiled", replace(base, kind="transformers", compiled=True)
    if setting.nanogpt:
        yield "nanoGPT", replace(base, kind="nanogpt", clone=Path(setting.nanogpt), compiled=setting.on_gpu)


def _measure(name: str, task: Task, setting: Setting, reference: dict[str, Any]) -> Measured:
    """Measure one candidate. The first sets the `reference` (threads, precision, losses) for the others."""
    workers: dict[str, Worker] = {}
    with closing_all(workers):
        facts = start(workers, name, task if task.kind == LLAMITA else like_llamita(task, reference))
        reference.update({} if reference else facts)
        if task.kind != "nanogpt":
            require_same_losses(reference, {name: facts})
        rounds = ROUNDS if setting.on_gpu else TOY_ROUNDS
        answers = [workers[name].ask("measure") for _ in range(rounds + 1)][1:]
        return measured(facts, answers, workers[name].ask("finish"))


def _matmul_peak(task: Task) -> float:
    workers: dict[str, Worker] = {}
    with closing_all(workers):
        start(workers, MATMUL, task)
        return workers[MATMUL].ask("measure")["flops"]


def _nominal_peak(setting: Setting) -> float | None:
    if not setting.on_gpu:
        return None
    import torch

    name = torch.cuda.get_device_name(setting.device)
    return next((peak for part, peak in DENSE_BF16.items() if part in name), None)


def _line(name: str, shape: Shape, candidate: str, found: Measured, peak: float, nominal: float | None) -> str:
    flops = shape.flops_per_token(found.parameters) * shape.tokens / found.step
    shares = [f"{flops / limit:.1%}" if limit else "" for limit in (peak, nominal)]
    speed, memory = f"{shape.tokens / found.step:,.0f}", f"{found.memory / MIB:,.0f}"
    return line([name, shape.batch, candidate, speed, *shares, memory])
