"""Markdown tables of the training benchmarks."""

from collections.abc import Iterator

from common.markdown import header, line, spread
from training.results import MIB, ContextScaling, FullRun, Row

MEMORY_GOAL = 0.75  # of the peer that takes least
MFU_GOAL = 0.65
OVERHEAD_GOAL = 0.05  # of a step, outside forward and backward

COLUMNS = (
    "shape", "vocabulary", "batch", "llamita, tokens/s",
    "transformers", "speed-up (min-max)", "goal",
    "transformers, tuned", "speed-up (min-max)", "goal",
    "memory, MiB", "of transformers' least", "MFU",
)  # fmt: skip


def row_line(row: Row) -> str:
    """One row of the main table."""
    shape, (_, *peers) = row.shape, row.candidates
    cells = [shape.name, f"{shape.vocab_size:,}", shape.batch, f"{row.speed('llamita'):,.0f}"]
    for peer, goal in zip(peers[:2], (shape.goal, shape.goal_tuned), strict=True):
        cells += [f"{row.speed(peer):,.0f}", spread(row.ratios(peer)), f"{goal:g}" if goal else ""]
    cells += [f"{row.ours.memory / MIB:,.0f}", f"{row.memory_ratio():.2f}", f"{row.mfu():.0%}"]
    return line(cells)


def notes(rows: list[Row], compiling: bool) -> Iterator[str]:
    """Notes on the main table: the goals of all rows, and how the tuned peer was run."""
    yield (
        f"Goals of all rows: memory at most {MEMORY_GOAL:g} of the smaller of transformers' two; at the first shape an "
        f"MFU of at least {MFU_GOAL:.0%} of the measured peak FLOP/s, and at most {OVERHEAD_GOAL:.0%} of a step "
        "outside forward and backward."
    )
    tuned = list(rows[0].candidates.values())[2]
    if compiling and not tuned.compiled:
        yield "torch.compile does not work on this machine (is there a C++ compiler?): the tuned peer is not compiled."
    elif not compiling:
        yield "The tuned peer was not compiled (--no_compile)."
    if tuned.precision != "bf16":
        yield "This processor has no bf16 matrix instructions: everything is fp32."


def other_models(rows: list[Row]) -> Iterator[str]:
    """The table of nanoGPT and LitGPT, if they were measured."""
    others = [(row, name) for row in rows for name in list(row.candidates)[3:]]
    if others:
        columns = ("other model", "its parameters", "tokens/s", "llamita's speed-up (min-max)", "memory, MiB")
        yield header(("shape", "batch", *columns))
    for row, name in others:
        other = row.candidates[name]
        speed, memory = f"{row.speed(name):,.0f}", f"{other.memory / MIB:,.0f}"
        parameters = f"{other.parameters:,} (llamita {row.ours.parameters:,})"
        yield line([row.shape.name, row.shape.batch, name, parameters, speed, spread(row.ratios(name)), memory])


def step_parts(rows: list[Row]) -> Iterator[str]:
    """Breakdown of llamita's steps: milliseconds by part, and shares by kind of operation."""
    parts, kinds = list(rows[0].ours.parts), list(rows[0].ours.profile)
    yield header(["shape", "batch", *(f"{part}, ms" for part in parts), "outside forward and backward", *kinds])
    for row in rows:
        times = [f"{1e3 * seconds:.1f}" for seconds in row.ours.parts.values()]
        shares = [f"{share:.0%}" for share in row.ours.profile.values()]
        yield line([row.shape.name, row.shape.batch, *times, f"{row.overhead():.1%}", *shares])


def scaling_lines(scaling: ContextScaling) -> Iterator[str]:
    """Time and memory at each context length, relative to the first."""
    yield header(("shape", "batch", "time per token, ratio (min-max)", "FLOPs per token, ratio", "memory, ratio"))
    for shape, ratios, expected, memory in zip(
        scaling.shapes, scaling.ratios, scaling.expected, scaling.memory, strict=True
    ):
        ratio = f"{memory / scaling.memory[0]:.2f}"
        yield line([shape.name, shape.batch, spread(ratios), f"{expected:.2f}", ratio])


def full_run_lines(run: FullRun) -> Iterator[str]:
    """The speed of a complete run relative to bare steps."""
    intervals, of_bare = "evaluation, samples and checkpoint every", "of the bare speed"
    yield header(("steps", intervals, "bare step", "the run's loop", of_bare, "whole command", of_bare))
    loop, command = (f"{run.steps * run.bare / seconds:.0%}" for seconds in (run.loop, run.command))
    bare = f"{1e3 * run.bare:,.0f} ms"
    yield line([f"{run.steps:,}", f"{run.every:,}", bare, f"{run.loop:,.1f} s", loop, f"{run.command:,.1f} s", command])
