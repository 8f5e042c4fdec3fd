"""The whole configuration of a run: read from tables and files, replaced by flat names."""

import dataclasses
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from llamita.config.data import DataConfig
from llamita.config.derived import with_derived
from llamita.config.execution import ExecutionConfig
from llamita.config.model import ModelConfig
from llamita.config.optimizer import OptimizerConfig, default_learning_rate
from llamita.config.size import FROM_SIZE, SIZES, default_batch_size, derived_shape, derived_sizes
from llamita.config.toml import Note, Schema, Tables, read_toml
from llamita.config.training import TrainingConfig
from llamita.presets import preset_path


@dataclass(frozen=True)
class RunConfig:
    """The whole configuration of a run: one field per table."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    run: ExecutionConfig = field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        """Derive batch size and learning rate if they were not set; the latter as soon as `head_init` is known."""
        if "batch_size" in self.training.derived:
            size = default_batch_size(vars(self.model), self.training.grad_accum_steps)
            object.__setattr__(self, "training", with_derived(self.training, {"batch_size": size}))
        if self.optimizer.learning_rate and "learning_rate" not in self.optimizer.derived:
            return
        width, head_init = self.model.hidden_size, self.model.head_init
        rate = 0.0 if head_init == "auto" else default_learning_rate(width, head_init)
        object.__setattr__(self, "optimizer", with_derived(self.optimizer, {"learning_rate": rate}))

    @classmethod
    def from_toml(cls, path: str | Path) -> "RunConfig":
        """The configuration in a TOML file, with defaults for the rest. Raises `UserError`."""
        return cls.from_tables(settings_asked_for(path), str(path))

    @classmethod
    def from_preset(cls, name: str) -> "RunConfig":
        """The preset `name` (`llamita presets` lists them). Raises `UserError` if there is none."""
        return cls.from_toml(preset_path(name))

    @classmethod
    def from_tables(cls, tables: Mapping[str, Mapping[str, Any]], source: str = "configuration") -> "RunConfig":
        """From `{"model": {"hidden_size": 256}, ...}`. Raises `UserError` for names and types that do not exist."""
        return cls(**SCHEMA.construct(tables, source))

    def tables(self) -> Tables:
        """The same as nested dictionaries, ready for TOML: every setting with its resolved value."""
        return dataclasses.asdict(self)

    def asked_for(self) -> Tables:
        """The same without derived values: constructs an equal configuration."""
        return _without(self.tables(), self.model.derived | self.optimizer.derived | self.training.derived)

    def identity(self) -> dict[str, Any]:
        """The identity fields, by flat name."""
        return {
            f.name: getattr(getattr(self, table.name), f.name)
            for table in fields(self)
            if table.name != "run"
            for f in fields(SCHEMA.classes[table.name])
            if not f.metadata.get("execution")
        }


SCHEMA = Schema(get_type_hints(RunConfig))
"""The settings that a configuration file may contain."""


def replace(config: RunConfig, **values: Any) -> RunConfig:
    """A copy of `config` with settings replaced by flat names or aliases: `replace(config, n_embd=256, seed=1)`.

    It is what the command line makes of the same names, as flags over the same file: values that were not set
    (all sizes but vocab_size and max_seq_len, learning_rate, batch_size) are derived again, and so are those replaced
    by 0; `epochs` or `minutes` replace `max_steps`, and `size` or `depth` what follows from them. Raises `UserError`
    for names that are unknown and values that do not fit.
    """
    above = SCHEMA.tables_of(values, "configuration")
    below = beneath(config.asked_for(), {name: value for rows in above.values() for name, value in rows.items()})
    return RunConfig.from_tables({table: {**rows, **above.get(table, {})} for table, rows in below.items()})


LENGTHS = {"max_steps", "epochs", "minutes"}
SHAPES = {"size": {"depth", *FROM_SIZE}, "depth": {"size", *FROM_SIZE}}
RIVALS = {name: LENGTHS - {name} for name in LENGTHS} | SHAPES
"""Settings that express the same thing: setting one on a higher level removes the others from lower levels."""


def beneath(tables: Tables, settings: Mapping[str, Any]) -> Tables:
    """`tables` without what `settings`, on a higher level, override. One of 0 is no size or depth: the shape stays."""
    off = {name for name in SHAPES if str(settings.get(name)) == "0"}
    rivals = (RIVALS[name] for name in (settings.keys() & RIVALS.keys()) - off)
    return _without(tables, {*settings}.union(*rivals))


def _without(tables: Tables, names: Collection[str]) -> Tables:
    return {table: {k: v for k, v in rows.items() if k not in names} for table, rows in tables.items()}


def field_tables() -> dict[str, str]:
    """Flat field name -> the name of its table."""
    return SCHEMA.field_tables()


def settings_asked_for(path: str | Path, note: Note = warnings.warn) -> Tables:
    """The settings of a TOML file, names and types checked. Raises `UserError`, naming file and key.

    A retired setting is left out, with a `note` if a user wrote the file.

    The config.toml of a run has a value for every setting, also for those that were not set. So that these follow when
    others are replaced (`--config RUN/config.toml --hidden_size 256`), a size or learning rate there equal to
    the one derived from the rest counts as derived, and is left out: if nothing is replaced, it is derived again, to
    the same value. In a file that no run wrote, every value was set by the user.
    """
    tables = read_toml(path)
    written_by_a_run = tables.pop("facts", None) is not None
    settings = SCHEMA.checked(tables, str(path), _say_nothing if written_by_a_run else note)
    return _without_derived(settings) if written_by_a_run else settings


def is_of_a_run(path: str | Path) -> bool:
    """Whether a run wrote this TOML file: it has [facts]. Raises `UserError` if it cannot be read."""
    return "facts" in read_toml(path)


def _say_nothing(_: str) -> None:
    """For a file that a run wrote: the user did not write what is in it."""


def _without_derived(settings: Tables) -> Tables:
    """`settings` without the values that equal those derived from the others."""
    model, training = settings.get("model", {}), settings.get("training", {})
    shape, heads = ModelConfig(**model), model.get("num_heads", 0)
    derived = {
        **derived_sizes(shape.hidden_size, heads, shape.mlp, wide_heads=bool(shape.size or shape.depth)),
        "learning_rate": default_learning_rate(shape.hidden_size, shape.head_init),
        "batch_size": default_batch_size(vars(shape), training.get("grad_accum_steps", 1)),
    }
    rest = {table: {k: v for k, v in rows.items() if v != derived.get(k)} for table, rows in settings.items()}
    return _without(rest, _derived_shape(rest.get("model", {}), shape))


def _derived_shape(settings: Mapping[str, Any], model: ModelConfig) -> Collection[str]:
    """Which of width and number of layers of `model` follow from the other `settings`."""
    known = {**vars(model), **dict.fromkeys(SIZES, 0), **settings}
    for names in (("hidden_size", "num_layers"), ("hidden_size",), ("num_layers",)):
        if derived_shape({**known, **dict.fromkeys(names, 0)}) == (model.hidden_size, model.num_layers):
            return names
    return ()
