"""Every setting of llamita: one frozen dataclass per TOML table, read from files and flags, validated once.

Nothing here needs torch. Each table has its own module; `toml.py` reads files and reports mistakes in them.
Field names are unique over all tables, so that on the command line each is a flag of its own (`--hidden_size 256`),
while a file has the tables:

    [model]
    hidden_size = 256

Fields are of two kinds. *Identity* fields define the experiment: another value is another run, and resuming a run with
one is refused. *Execution* fields define how and where it is computed, and may change when a run is resumed.
Every table but `[run]` is identity; `EXECUTION` marks the exceptions.
"""

from llamita.config.aliases import ALIASES, RETIRED, SWITCHES, TRUTH, VALUES, note_on_retired, own_names
from llamita.config.checks import require_not_negative, require_positive, require_share
from llamita.config.data import EXECUTION, DataConfig
from llamita.config.execution import MOST_THREADS, ONE_START, ExecutionConfig, Interval
from llamita.config.generation import GenerationConfig
from llamita.config.model import ModelConfig
from llamita.config.numbers import whole_number
from llamita.config.optimizer import OptimizerConfig, default_learning_rate
from llamita.config.run import (
    RIVALS,
    SCHEMA,
    RunConfig,
    beneath,
    field_tables,
    is_of_a_run,
    replace,
    settings_asked_for,
)
from llamita.config.size import derived_sizes
from llamita.config.toml import Schema, Tables, read_toml, unknown_name, write_toml
from llamita.config.training import MOST_STEPS, TrainingConfig

__all__ = [
    "ALIASES",
    "EXECUTION",
    "MOST_STEPS",
    "MOST_THREADS",
    "ONE_START",
    "RETIRED",
    "RIVALS",
    "SCHEMA",
    "SWITCHES",
    "TRUTH",
    "VALUES",
    "DataConfig",
    "ExecutionConfig",
    "GenerationConfig",
    "Interval",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "Schema",
    "Tables",
    "TrainingConfig",
    "beneath",
    "default_learning_rate",
    "derived_sizes",
    "field_tables",
    "is_of_a_run",
    "note_on_retired",
    "own_names",
    "read_toml",
    "replace",
    "require_not_negative",
    "require_positive",
    "require_share",
    "settings_asked_for",
    "unknown_name",
    "whole_number",
    "write_toml",
]
