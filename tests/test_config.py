"""Configuration: what a file says is what a run gets, and a mistake is one line that says what to do."""

import ast
import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import tomli_w

import llamita.config
from llamita.config import (
    ALIASES,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    field_tables,
    replace,
)
from llamita.errors import UserError

TABLES = typing.get_type_hints(RunConfig)
ALL_FIELDS = [f for table in dataclasses.fields(RunConfig) for f in dataclasses.fields(TABLES[table.name])]
FIELDS = [f.name for f in ALL_FIELDS]
EXECUTION = {f.name for f in dataclasses.fields(llamita.config.ExecutionConfig)} | {
    f.name for f in ALL_FIELDS if f.metadata.get("execution")
}


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mistake(make, *arguments, **named) -> str:
    """The one line of the `UserError` that a call raises."""
    with pytest.raises(UserError) as caught:
        make(*arguments, **named)
    message = str(caught.value)
    assert message.isprintable(), message  # so it is one line, too
    return message


def other_value(name: str, value: object) -> object:
    """A valid value of the field that differs from `value`, the default."""
    special = {"num_kv_heads": 2, "head_dim": 64, "head_init": "copy", "windows": "stream", "pattern": "llama3",
               "precision": "fp32", "kernels": "plain", "compile": "on", "track": "wandb",
               "data": ("a.txt", "b.txt"), "val_data": ("c.txt",), "documents": "line",
               "encoding": "latin-1", "errors": "skip",
               "eval_sequences": 9, "eval_every": 9, "save_every": 9, "sample_every": "epoch",
               "min_learning_rate": 1e-4, "dropout": 0.1, "schedule": "linear", "norm": "layer", "minutes": 5.0,
               "norm_position": "post", "position": "learned", "mlp": "gelu", "rope_scaling_factor": 8.0}  # fmt: skip
    if name in special:
        return special[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return value / 2 + (value == 0) if isinstance(value, float) else 2 * value + (value == 0)


# Files


def test_what_is_written_is_what_is_read(tmp_path):
    default = RunConfig()
    assert RunConfig.from_toml(written(tmp_path, tomli_w.dumps(default.tables()))) == default
    assert RunConfig.from_toml(written(tmp_path, "")) == default


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_survives_a_file(tmp_path, name):
    default = RunConfig()
    changed = replace(default, **{name: other_value(name, getattr(getattr(default, field_tables()[name]), name))})
    assert changed != default
    assert RunConfig.from_toml(written(tmp_path, tomli_w.dumps(changed.tables()))) == changed


def test_what_a_file_leaves_out_has_its_default_and_sizes_are_derived(tmp_path):
    config = RunConfig.from_toml(written(tmp_path, "[model]\nhidden_size = 96\nnum_heads = 8\n"))
    assert config.model == ModelConfig(hidden_size=96, num_heads=8, num_kv_heads=8, head_dim=12, intermediate_size=256)
    assert config.training == TrainingConfig()


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_mean_the_field_that_they_stand_for(tmp_path, alias):
    name = ALIASES[alias]
    if name not in FIELDS:
        generation = {f.name for f in dataclasses.fields(llamita.config.GenerationConfig)}  # which has no table
        assert name in {*generation, "checkpoint"}
        return
    value = other_value(name, getattr(getattr(RunConfig(), field_tables()[name]), name))
    for key in (alias, alias.replace("_", "-"), name.replace("_", "-")):
        tables = {field_tables()[name]: {key: list(value) if isinstance(value, tuple) else value}}
        config = RunConfig.from_toml(written(tmp_path, tomli_w.dumps(tables)))
        assert getattr(getattr(config, field_tables()[name]), name) == value


def test_one_file_of_data_needs_no_list_and_a_whole_number_is_a_float_too(tmp_path):
    config = RunConfig.from_toml(written(tmp_path, '[data]\ndata = "my.txt"\n[optimizer]\nlearning_rate = 1\n'))
    assert config.data == DataConfig(data=("my.txt",))
    assert type(config.optimizer.learning_rate) is float


@pytest.mark.parametrize("name", ["log_every", "eval_every", "save_every", "sample_every"])
def test_intervals_are_steps_or_epochs(tmp_path, name):
    config = RunConfig.from_toml(written(tmp_path, f"[run]\n{name} = 'epoch'\n"))
    assert getattr(config.run, name) == "epoch"
    assert RunConfig.from_toml(written(tmp_path, tomli_w.dumps(config.tables()))) == config


def test_the_facts_that_a_run_wrote_down_are_no_configuration(tmp_path):
    assert RunConfig.from_toml(written(tmp_path, "[facts]\nthreads = 2\n")) == RunConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[model]\nhiden_size = 8", "{path}: unknown key 'hiden_size'; did you mean 'hidden_size'?"),
        ("[optimizer]\nlearning_rat = 1.0", "{path}: unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        ("[modle]\nhidden_size = 8", "{path}: unknown table 'modle'; did you mean 'model'?"),
        ("[model]\nqqqqqqqq = 8", "{path}: unknown key 'qqqqqqqq'"),
        ("[model]\nseed = 8", "{path}: key 'seed' is under [model], but belongs under [training]"),
        ("[optimizer]\nn_layer = 8", "{path}: key 'num_layers' is under [optimizer], but belongs under [model]"),
        ("hidden_size = 8", "{path}: key 'hidden_size' is outside any table: it belongs under [model]"),
        ("lr = 8", "{path}: key 'lr' is outside any table: it belongs under [optimizer]"),
        ("nonsense = 8", "{path}: key 'nonsense' is outside any table: put it under a table such as [model]"),
        ("model = 3", "{path}: key 'model' is outside any table: put it under a table such as [model]"),
        ("[model]\nhidden_size = '8'", "{path}: hidden_size is '8', but must be a whole number"),
        ("[model]\nhidden_size = 8.5", "{path}: hidden_size is 8.5, but must be a whole number"),
        ("[model]\nhidden_size = true", "{path}: hidden_size is True, but must be a whole number"),
        ("[model]\ndropout = true", "{path}: dropout is True, but must be a number"),
        ("[model]\ntie_embeddings = 1", "{path}: tie_embeddings is 1, but must be true or false"),
        ("[run]\noutput_dir = 1", "{path}: output_dir is 1, but must be a string"),
        ("[run]\nprecision = 'fp8'", "{path}: precision is 'fp8', but must be one of 'auto', 'bf16', 'fp16', 'fp32'"),
        (
            "[run]\nsave_every = 'week'",
            "{path}: save_every is 'week', but must be a whole number, or must be one of 'auto', 'epoch'",
        ),
        (
            "[run]\neval_every = 1.5",
            "{path}: eval_every is 1.5, but must be a whole number, or must be one of 'auto', 'epoch'",
        ),
        ("[data]\nwindows = []", "{path}: windows is [], but must be one of 'auto', 'stream', 'document'"),
        ("[model]\nhidden_size 8", "{path}: not a readable TOML file ("),
        ("[model]\na = 1\na = 2", "{path}: not a readable TOML file ("),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_the_file(tmp_path, text, expected):
    path = written(tmp_path, text)
    assert mistake(RunConfig.from_toml, path).startswith(expected.format(path=path))


@pytest.mark.parametrize("value", ["5", "[1, 2]", "true", "{a = 1}"])
def test_data_that_is_no_name_is_one_line(tmp_path, value):
    path = written(tmp_path, f"[data]\ndata = {value}")
    assert mistake(RunConfig.from_toml, path).startswith(f"{path}: data is ")


def test_a_file_that_is_missing_a_folder_or_binary_is_one_line(tmp_path):
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00[model]")
    for path in (tmp_path / "missing.toml", tmp_path, binary):
        assert mistake(RunConfig.from_toml, path).startswith(f"{path}: not a readable TOML file (")


# Values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_size": 100, "num_heads": 3}, ["hidden_size 100", "num_heads 3", "not divisible"]),
        ({"num_heads": -1}, ["num_heads is -1"]),
        ({"hidden_size": 36, "num_heads": 4}, ["head_dim 9", "odd"]),
        ({"head_dim": 7}, ["head_dim 7", "odd"]),
        ({"num_heads": 4, "num_kv_heads": 3}, ["num_kv_heads 3", "does not divide", "num_heads 4"]),
        ({"num_heads": 4, "num_kv_heads": 8}, ["num_kv_heads 8", "num_heads 4"]),
        ({"num_kv_heads": -1}, ["num_kv_heads", "-1"]),
        ({"hidden_size": -1}, ["hidden_size is -1", "not negative"]),
        ({"vocab_size": -5}, ["vocab_size is -5"]),
        ({"intermediate_size": -5}, ["intermediate_size is -5"]),
        ({"num_layers": -1}, ["num_layers is -1"]),
        ({"max_seq_len": 0}, ["max_seq_len is 0"]),
        ({"rope_theta": 0.0}, ["rope_theta"]),
        ({"norm_eps": float("nan")}, ["norm_eps is nan"]),
        ({"norm": "none", "norm_position": "post"}, ["norm_position is post", "norm is none"]),
        ({"position": "learned", "rope_scaling_factor": 8.0}, ["rope_scaling_factor is 8.0", "position is learned"]),
        ({"rope_scaling_factor": 0.5}, ["rope_scaling_factor is 0.5", "at least 1"]),
        ({"rope_low_freq_factor": 4.0}, ["rope_low_freq_factor 4.0", "rope_high_freq_factor 4.0"]),
        ({"rope_original_max_seq_len": 0}, ["rope_original_max_seq_len is 0"]),
        ({"dropout": 1.0}, ["dropout is 1.0", "below 1"]),
        ({"dropout": -0.1}, ["dropout is -0.1"]),
        ({"learning_rate": -0.1}, ["learning_rate is -0.1"]),
        ({"learning_rate": float("nan")}, ["learning_rate is nan"]),
        ({"min_learning_rate": 1.0, "learning_rate": 0.5}, ["min_learning_rate 1.0", "learning_rate 0.5"]),
        ({"max_steps": 5, "epochs": 2.0}, ["max_steps 5", "epochs 2.0"]),
        ({"beta1": 1.0}, ["beta1 is 1.0"]),
        ({"beta2": -0.5}, ["beta2 is -0.5"]),
        ({"weight_decay": -0.1}, ["weight_decay is -0.1", "negative"]),
        ({"grad_clip": -1.0}, ["grad_clip"]),
        ({"warmup_steps": -1}, ["warmup_steps"]),
        ({"batch_size": -1}, ["batch_size is -1"]),
        ({"grad_accum_steps": 0}, ["grad_accum_steps"]),
        ({"max_steps": -1}, ["max_steps"]),
        ({"epochs": -0.5}, ["epochs"]),
        ({"log_every": 0}, ["log_every"]),
        ({"keep_last": -1}, ["keep_last is -1"]),
        ({"world_size": -1}, ["world_size is -1"]),
        ({"decay_share": 1.5}, ["decay_share is 1.5", "at most 1"]),
        ({"threads": -1}, ["threads"]),
        ({"threads": 1_000_000}, ["threads is 1,000,000", "1,024"]),
        ({"max_steps": 10**25}, ["1,000,000,000 steps", "--max_steps or --epochs"]),
        ({"epochs": 1e300}, ["1,000,000,000 steps", "--max_steps or --epochs"]),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_one_line_that_names_the_field(values, words):
    tables: dict[str, dict] = {}
    for name, value in values.items():
        tables.setdefault(field_tables()[name], {})[name] = value
    message = mistake(RunConfig.from_tables, tables)
    assert all(word in message for word in words), message


def test_head_dim_may_differ_from_the_even_share():
    assert ModelConfig(hidden_size=100, num_heads=3, head_dim=10).head_dim == 10


def test_the_default_feed_forward_has_the_width_of_the_paper():
    assert ModelConfig(hidden_size=384).intermediate_size == 1024
    assert ModelConfig(hidden_size=384, mlp="gelu").intermediate_size == 1536


@pytest.mark.parametrize("position", ["learned", "none"])
def test_heads_may_be_odd_where_nothing_is_rotated(position):
    assert ModelConfig(hidden_size=36, num_heads=4, position=position).head_dim == 9


def test_configurations_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().hidden_size = 3  # type: ignore[misc]


def test_replace_knows_flat_names_and_no_others():
    config = replace(RunConfig(), seed=7, learning_rate=1e-2, precision="fp32")
    assert (config.training.seed, config.optimizer.learning_rate, config.run.precision) == (7, 1e-2, "fp32")
    assert "did you mean 'learning_rate'?" in mistake(replace, RunConfig(), learning_rates=1.0)
    assert "beta1" in mistake(replace, RunConfig(), beta1=2.0)


def test_an_update_sees_all_batches_that_are_accumulated():
    assert TrainingConfig(batch_size=6, grad_accum_steps=4).sequences_per_update == 24


# Identity


@pytest.mark.parametrize("name", FIELDS)
def test_only_identity_fields_change_what_a_run_is(name):
    default = RunConfig()
    changed = replace(default, **{name: other_value(name, getattr(getattr(default, field_tables()[name]), name))})
    assert (changed.identity() == default.identity()) == (name in EXECUTION - {"size", "depth"})  # what follows counts


def test_the_identity_is_what_a_run_learns_and_not_where_or_how_fast():
    identity = RunConfig().identity()
    assert {"hidden_size", "dropout", "learning_rate", "beta2", "seed", "batch_size", "max_steps"} <= identity.keys()
    assert not {"device", "micro_batch_size", "threads", "log_every", "output_dir", "extend", "data"} & identity.keys()


# Structure


def test_configuration_needs_no_torch():
    code = "import sys, llamita.config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_field_names_are_unique_over_all_tables_and_aliases_are_none_of_them():
    assert len(FIELDS) == len(set(FIELDS)) == len(field_tables())
    assert not ALIASES.keys() & set(FIELDS)


def test_every_field_has_its_docstring():
    modules = [
        ast.parse(file.read_text(encoding="utf-8")) for file in Path(llamita.config.__file__).parent.glob("*.py")
    ]
    classes = [node for module in modules for node in module.body if isinstance(node, ast.ClassDef)]
    classes = [node for node in classes if node.name.endswith("Config")]
    assert {cls.__name__ for cls in TABLES.values()} | {"GenerationConfig"} <= {c.name for c in classes}
    for cls in classes:
        if cls.name == "RunConfig":  # its fields are the tables, whose classes have docstrings
            continue
        for node, following in zip(cls.body, cls.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign):
                text = following.value if isinstance(following, ast.Expr) else None
                assert isinstance(text, ast.Constant), f"{cls.name}.{ast.unparse(node.target)}"
                assert str(text.value).endswith((".", ".)")), f"{cls.name}.{ast.unparse(node.target)}"


def test_heads_that_were_not_given_share_any_even_width_evenly():
    for width in range(2, 2050, 2):
        config = ModelConfig(hidden_size=width)
        assert config.num_heads * config.head_dim == width
        assert config.head_dim % 2 == 0


def test_heads_that_were_not_given_have_32_elements_wherever_the_width_allows():
    assert all(ModelConfig(hidden_size=width).head_dim == 32 for width in range(32, 2050, 32))
    assert [ModelConfig(hidden_size=width).num_heads for width in (32, 128, 160, 192, 512)] == [1, 4, 5, 6, 16]
    assert [ModelConfig(hidden_size=width).head_dim for width in (48, 80, 100)] == [48, 40, 50]  # 32 divides none


def test_the_default_model_has_a_head_dimension_that_other_programs_take():
    assert ModelConfig().head_dim in (32, 64)
    assert ModelConfig().num_heads % 2 == 0  # so that num_kv_heads may be 1, half of them, or all


def test_the_documented_default_learning_rate_is_the_one_that_runs_use():
    page = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| `learning_rate` | 0.0 |")]
    numbers = re.findall(r"([\d.]+) / hidden_size, at most ([\d.]+\d)", row)
    rates = {"random": numbers[0], "copy": numbers[1]}
    assert len(numbers) == 2
    for head_init, (share, most) in rates.items():
        for width in (32, 128, 160, 200, 512, 4096):
            config = replace(RunConfig(), hidden_size=width, head_init=head_init)
            assert config.optimizer.learning_rate == min(float(most), float(share) / width)
    stories = replace(RunConfig(), head_init="copy").optimizer.learning_rate
    assert f"({stories:.4f} in the default run)" in row
