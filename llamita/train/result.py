"""The result of a run in one line: printed with --json, and in results.tsv in the folder that holds the run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llamita.file_lock import file_lock
from llamita.train.build import Run
from llamita.train.run_directory import timestamp
from llamita.train.steps import lacks_evaluation, lacks_samples

RESULTS_FILE = "results.tsv"
COLUMNS = (
    "timestamp",
    "run",
    "steps",
    "seconds",
    "tokens",
    "train_loss",
    "val_loss",
    "bits_per_byte",
    "loss_floor",
    "parameters",
    "code_digest",
)
"""The columns of results.tsv: new ones are added at the end only."""


@contextmanager
def report_result(run: Run) -> Iterator[None]:
    """Train in the block. At its end, print the result if --json asks for it; a run that finished there is recorded."""
    was_finished = run.is_finished and not lacks_evaluation(run) and not lacks_samples(run)
    finished = False
    try:
        yield
        finished = True
    finally:
        if run.processes.is_main:
            run.display.result(result(run, finished))
    if run.processes.is_main and not was_finished:
        _record(run)


def result(run: Run, finished: bool) -> dict[str, Any]:
    """Where a run is, as one line of JSON.

    Losses are in nats per token, the last ones logged (of training that of one batch); None where there is none.
    `seconds` count from step 1 on, with evaluation, samples and checkpoints. `code_digest` is the version of the code.
    """
    rows, facts = run.directory.metrics.rows(), run.directory.facts()
    scored = {name: value for row in rows for name, value in row.items() if value is not None}
    return {
        "run": str(run.directory.path),
        "steps": run.state.step,
        "seconds": round(run.clock.seconds, 3),
        "tokens": run.state.tokens,
        **{name: scored.get(name) for name in ("train_loss", "val_loss", "bits_per_byte")},
        "loss_floor": run.data.floor,
        "parameters": run.num_parameters,
        "code_digest": facts.get("code_digest", "")[:12],
        "finished": finished,
    }


def _record(run: Run) -> None:
    """Append the result to results.tsv. A folder that cannot be written takes nothing from the run."""
    row = {"timestamp": timestamp(), **result(run, finished=True)}
    try:
        append_row(run.directory.path.absolute().parent / RESULTS_FILE, row)
    except OSError as error:
        run.display.say(f"note: {error.filename or RESULTS_FILE} could not be written ({error.strerror})")


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Append a line with the `COLUMNS` of `row`, under a lock; a new file gets a header. Raises `OSError`."""
    values = ("" if row[name] is None else " ".join(str(row[name]).split()) for name in COLUMNS)
    with file_lock(file.with_name(f".{file.name}.lock"), wait=True), file.open("ab", buffering=0) as stream:
        lines = ["\t".join(values)] if os.fstat(stream.fileno()).st_size else ["\t".join(COLUMNS), "\t".join(values)]
        stream.write("".join(f"{line}\n" for line in lines).encode())
