"""What is decided of a run's steps before the first of them: micro-batches, compiling; and the peak to measure by."""

import math
from dataclasses import asdict

from llamita.planning.peak import flops_per_token, matrix_peak
from llamita.runtime.compiling import Compiled, Kind, choose_compile, require_graphs
from llamita.train.build import Run
from llamita.train.fit import choose_micro_batch
from llamita.train.identity import tell_changes

KINDS = {"off": "not compiled", "on": "compiled", "graphs": "compiled, as CUDA graphs"}


def prepare_steps(run: Run) -> dict[str, str]:
    """Decide how the steps that are left are computed, and write it down -> what was decided, and why.

    A run that goes on computes as it began, unless it is asked to change. Raises `UserError` where no step fits into
    memory.
    """
    run.peak = run.processes.max(matrix_peak(run.hardware))
    fit = choose_micro_batch(run)
    kind, reason = _choose_compile(run)
    if kind == "graphs":
        micro_batches = math.ceil(run.config.training.sequences_per_update / run.processes.world_size / fit.rows)
        require_graphs(run.hardware.device, micro_batches, run.processes.world_size)
    run.micro_batch_size = fit.rows
    if kind != "off":
        run.step_model = Compiled(run.model, fit.rows, run.config.model.max_seq_len, graphs=kind == "graphs")
    blocks = asdict(run.hardware.blocks) if run.hardware.computes_natively else {}
    _write_down(run, {"compile": kind, "micro_batch_size": fit.rows, **blocks})
    cut = f"{fit.rows} sequences at once" + (f" ({fit.reason})" if fit.reason else "")
    return {"compile": f"{KINDS[kind]} ({reason})", "micro_batch_size": cut}


def _choose_compile(run: Run) -> tuple[Kind, str]:
    wish = run.config.run.compile
    if wish == "auto" and (known := run.known.get("compile")):
        return known, "as when the run began"
    training = run.config.training
    tokens = (training.max_steps - run.state.step) * training.sequences_per_update * run.config.model.max_seq_len
    flops = tokens * flops_per_token(run.config.model, run.num_parameters) / run.processes.world_size
    return choose_compile(wish, run.hardware, flops, run.peak)


def _write_down(run: Run, chosen: dict[str, str | int]) -> None:
    if run.facts_before:
        tell_changes({**chosen, **run.facts_before}, chosen, run.display)
    if run.processes.is_main:
        run.directory.add_facts(chosen)
