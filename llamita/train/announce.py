"""Print the plan of a run, after one step on trial to know its time and memory. The trial leaves no trace."""

from llamita.planning.machine_memory import peak_memory
from llamita.planning.micro_batch import warn_of_full_memory
from llamita.planning.peak import peak_flops
from llamita.planning.plan import Plan, seconds_of_step, warn_of_short_run
from llamita.train.build import Run
from llamita.train.steps import trial_step


def announce(run: Run) -> None:
    """Measure the peak and one step, and print what the run is going to do. Nothing is chosen by what is measured."""
    if warning := warn_of_full_memory(run.config, run.hardware, run.choices.micro_batch_size):
        run.display.say(warning)
    run.peak = run.processes.max(peak_flops(run.hardware))
    seconds = seconds_of_step(lambda: trial_step(run), run.processes)
    state = 0 if run.optimizer.state else run.optimizer.state_bytes()  # which the trial does not allocate
    memory = peak_memory(run.hardware.device) + state
    plan = Plan(
        run.config,
        run.data,
        run.hardware,
        run.choices,
        run.processes,
        run.directory.path,
        run.model.num_parameters(),
        run.peak,
        seconds,
        memory,
        run.state.step,
    )
    for name, text in plan.lines().items():
        run.display.say(f"{name:<11} {text}")
    if warning := warn_of_short_run(run.config):
        run.display.say(warning)
    run.display.say()
