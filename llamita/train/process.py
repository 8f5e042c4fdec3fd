"""`python -m llamita.train.process`: one of the processes that `train` starts for a run in several."""

from collections.abc import Mapping
from typing import Any

from llamita.config import RunConfig
from llamita.console import replace_unknown_characters
from llamita.parallel import take_part
from llamita.train.display import Display
from llamita.train.loop import train


def work(task: Mapping[str, Any]) -> str:
    """Train as every process does -> the run's directory."""
    return str(train(RunConfig.from_tables(task["config"]), Display(quiet=task["quiet"])))


if __name__ == "__main__":
    replace_unknown_characters()
    take_part(work)
