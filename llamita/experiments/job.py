"""Computing one run of a sweep, in whatever process: train it, and record how it ended."""

import traceback
from dataclasses import dataclass
from pathlib import Path

from llamita.config import RunConfig, replace
from llamita.errors import DivergenceError, UserError
from llamita.experiments.other_code import is_checkout, model_class, train_with_checkout
from llamita.experiments.result import Outcome
from llamita.train import Display, train


@dataclass(frozen=True)
class Job:
    """A run to compute: its name within the sweep, its configuration, with `output_dir`, and its code, as in `Plan`."""

    name: str
    config: RunConfig
    code: str = ""

    @property
    def path(self) -> Path:
        """The run directory."""
        return Path(self.config.run.output_dir)


def compute(job: Job, display: Display | None = None, device: str = "") -> Outcome:
    """Train the run of `job`, on `device` if one is given, and record in its directory how it ended.

    An error does not end the sweep: it is the outcome of this run. Ctrl-C and signals pass.
    """
    config = replace(job.config, device=device) if device else job.config
    try:
        _train(job.code, config, display or Display(quiet=True))
        outcome = Outcome("finished")
    except DivergenceError as error:
        outcome = Outcome("diverged", str(error))
    except UserError as error:
        outcome = Outcome("failed", str(error))
    except Exception as error:  # a defect, or no memory: the other runs are still worth computing
        line = f"{type(error).__name__}: {error}".partition("\n")[0]
        outcome = Outcome("failed", line, traceback.format_exc())
    outcome.write(job.path)
    return outcome


def _train(code: str, config: RunConfig, display: Display) -> None:
    """Train with this code, that of another checkout, or the model of a Python file."""
    if not code:
        train(config, display)
    elif is_checkout(code):
        train_with_checkout(config, code)
    else:
        train(config, display, model_class=model_class(code))
