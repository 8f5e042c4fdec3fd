"""What is decided of a run's steps before the first of them: micro-batches, compiling; and the peak to measure by."""

from dataclasses import asdict

from llamita.train.compiling import Compiled, choose_compile
from llamita.train.fit import choose_micro_batch
from llamita.train.peak import flops_per_token, matrix_peak
from llamita.train.run import Run, tell_changes


def prepare_steps(run: Run) -> dict[str, str]:
    """Decide how the steps that are left are computed, and write it down -> what was decided, and why.

    A run that goes on computes as it began, unless it is asked to change. Raises `UserError` where no step fits into
    memory.
    """
    run.peak = run.processes.max(matrix_peak(run.hardware))
    fit = choose_micro_batch(run)
    compiling, reason = _choose_compile(run)
    run.micro_batch_size = fit.rows
    if compiling:
        run.step_model = Compiled(run.model, fit.rows, run.config.model.max_seq_len)
    blocks = asdict(run.hardware.blocks) if run.hardware.computes_natively else {}
    _write_down(run, {"compile": "on" if compiling else "off", "micro_batch_size": fit.rows, **blocks})
    cut = f"{fit.rows} sequences at once" + (f" ({fit.reason})" if fit.reason else "")
    return {"compile": f"{'compiled' if compiling else 'not compiled'} ({reason})", "micro_batch_size": cut}


def _choose_compile(run: Run) -> tuple[bool, str]:
    if run.config.run.compile == "auto" and (known := run.facts_before.get("compile")):
        return known == "on", "as when the run began"
    training = run.config.training
    tokens = (training.max_steps - run.state.step) * training.sequences_per_update * run.config.model.max_seq_len
    flops = tokens * flops_per_token(run.config.model, run.num_parameters) / run.processes.world_size
    return choose_compile(run.config, run.hardware, flops, run.peak)


def _write_down(run: Run, chosen: dict[str, str | int]) -> None:
    if run.facts_before:
        tell_changes({**chosen, **run.facts_before}, chosen, run.display)
    if run.processes.is_main:
        run.directory.add_facts(chosen)
