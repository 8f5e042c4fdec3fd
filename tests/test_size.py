"""`--size 10M` and `--depth 6`: shape, heads, learning rate and batch from one number; what the user sets is kept."""

import re

import pytest
import tomli_w
from runs import cache, command, flags, refusal, text

from llamita.config import ModelConfig, RunConfig, replace
from llamita.config.size import SIZES, default_batch_size, number_of_parameters
from llamita.errors import UserError
from llamita.planning import count_parameters, training_memory
from llamita.runtime import Hardware
from llamita.train import RunDirectory

fixtures = (cache, text)
SETTINGS = {
    "tokenizer": "char",
    "max_seq_len": 16,
    "max_steps": 1,
    "sample_every": 0,
    "threads": 1,
    "precision": "fp32",
}
SWITCHES = [
    {},
    {"tie_embeddings": False},
    {"norm": "layer", "bias": True, "mlp": "gelu", "position": "learned"},
    {"norm": "none", "qk_norm": True},
    {"norm_position": "post", "num_kv_heads": 1, "mlp": "relu2"},
    {"norm": "layer", "head_dim": 10, "bias": True},
    {"bias": True, "intermediate_size": 100, "hidden_size": 96, "num_layers": 3},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_parameters_are_counted_as_the_model_has_them(switches):
    config = ModelConfig(vocab_size=300, **switches)
    assert number_of_parameters(vars(config)) == sum(count_parameters(config).values())


@pytest.mark.parametrize("vocab_size", [65, 2048, 50257])
@pytest.mark.parametrize("size", [5_000_000, 10_000_000, 124_000_000, 10**9])
def test_a_size_counts_all_parameters_and_is_met_within_ten_percent(size, vocab_size):
    config = ModelConfig(size=size, vocab_size=vocab_size)
    assert sum(count_parameters(config).values()) == pytest.approx(size, rel=0.1)
    assert 16 <= config.hidden_size / config.num_layers <= 256
    assert config.num_heads * config.head_dim == config.hidden_size
    assert config.head_dim in (32, 64)


@pytest.mark.parametrize(
    "fixed",
    [
        {"num_layers": 3},
        {"hidden_size": 256},
        {"norm": "layer", "mlp": "gelu"},
        {"tie_embeddings": False},
        {"num_heads": 7},
        {"num_kv_heads": 4},
        {"num_heads": 5, "head_dim": 48},
    ],
    ids=str,
)
def test_what_is_set_is_kept_and_the_rest_makes_up_for_it(fixed):
    config = ModelConfig(size=10_000_000, **fixed)
    assert fixed.items() <= vars(config).items()
    assert sum(count_parameters(config).values()) == pytest.approx(10_000_000, rel=0.1)
    both = ModelConfig(size=10_000_000, num_layers=2, hidden_size=64)
    assert (both.num_layers, both.hidden_size) == (2, 64)


def test_the_shapes_of_well_known_models_come_out():
    assert ModelConfig(size=664_192) == ModelConfig(size=664_192, hidden_size=128, num_layers=2)  # the default
    gpt2 = ModelConfig(size=124_000_000, vocab_size=50257)
    assert (gpt2.num_layers, gpt2.hidden_size, gpt2.num_heads) == (12, 768, 12)
    deep = ModelConfig(depth=12)
    assert (deep.num_layers, deep.hidden_size, deep.num_heads, deep.intermediate_size) == (12, 768, 12, 2048)
    assert ModelConfig(depth=6, hidden_size=128).num_layers == 6


def test_without_size_and_depth_everything_has_its_default():
    assert (ModelConfig().hidden_size, ModelConfig().num_layers) == (128, 2)
    assert RunConfig().training.batch_size == 16


def test_learning_rate_and_batch_follow_from_the_size():
    small, large = (replace(RunConfig(), size=size, head_init="random") for size in (664_192, 42_500_000))
    parameters = sum(count_parameters(large.model).values())
    expected = 8 * round(2 * (parameters / 664_192) ** (2 / 3))
    assert (small.training.batch_size, large.training.batch_size) == (16, expected)
    assert large.optimizer.learning_rate == pytest.approx(0.75 / large.model.hidden_size)
    assert replace(large, batch_size=3).training.batch_size == 3
    assert replace(large, grad_accum_steps=4).training.batch_size == pytest.approx(expected / 4, abs=4)
    assert replace(large, max_seq_len=512).training.batch_size == pytest.approx(expected / 2, abs=4)
    assert replace(large, batch_size=3, learning_rate=1e-4).optimizer.learning_rate == 1e-4


def test_a_size_replaces_the_shape_of_a_preset_and_nothing_else(tmp_path):
    preset, sized = RunConfig.from_preset("owt-125m"), replace(RunConfig.from_preset("owt-125m"), size=10_000_000)
    assert sized.data == preset.data
    assert sized.model.max_seq_len == 1024
    assert sum(count_parameters(sized.model).values()) == pytest.approx(10_000_000, rel=0.1)
    assert sized.optimizer.learning_rate != preset.optimizer.learning_rate
    file = tmp_path / "sized.toml"
    file.write_text(tomli_w.dumps({"model": {"size": 1e7, "vocab_size": 50257, "max_seq_len": 1024}}), encoding="utf-8")
    assert RunConfig.from_toml(file).model.hidden_size == sized.model.hidden_size
    assert replace(sized, depth=6).model == replace(preset, depth=6).model


@pytest.mark.parametrize(
    "options",
    [{"size": 30_000}, {"depth": 2}, {"size": 50_000, "num_layers": 1}, {"size": 50_000, "hidden_size": 32}],
    ids=str,
)
def test_a_run_has_the_size_with_the_vocabulary_of_its_data_and_its_config_repeats_it(text, tmp_path, capsys, options):
    run = tmp_path / "run"
    assert command("train", *flags(data=text, output_dir=run, **SETTINGS, **options)) == 0
    said = capsys.readouterr().out
    config = RunDirectory(run).config()
    assert config.model.vocab_size == 20
    (shape,) = re.findall(r"^shape +(.*)$", said, re.MULTILINE)
    assert shape.startswith(f"{config.model.num_layers} layers x {config.model.hidden_size}, heads of ")
    if "size" in options:
        assert sum(count_parameters(config.model).values()) == pytest.approx(options["size"], rel=0.1)
    assert options.items() <= vars(config.model).items()
    assert "batch_size" in config.training.derived
    assert RunConfig.from_tables(config.asked_for()) == config
    if len(options) == 1:
        assert config.model.derived == set(SIZES)
        assert replace(config, size=0, depth=0).model.hidden_size == 128


def test_a_size_that_no_shape_meets_is_met_as_well_as_possible_and_said(text, tmp_path, capsys):
    assert command("train", *flags(data=text, output_dir=tmp_path / "run", **SETTINGS, size=10)) == 0
    said = capsys.readouterr().out
    config = RunDirectory(tmp_path / "run").config().model
    assert (config.num_layers, config.hidden_size) == (1, 16)
    assert f"{number_of_parameters(vars(config)):,} parameters, the closest to 10 that the vocabulary" in said


def test_a_size_or_depth_of_0_is_off_and_leaves_the_shape_below_it(tmp_path):
    preset = RunConfig.from_preset("tinystories-5m")
    assert replace(preset, size=0, depth=0) == preset
    assert replace(replace(preset, size=10_000_000), size=0).model.hidden_size == 128


@pytest.mark.parametrize(
    "options", [{}, {"hidden_size": 96, "num_heads": 6}, {"num_layers": 3, "batch_size": 5}], ids=str
)
def test_the_configuration_of_a_run_from_before_these_settings_reads_as_it_was(tmp_path, options):
    config = replace(RunConfig(), head_init="random", **options)
    run = RunDirectory(tmp_path)
    run.write_config(config, {"threads": 1})
    file = tmp_path / "config.toml"
    lines = file.read_text(encoding="utf-8").splitlines()
    old = "\n".join(line for line in lines if line not in ("size = 0", "depth = 0"))
    assert len(old.splitlines()) == len(lines) - 2
    file.write_text(old, encoding="utf-8")
    assert run.config() == config
    assert not {"size", "depth"} & config.identity().keys()
    assert replace(RunConfig.from_toml(file), size=664_192).model == ModelConfig(size=664_192, head_init="random")


def test_the_memory_estimate_keeps_the_width_and_the_batch():
    hardware = Hardware("cpu", "fp32", 1)
    sized = replace(RunConfig(), size=3_000_000)
    model = {name: getattr(sized.model, name) for name in ("hidden_size", "num_layers", "num_heads", "head_dim")}
    fixed = replace(RunConfig(), **model, batch_size=sized.training.batch_size)
    assert training_memory(sized, hardware) == training_memory(fixed, hardware)


def test_size_and_depth_together_and_negative_ones_are_one_clear_line(text, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["train", *flags(data=text, output_dir=run)]
    assert "size 10,000,000 and depth 6 both set the shape" in refusal(capsys, *words, "--size", "10M", "--depth", 6)
    assert "size is -1" in refusal(capsys, *words, "--size", -1)
    assert "size is 1.5" in refusal(capsys, *words, "--size", 1.5)
    with pytest.raises(UserError, match="hidden_size is -5"):
        ModelConfig(size=1000, hidden_size=-5)
    assert not run.exists()


def test_default_batch_size_is_at_least_one():
    assert default_batch_size({**vars(ModelConfig(depth=1)), "max_seq_len": 100_000}, 8) == 1
