"""Presets: the published shapes; unknown names; overridden by flags and files."""

import pytest
from runs import TINY, cache, command, flags, refusal, rows, text  # noqa: F401  (fixtures)
from test_cli import configuration

from llamita.config import ModelConfig, RunConfig, replace
from llamita.planning import cache_bytes_per_token, count_parameters, training_memory
from llamita.presets import preset_names
from llamita.runtime import Hardware

PUBLISHED = {
    "gpt2-baseline": 124_439_808,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
}
MILLIONS = {
    "tinystories-15m": 14.5,
    "tinystories-17m": 17.6,
    "llama-200m": 216.5,
    "owt-125m": 123.6,
    "owt-sample": 28.8,
}
WITHOUT_EMBEDDINGS = {"tinystories-5m": 3.5, "tinystories-10m": 8.4, "tinystories-25m": 28.3}
CPU = Hardware("cpu", "fp32", 1)


def counted(name: str) -> dict[str, int]:
    return count_parameters(RunConfig.from_preset(name).model)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_number_of_parameters(name):
    assert sum(counted(name).values()) == PUBLISHED[name]


def test_small_presets_have_the_size_that_their_names_say():
    for name, millions in MILLIONS.items():
        assert round(sum(counted(name).values()) / 1e6, 1) == millions
    for name, millions in WITHOUT_EMBEDDINGS.items():
        groups = counted(name)
        assert round((sum(groups.values()) - groups["embedding"] - groups["head"]) / 1e6, 1) == millions


def test_every_preset_is_tested():
    assert {*PUBLISHED, *MILLIONS, *WITHOUT_EMBEDDINGS, "stories", "ablation", "scaling"} == set(preset_names())


def test_the_stories_are_the_default_run():
    assert RunConfig.from_preset("stories") == RunConfig()


def test_a_ladder_differs_from_the_default_run_in_the_number_of_stories_alone():
    config = RunConfig.from_preset("scaling")
    assert config.data.max_documents == 200_000
    assert replace(config, max_documents=0) == RunConfig()


def test_the_10m_preset_is_trained_as_it_should_be():
    config = RunConfig.from_preset("tinystories-10m")
    assert (config.training.batch_size, config.optimizer.learning_rate) == (32, 3e-4)
    assert (config.training.max_steps, config.model.dropout, config.data.tokenizer) == (100_000, 0.1, "gpt2")


def test_gpt2_is_the_other_end_of_the_switches():
    model = RunConfig.from_preset("gpt2-baseline").model
    assert (model.norm, model.position, model.mlp, model.bias) == ("layer", "learned", "gelu", True)


# Precedence: defaults < preset < file < flags


def test_flags_override_a_file_which_overrides_a_preset(monkeypatch, tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("[model]\nnum_layers = 3\nmax_seq_len = 64\n[training]\nbatch_size = 8\n")
    words = ["--preset", "tinystories-10m", "--config", str(file), "--max_seq_len", "32"]
    config = configuration(monkeypatch, *words)
    assert config.model == ModelConfig(50257, 256, 1024, 3, 8, max_seq_len=32, dropout=0.1)
    assert config.training.batch_size == 8
    assert config.training.max_steps == 100_000
    assert config.optimizer.learning_rate == 3e-4
    assert configuration(monkeypatch, "--preset", "stories") == RunConfig()


def test_the_order_of_flags_does_not_matter(monkeypatch):
    first = configuration(monkeypatch, "--num_layers", "3", "--preset", "tinystories-15m")
    second = configuration(monkeypatch, "--preset", "tinystories-15m", "--n_layer", "3")
    assert first == second == replace(RunConfig.from_preset("tinystories-15m"), num_layers=3)


def test_the_higher_level_sets_the_length(monkeypatch, tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("[training]\nepochs = 2.0\n")
    preset = ["--preset", "tinystories-10m"]
    for words in (["--epochs", "2"], ["--config", str(file)]):
        training = configuration(monkeypatch, *preset, *words).training
        assert (training.epochs, training.max_steps) == (2.0, 0)
    training = configuration(monkeypatch, *preset, "--config", str(file), "--max_iters", "7").training
    assert (training.epochs, training.max_steps) == (0.0, 7)


def test_an_unknown_preset_is_answered_with_the_nearest(capsys):
    for wrong, near in {
        "tinystorys-15m": "tinystories-15m",
        "Llama-3-8B": "llama-3-8b",
        "gpt2": "gpt2-baseline",
    }.items():
        error = refusal(capsys, "train", "--preset", wrong)
        assert wrong in error
        assert f"did you mean '{near}'?" in error
        assert "llamita presets" in error
    refusal(capsys, "train", "--preset", "../presets/stories")


def test_a_preset_that_flags_contradict_is_one_line(capsys):
    assert "num_heads 6" in refusal(capsys, "train", "--preset", "tinystories-15m", "--hidden_size", "256")


def test_a_folder_is_trained_on_by_a_preset(tmp_path, text):  # noqa: F811
    folder = tmp_path / "my_folder"
    folder.mkdir()
    text.rename(folder / "text.txt")
    small = {
        n: TINY[n] for n in ("hidden_size", "num_layers", "num_heads", "max_seq_len", "batch_size", "sample_every")
    }
    words = flags(data=f"{folder}/text.txt", preset="tinystories-15m", max_steps=4, eval_every=2, save_every=2, **small)
    assert command("train", *words, *flags(intermediate_size=32, vocab_size=300, output_dir="run", device="cpu")) == 0
    assert rows(tmp_path / "run")[-1]["step"] == 4


# The list


LISTED = ["stories", "llama-3-8b", "llama-65b"], pytest.param(preset_names(), marks=pytest.mark.slow)


@pytest.mark.parametrize("listed", LISTED)
def test_the_list_has_presets_with_parameters_memory_and_cache(monkeypatch, capsys, listed):
    monkeypatch.setattr("llamita.presets.preset_names", lambda: listed)
    assert command("presets") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert set(listed) <= lines.keys()
    for name in PUBLISHED.keys() & set(listed):
        assert f" {PUBLISHED[name]:,} " in lines[name]
    assert lines["llama-3-8b"].endswith("131,072 B   524,288 B")  # 2 · 32 layers · 8 (32) heads · 128 · 2 bytes
    assert "GiB" in lines["llama-65b"]


def test_the_cache_has_two_numbers_a_layer_head_and_element():
    config = RunConfig.from_preset("llama-3.2-1b").model
    assert cache_bytes_per_token(config) == 2 * 16 * 8 * 64 * 2


# The memory estimate


def test_weights_gradients_and_optimizer_are_one_one_and_two_numbers_a_parameter():
    config = RunConfig.from_preset("stories")
    memory, parameters = training_memory(config, CPU), sum(counted("stories").values())
    assert (memory.weights, memory.gradients, memory.optimizer) == (4 * parameters, 4 * parameters, 8 * parameters)
    assert memory.peak > memory.weights + memory.gradients + memory.optimizer + memory.activations


def test_activations_grow_with_the_micro_batch_and_not_with_the_batch():
    def activations(**changes: int) -> int:
        return training_memory(replace(RunConfig(), **changes), CPU).activations

    assert activations(batch_size=8, micro_batch_size=4) == activations(batch_size=4)
    assert activations(batch_size=8) == pytest.approx(2 * activations(batch_size=4), rel=0.1)


@pytest.mark.parametrize("switches", [{}, {"norm": "layer", "mlp": "gelu", "bias": True}, {"dropout": 0.1}], ids=str)
@pytest.mark.parametrize("hardware", [CPU, Hardware("cpu", "bf16", 1)], ids=lambda h: h.precision)
def test_memory_of_many_layers_is_extrapolated_from_few(switches, hardware, monkeypatch):
    config = replace(RunConfig(), num_layers=9, batch_size=2, **switches)
    told = training_memory(config, hardware)
    monkeypatch.setattr("llamita.planning.memory.FEW_LAYERS", (9, 9))
    counted_out = training_memory(config, hardware)
    assert told.activations == counted_out.activations
    assert told.peak == pytest.approx(counted_out.peak, rel=0.02)


def test_memory_of_many_chunks_of_the_head_is_extrapolated_from_two(monkeypatch):
    config, hardware = replace(RunConfig(), batch_size=41), Hardware("cpu", "bf16", 1)  # 2.6 slices of tokens
    told = training_memory(config, hardware)
    monkeypatch.setattr("llamita.ops.cpu.cross_entropy.is_fake", lambda _: False)
    assert training_memory(config, hardware) == told


def test_nothing_is_allocated_for_a_model_of_65_billion_parameters():
    memory = training_memory(RunConfig.from_preset("llama-65b"), Hardware("cpu", "bf16", 1))
    assert memory.weights == 4 * PUBLISHED["llama-65b"]
    assert memory.peak > 16 * PUBLISHED["llama-65b"]
