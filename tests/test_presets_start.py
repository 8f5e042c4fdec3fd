"""Every preset starts on the data that it names, served by a hub of the test's own."""

from collections.abc import Iterator

import pytest
from hub_server import Hub
from runs import cache as cache
from runs import command, flags, rows
from stand_ins import serve_catalog, small_gpt2

from llamita.config import RunConfig
from llamita.presets import preset_names

TOO_LARGE = {"llama-3.2-1b", "llama-7b", "llama-2-7b", "llama-3-8b", "llama-13b", "llama-33b", "llama-65b"}
FAST = {"tinystories-17m"}
STEPS = flags(batch_size=1, grad_accum_steps=1, max_steps=2, eval_sequences=2, sample_every=0, output_dir="run")


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    with serve_catalog(monkeypatch) as hub:
        yield hub


def marks(name: str) -> list:
    if name in TOO_LARGE:
        return [pytest.mark.skip(reason="more parameters than a test machine has memory for")]
    return [] if name in FAST else [pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in preset_names()])
def test_a_preset_starts_on_its_data(hub, cache, monkeypatch, tmp_path, name):
    small_gpt2(monkeypatch, cache)
    assert command("train", "--preset", name, *STEPS) == 0
    assert rows(tmp_path / "run")[-1]["step"] == 2
    assert bool(hub.sent) == (RunConfig.from_preset(name).data.data != ("stories",))


def test_presets_of_published_shapes_name_data_that_are_fetched():
    named = {name: RunConfig.from_preset(name).data.data for name in preset_names()}
    assert {data[0] for name, data in named.items() if name.startswith("tinystories")} == {"tinystories"}
    assert {data[0] for name, data in named.items() if "llama" in name or "owt" in name or "gpt2" in name} == {
        "openwebtext"
    }
