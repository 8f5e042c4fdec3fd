"""Everything that `train` needs to know, in one object: read from tables and files, replaced by flat names."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from llamita.config.aliases import ALIASES
from llamita.config.data import DataConfig
from llamita.config.execution import ExecutionConfig
from llamita.config.model import ModelConfig, derived_sizes
from llamita.config.optimizer import OptimizerConfig, default_learning_rate
from llamita.config.toml import Schema, Tables, read_toml, unknown_name
from llamita.config.training import TrainingConfig
from llamita.errors import UserError
from llamita.presets import preset_path


@dataclass(frozen=True)
class RunConfig:
    """Everything that `train` needs to know: one table a field."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    run: ExecutionConfig = field(default_factory=ExecutionConfig)

    @classmethod
    def from_toml(cls, path: str | Path) -> "RunConfig":
        """The configuration in a TOML file; what it leaves out has its default. Raises `UserError`."""
        tables = read_toml(path)
        tables.pop("facts", None)  # what a run found out and wrote down; not configuration
        return cls.from_tables(tables, str(path))

    @classmethod
    def from_preset(cls, name: str) -> "RunConfig":
        """The configuration that `name` stands for (`llamita presets` lists them). Raises `UserError` for others."""
        return cls.from_toml(preset_path(name))

    @classmethod
    def from_tables(cls, tables: Mapping[str, Mapping[str, Any]], source: str = "configuration") -> "RunConfig":
        """From `{"model": {"hidden_size": 256}, ...}`. Raises `UserError` for names and types that do not exist."""
        return cls(**SCHEMA.construct(tables, source))

    def tables(self) -> dict[str, dict[str, Any]]:
        """The same as nested dictionaries, ready for TOML."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """The fields that make the run what it is, by flat name."""
        return {
            f.name: getattr(getattr(self, table.name), f.name)
            for table in fields(self)
            if table.name != "run"
            for f in fields(SCHEMA.classes[table.name])
            if not f.metadata.get("execution")
        }


SCHEMA = Schema(get_type_hints(RunConfig), ALIASES)
"""What a configuration file may say."""


def replace(config: RunConfig, **values: Any) -> RunConfig:
    """A copy of `config` with fields replaced by their flat names, e.g. `replace(config, hidden_size=256)`.

    Derived sizes (head_dim and the like) are not derived again: name them too, where they should change.
    """
    for table, cls in SCHEMA.classes.items():
        names = {f.name for f in fields(cls)}
        here = {name: values.pop(name) for name in names & values.keys()}
        config = dataclasses.replace(config, **{table: dataclasses.replace(getattr(config, table), **here)})
    if values:
        raise UserError(unknown_name("field", next(iter(values)), field_tables(), "configuration"))
    return config


def field_tables() -> dict[str, str]:
    """Flat field name -> the name of its table."""
    return SCHEMA.field_tables()


def settings_asked_for(path: str | Path) -> Tables:
    """The settings that a TOML file asks for, names and types checked. Raises `UserError`, naming file and key.

    The config.toml of a run has a value for every setting, also for those that nobody asked for. So that these follow
    when others are replaced (`--config RUN/config.toml --hidden_size 256`), a size or learning rate there that is just
    what would be derived from the rest counts as derived, and is left out: in place it would be derived again, to the
    same value. What `auto` chose there is asked for again, as `choices_of`. In a file that no run wrote, every value
    was asked for.
    """
    tables = read_toml(path)
    written_by_a_run = tables.pop("facts", None) is not None
    settings = SCHEMA.checked(tables, str(path))
    if not written_by_a_run:
        return settings
    model = settings.get("model", {})
    width = model.get("hidden_size", ModelConfig.hidden_size)
    rate = default_learning_rate(width, model.get("head_init", ModelConfig.head_init))
    sizes = derived_sizes(width, model.get("num_heads", 0), model.get("mlp", ModelConfig.mlp))
    derived = {**sizes, "learning_rate": rate}
    asked = {table: {k: v for k, v in rows.items() if v != derived.get(k)} for table, rows in settings.items()}
    return {**asked, "run": {**asked.get("run", {}), "choices_of": str(path)}}
