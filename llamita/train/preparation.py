"""What is decided of a run's steps before the first of them: micro-batches, compiling; and the peak to measure by."""

from dataclasses import asdict

from llamita.errors import UserError
from llamita.train.compiling import Compiled, choose_compile
from llamita.train.fit import choose_micro_batch
from llamita.train.peak import flops_per_token, matrix_peak
from llamita.train.run import Run, tell_changes

KINDS = {"off": "not compiled", "on": "compiled", "graphs": "compiled, as CUDA graphs"}


def prepare_steps(run: Run) -> dict[str, str]:
    """Decide how the steps that are left are computed, and write it down -> what was decided, and why.

    A run that goes on computes as it began, unless it is asked to change. Raises `UserError` where no step fits into
    memory.
    """
    run.peak = run.processes.max(matrix_peak(run.hardware))
    fit = choose_micro_batch(run)
    kind, reason = _choose_compile(run)
    if kind == "graphs" and fit.rows < run.config.training.batch_size:
        raise UserError(f"--compile graphs: only {fit.rows} sequences fit at once: lower --batch_size to that")
    run.micro_batch_size = fit.rows
    if kind != "off":
        run.step_model = Compiled(run.model, fit.rows, run.config.model.max_seq_len, graphs=kind == "graphs")
    blocks = asdict(run.hardware.blocks) if run.hardware.computes_natively else {}
    _write_down(run, {"compile": kind, "micro_batch_size": fit.rows, **blocks})
    cut = f"{fit.rows} sequences at once" + (f" ({fit.reason})" if fit.reason else "")
    return {"compile": f"{KINDS[kind]} ({reason})", "micro_batch_size": cut}


def _choose_compile(run: Run) -> tuple[str, str]:
    """A name out of `KINDS`, and why."""
    wish = run.config.run.compile
    if wish == "auto" and (known := run.facts_before.get("compile")):
        return known, "as when the run began"
    training = run.config.training
    tokens = (training.max_steps - run.state.step) * training.sequences_per_update * run.config.model.max_seq_len
    flops = tokens * flops_per_token(run.config.model, run.num_parameters) / run.processes.world_size
    compiles, reason = choose_compile(run.config, run.hardware, flops, run.peak)
    return ("graphs" if wish == "graphs" else "on") if compiles else "off", reason


def _write_down(run: Run, chosen: dict[str, str | int]) -> None:
    if run.facts_before:
        tell_changes({**chosen, **run.facts_before}, chosen, run.display)
    if run.processes.is_main:
        run.directory.add_facts(chosen)
