"""Settings of the same names make the same configuration, from Python, flags and files; derived values follow."""

import copy
import dataclasses
import pickle
import warnings
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import command
from test_config import other_value

import llamita.train
from llamita.cli.flags import LIMITS
from llamita.config import (
    ALIASES,
    RETIRED,
    ModelConfig,
    RunConfig,
    beneath,
    default_learning_rate,
    field_tables,
    replace,
)
from llamita.config.size import SIZES
from llamita.errors import UserError
from llamita.presets import preset_names
from llamita.train import RunDirectory

VALUES = {
    "hidden_size": (64, 96, 100, 160, 256, 320),
    "intermediate_size": (0, 100, 432),
    "num_heads": (0, 2, 4, 5),
    "num_kv_heads": (0, 1, 2, 5),
    "head_dim": (0, 16, 40),
    "learning_rate": (0.0, 0.75 / 256, 1e-3),
    "min_learning_rate": (0.0, 1e-3),
    "mlp": ("swiglu", "gelu"),
    "head_init": ("auto", "random", "copy"),
    "size": (0, 300_000),
    "depth": (0, 3),
    "batch_size": (0, 5),
    "max_steps": (0, 5),
    "epochs": (0.0, 2.0),
    "rope_scaling_factor": (1.0, 8.0),
}
"""What derived sizes hang together with; every other setting has its default or one other value."""


def flat(config: RunConfig) -> dict[str, Any]:
    """Every setting by its flat name."""
    return {name: getattr(getattr(config, table), name) for name, table in field_tables().items()}


DEFAULTS = flat(RunConfig())
SPELLINGS = {name: [name, *(a for a, meant in ALIASES.items() if meant == name)] for name in DEFAULTS}


@st.composite
def settings_by_any_name(draw) -> dict[str, Any]:
    """A few settings, each under one of its names."""
    names = draw(st.lists(st.one_of(st.sampled_from(sorted(VALUES)), st.sampled_from(sorted(DEFAULTS))),
                          unique=True, max_size=8))  # fmt: skip
    found = {}
    for name in names:
        values = VALUES.get(name, (DEFAULTS[name], other_value(name, DEFAULTS[name])))
        spelled = draw(st.sampled_from(SPELLINGS[name]))
        found[spelled] = draw(st.sampled_from([value for value in values if value != ()]))
    return found


def words(values: dict[str, Any]) -> list[str]:
    """The flags of these settings."""
    found = []
    for name, value in values.items():
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        else:
            found += [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]
    return found


def from_command_line(*arguments: Any) -> RunConfig | None:
    """The configuration that `llamita train` would train; None where it refuses."""
    taken: list[RunConfig] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llamita.train, "train", lambda config, *_, **__: taken.append(config) or exit(0))
        code = command("train", *arguments)
    assert code == (0 if taken else 2)
    return taken[0] if taken else None


def from_python(config: RunConfig, values: dict[str, Any]) -> RunConfig | None:
    try:
        return replace(config, **values)
    except UserError:
        return None


def assert_same(one: RunConfig | None, other: RunConfig | None) -> None:
    """Equal, and of the same values derived; or both refused."""
    assert one == other
    if one is not None and other is not None:
        assert one.asked_for() == other.asked_for()


FILES = {
    "mine.toml": "[model]\nn_embd = 96\nn_head = 6\n[optimizer]\nlr = 1e-3\n[training]\nmax_steps = 7\n",
    "epochs.toml": "[model]\nhidden_size = 128\nn_kv_heads = 2\nhead_init = 'copy'\n[training]\nepochs = 2.0\n",
}


@pytest.fixture(scope="module")
def below(tmp_path_factory) -> dict[str, tuple[list[Any], RunConfig]]:
    """What flags override: nothing, files that a user wrote, those of runs, presets -> (flags, the same)."""
    folder = tmp_path_factory.mktemp("below")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    runs = {"derived": RunConfig.from_tables({"model": {"hidden_size": 256, "head_init": "copy"}}),
            "asked": RunConfig.from_tables({"model": {"num_heads": 2, "intermediate_size": 96, "head_init": "random"},
                                            "optimizer": {"learning_rate": 0.002}})}  # fmt: skip
    for name, config in runs.items():
        (folder / name).mkdir()
        RunDirectory(folder / name).write_config(config, {"threads": 1})
    files = [folder / name for name in FILES] + [folder / name / "config.toml" for name in runs]
    found = {"nothing": ([], RunConfig())}
    for path in files:
        config = RunConfig.from_toml(path)
        found[f"{path.parent.name}/{path.name}"] = ["--config", path], config
    found |= {name: (["--preset", name], RunConfig.from_preset(name)) for name in preset_names()}
    return found


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_command_line_and_python_make_the_same_of_the_same_names(below, capsys, data):
    flags, config = below[data.draw(st.sampled_from(sorted(below)))]
    values = data.draw(settings_by_any_name())
    if "--preset" in flags and "data" in {ALIASES.get(name, name) for name in values}:
        config = replace(config, **dict.fromkeys(LIMITS, 0))  # those of the preset's own corpus
    assert_same(from_command_line(*flags, *words(values)), from_python(config, values))


@settings(deadline=None, max_examples=100)
@given(values=settings_by_any_name())
def test_a_file_and_python_make_the_same_of_the_same_names(tmp_path_factory, values):
    tables: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        tables.setdefault(field_tables()[ALIASES.get(name, name)], {})[name] = value
    path = tmp_path_factory.getbasetemp() / "one.toml"
    path.write_text(tomli_w.dumps(tables))
    requested = from_python(RunConfig(), values)
    if requested is None:
        with pytest.raises(UserError):
            RunConfig.from_toml(path)
    else:
        assert_same(RunConfig.from_toml(path), requested)
        assert_same(RunConfig.from_tables(tables), requested)


@settings(deadline=None, max_examples=100)
@given(first=settings_by_any_name(), second=settings_by_any_name())
def test_settings_replaced_one_after_the_other_are_those_replaced_together(first, second):
    """As long as both steps are possible: the second wins, and what it leaves open is derived from all of them."""
    below, above = ({ALIASES.get(name, name): value for name, value in values.items()} for values in (first, second))
    between = from_python(RunConfig(), first)
    if between is not None:
        together = beneath({"first": below}, above)["first"] | above
        assert_same(from_python(between, second), from_python(RunConfig(), together))


def test_derived_values_follow_and_values_that_were_set_stay():
    wider = replace(RunConfig(), hidden_size=256, num_layers=6)
    assert wider.model == ModelConfig(hidden_size=256, num_layers=6)
    assert (wider.model.num_heads, wider.model.head_dim, wider.model.intermediate_size) == (8, 32, 688)
    grouped = replace(replace(RunConfig(), num_heads=4, n_kv_heads=2), n_embd=256)
    assert (grouped.model.num_heads, grouped.model.num_kv_heads, grouped.model.head_dim) == (4, 2, 64)
    assert replace(grouped, n_head=0, n_kv_heads=0).model == ModelConfig(hidden_size=256)


def test_a_file_that_a_run_wrote_may_be_read_back_and_changed(tmp_path):
    config = replace(RunConfig(), hidden_size=192, num_kv_heads=2, head_init="copy")
    RunDirectory(tmp_path).write_config(config, {"threads": 1})
    again = RunConfig.from_toml(tmp_path / "config.toml")
    assert_same(again, config)
    assert again.optimizer.learning_rate == default_learning_rate(192, "copy")
    wider = replace(again, hidden_size=256)
    assert wider == replace(RunConfig(), hidden_size=256, num_kv_heads=2, head_init="copy")
    assert wider.optimizer.learning_rate == default_learning_rate(256, "copy")


def test_the_learning_rate_is_derived_once_head_init_is_known():
    assert RunConfig().optimizer.learning_rate == 0
    config = replace(RunConfig(), head_init="random", hidden_size=256)
    assert config.optimizer.learning_rate == 0.75 / 256
    assert replace(config, head_init="copy").optimizer.learning_rate == 1.5 / 256
    assert replace(config, head_init="auto").optimizer.learning_rate == 0
    assert replace(replace(config, lr=1e-3), hidden_size=512).optimizer.learning_rate == 1e-3


def test_a_copy_by_dataclasses_replaces_values_only():
    grouped = dataclasses.replace(ModelConfig(hidden_size=256), num_kv_heads=2)
    assert grouped == ModelConfig(hidden_size=256, num_kv_heads=2)
    assert grouped.derived == frozenset()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_a_copy_knows_what_was_derived_too(copied):
    config = replace(RunConfig(), num_kv_heads=2, head_init="copy")
    assert_same(copied(config), config)
    assert copied(config.model).derived == set(SIZES) - {"num_kv_heads"}
    assert vars(copied(config.model)) == dataclasses.asdict(config.model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_embed_": 3}, "configuration: unknown setting 'n_embed_'"),
        ({"n_embd": 3, "hidden_size": 4}, "configuration: 'hidden_size' is set twice, as 'n_embd' and 'hidden_size'"),
        ({"n_embd": "256"}, "configuration: hidden_size is '256', but must be a whole number"),
        ({"seed": 1.5}, "configuration: seed is 1.5, but must be a whole number"),
        ({"num_heads": 7, "hidden_size": 100}, "configuration: hidden_size 100 is not divisible by num_heads 7"),
    ],
    ids=str,
)
def test_a_mistake_in_python_is_one_line_as_in_a_file(values, message):
    with pytest.raises(UserError) as caught:
        replace(RunConfig(), **values)
    assert str(caught.value).startswith(message)


def test_paths_may_be_given_as_paths(tmp_path):
    config = replace(RunConfig(), data=tmp_path / "a.txt", val_data=[tmp_path], output_dir=tmp_path)
    assert config.data.data == (str(tmp_path / "a.txt"),)
    assert (config.data.val_data, config.run.output_dir) == ((str(tmp_path),), str(tmp_path))


# Settings of earlier versions


@pytest.mark.parametrize("name", RETIRED)
def test_a_retired_setting_in_a_file_of_a_run_is_left_out_silently(tmp_path, name):
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps({**RunConfig().tables(), "run": {name: "auto", "threads": 2}, "facts": {name: 128}}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RunConfig.from_toml(path) == replace(RunConfig(), threads=2)


@pytest.mark.parametrize("name", RETIRED)
def test_a_retired_setting_that_a_user_wrote_is_left_out_with_a_note(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "mine.toml").write_text(f"[run]\n{name} = 64\nthreads = 2\n")
    requested = replace(RunConfig(), threads=2)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=f"^mine.toml: {name} is ignored, and can be removed: "):
        assert RunConfig.from_toml("mine.toml") == requested
    for given_as in (["--config", "mine.toml"], ["--threads", 2, f"--{name}", 64], [f"--{name}=64", "--threads=2"],
                     [f"--{name.replace('_', '-')}", "auto", "--threads", 2]):  # fmt: skip
        assert from_command_line(*given_as) == requested
        source = given_as[1] if given_as[0] == "--config" else "command line"
        printed = capsys.readouterr().err
        assert printed.startswith(f"note: {source}: {name} is ignored, and can be removed: ")
        assert printed.count("\n") == 1


def test_a_retired_name_is_no_setting_and_no_alias():
    assert not RETIRED.keys() & (DEFAULTS.keys() | ALIASES.keys())
