"""`python -m llamita.train.process`: one of the processes that `train` launches with --world_size."""

from collections.abc import Mapping
from typing import Any

from llamita.config import RunConfig
from llamita.console import prepare_streams
from llamita.parallel import run_worker
from llamita.train.display import Display
from llamita.train.loop import train


def work(task: Mapping[str, Any]) -> str:
    """Train -> the run directory."""
    return str(
        train(RunConfig.from_tables(task["config"]), Display(task["quiet"], task["json"]), repeated=task["repeated"])
    )


if __name__ == "__main__":
    prepare_streams(stop=False)
    run_worker(work)
