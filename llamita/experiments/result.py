"""What came of one run of a sweep, read from its directory: losses, seconds, tokens, FLOPs."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import safe_open

from llamita.config import RunConfig
from llamita.experiments.plan import PlannedRun
from llamita.files import write_json
from llamita.planning import count_parameters
from llamita.planning.peak import flops_per_token
from llamita.train import RunDirectory
from llamita.train.checkpoint import MODEL_FILE

OUTCOME_FILE = "outcome.json"
Status = Literal["planned", "finished", "diverged", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended, as outcome.json in its directory records it. `error` is one line, `traceback` may be empty."""

    status: Status
    error: str = ""
    traceback: str = ""

    def write(self, directory: Path) -> None:
        """Write outcome.json, atomically."""
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / OUTCOME_FILE, vars(self))

    @classmethod
    def read(cls, directory: Path) -> "Outcome":
        """How the run in `directory` ended; "planned" if it has not ended yet."""
        try:
            return cls(**json.loads((directory / OUTCOME_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return cls("planned")


@dataclass(frozen=True)
class Result:
    """A run of a sweep and what is known of it so far. A run that has not started has step 0, and NaN for losses."""

    run: PlannedRun
    config: RunConfig
    path: Path
    outcome: Outcome

    @property
    def status(self) -> Status:
        """planned (also while it runs), finished, diverged or failed."""
        return self.outcome.status

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return RunDirectory(self.path).metrics.rows()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The [facts] of its config.toml; empty before it has started."""
        directory = RunDirectory(self.path)
        return directory.facts() if directory.exists() else {}

    @cached_property
    def model(self) -> Any:
        """The resolved `ModelConfig`, with the size of its tokenizer's vocabulary."""
        directory = RunDirectory(self.path)
        return (directory.config() if directory.exists() else self.config).model

    @property
    def loss_floor(self) -> float | None:
        """Nats per token below which no model can get; None where it is unknown."""
        return self.facts.get("loss_floor")

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return self.metrics[-1]["tokens"] if self.metrics else 0

    @cached_property
    def parameters(self) -> int:
        """Parameters, embedding included; of a run of other code, as its newest checkpoint has them."""
        if self.run.code and (newest := RunDirectory(self.path).newest_good()):
            return checkpoint_parameters(newest[0].path)
        return sum(count_parameters(self.model).values())

    @property
    def flops_per_token(self) -> int:
        """FLOPs of training per token, as `planning.peak` counts them."""
        return flops_per_token(self.model, self.parameters)

    @property
    def flops(self) -> float:
        """FLOPs of training so far."""
        return float(self.flops_per_token) * self.tokens

    @property
    def seconds(self) -> float:
        """Seconds of training steps, without evaluation, samples and saving, from the logged throughput."""
        seconds = self.clock()[1]
        return float(seconds[-1]) if len(seconds) else 0.0

    def clock(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) int64 and (n,) float64: the logged training steps, and the seconds taken by then."""
        rows = [row for row in self.metrics if row.get("tokens_per_second")]
        tokens = np.diff([0, *(row["tokens"] for row in rows)])
        speed = np.array([row["tokens_per_second"] for row in rows], dtype=float)
        return np.array([row["step"] for row in rows], dtype=np.int64), np.cumsum(tokens / speed)

    def validation(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) int64 and (n,) float64: the steps of the evaluations, and the validation losses in nats per token."""
        rows = [row for row in self.metrics if row.get("val_loss") is not None]
        return np.array([row["step"] for row in rows], dtype=np.int64), np.array([row["val_loss"] for row in rows])

    def training(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) int64 and (n,) float64: the logged steps, and the training losses in nats per token."""
        rows = [row for row in self.metrics if row.get("train_loss") is not None]
        return np.array([row["step"] for row in rows], dtype=np.int64), np.array([row["train_loss"] for row in rows])

    def gradient_norms(self) -> np.ndarray:
        """(n,) float64: the logged norms of the gradient before clipping."""
        return np.array([row["grad_norm"] for row in self.metrics if row.get("grad_norm") is not None], dtype=float)

    @property
    def val_loss(self) -> float:
        """The last validation loss, in nats per token; NaN if there is none."""
        losses = self.validation()[1]
        return float(losses[-1]) if len(losses) else math.nan

    @property
    def train_loss(self) -> float:
        """The last logged training loss, in nats per token; NaN if there is none."""
        losses = self.training()[1]
        return float(losses[-1]) if len(losses) else math.nan


def checkpoint_parameters(checkpoint: Path) -> int:
    """The number of parameters in a checkpoint, from the header of its weights."""
    with safe_open(checkpoint / MODEL_FILE, "np") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
