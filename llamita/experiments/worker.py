"""`python -m llamita.experiments.worker`: a process that computes one run, described as JSON on standard input."""

import json
import sys

from llamita.config import RunConfig
from llamita.console import prepare_streams
from llamita.experiments.job import Job, compute


def main() -> None:
    """Read {"name": …, "config": tables, "code": …, "device": …}, and compute that run."""
    task = json.load(sys.stdin)
    compute(Job(task["name"], RunConfig.from_tables(task["config"]), task["code"]), device=task["device"])


if __name__ == "__main__":
    prepare_streams(stop=False)
    main()
