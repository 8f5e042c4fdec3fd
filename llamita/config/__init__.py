"""Every setting of llamita: frozen dataclasses, one for each TOML table, read from files and flags, checked once.

Nothing here needs torch. Each table has its own module; how a file is read, and its mistakes are told, is in `toml.py`.
Field names are unique over all tables, so that on the command line each is a flag of its own (`--hidden_size 256`),
while a file keeps the tables:

    [model]
    hidden_size = 256

Fields are of two kinds. *Identity* fields make a run what it is: with another value it is another experiment, and a
resume with one is refused. *Execution* fields say how and where it is computed, and may change from one start to the
next. Every table is identity but `[run]`; `EXECUTION` marks the exceptions inside the others.
"""

from llamita.config.aliases import ALIASES, RETIRED, note_on_retired
from llamita.config.checks import require_not_negative, require_positive, require_share
from llamita.config.data import EXECUTION, DataConfig
from llamita.config.execution import MOST_THREADS, ONE_START, ExecutionConfig, Interval
from llamita.config.generation import GenerationConfig
from llamita.config.model import ModelConfig, derived_sizes
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
    "read_toml",
    "replace",
    "require_not_negative",
    "require_positive",
    "require_share",
    "settings_asked_for",
    "unknown_name",
    "write_toml",
]
