"""--track: metrics mirrored into trackers, offline; each is skipped where it is not installed, trackio is a stub."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from runs import TINY, cache, refusal, rows, text, tiny_config, train_words

import llamita.train.loop
from llamita.config import replace
from llamita.train import trackers, train

fixtures = (cache, text)
STEPS = {"train_loss": list(range(1, 13)), "val_loss": [0, 4, 8, 12]}


class StubRun:
    """A tracked run that remembers what it was given."""

    def __init__(self, options: dict):
        self.options, self.logged, self.finished = options, [], False

    def log(self, values: dict, step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def trackio(monkeypatch) -> list[StubRun]:
    """A module trackio, and the runs that it was asked for."""
    runs: list[StubRun] = []
    module = ModuleType("trackio")
    module.__spec__ = SimpleNamespace(origin="stub")  # type: ignore[assignment]
    module.init = lambda **options: runs.append(StubRun(options)) or runs[-1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", module)
    return runs


def interrupt_at(monkeypatch, step: int) -> pytest.MonkeyPatch:
    """A crash after `step` was logged, as an unhandled error makes it."""

    def crash(run, *_):
        if run.state.step == step:
            raise RuntimeError("crash")

    monkeypatch.setattr(llamita.train.loop, "announce_step", crash)
    return monkeypatch


def tracked(text: Path, folder: Path, tracker: str, **options) -> Path:
    return train(replace(tiny_config(text, **options), output_dir=str(folder), track=tracker))


def interrupted(text: Path, folder: Path, tracker: str) -> Path:
    """A run that crashes at step 6, two steps after its last checkpoint, and is resumed."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="crash"):
        tracked(text, interrupt_at(patch, 6) and folder, tracker)
    return tracked(text, folder, tracker)


def expected(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of metrics.jsonl, by name."""
    names = "train_loss", "val_loss"
    return {name: [(row["step"], row[name]) for row in rows(run) if row[name] is not None] for name in names}


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The points in the event files of a run, as TensorBoard reads them."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    return {name: [(e.step, e.value) for e in read.Scalars(name)] for name in ("train_loss", "val_loss")}


def wandb_records(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format after 7 bytes, in blocks of 32 KiB; (crc, length, type)."""
    content, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 2**15 - at % 2**15
        if left < 7:  # a header is not split between blocks
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def wandb_history(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The points in the offline files of a run, as `wandb sync` would send them."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    found: dict[str, list[tuple[int, float]]] = {"train_loss": [], "val_loss": []}
    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for content in wandb_records(file):
            record = messages.Record()
            record.ParseFromString(content)
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name in found.keys() & items.keys():
                found[name].append((record.history.step.num, items[name]))
    return found


def test_tensorboard_shows_every_point_once_also_after_a_crash(tmp_path, text):
    pytest.importorskip("tensorboard")
    run = interrupted(text, tmp_path / "run", "tensorboard")
    for name, points in expected(run).items():
        assert [step for step, _ in points] == STEPS[name]
        assert scalars(run)[name] == [(step, pytest.approx(value)) for step, value in points]  # float32


@pytest.mark.slow
def test_wandb_offline_holds_every_point_once_also_after_a_crash(tmp_path, text, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = interrupted(text, tmp_path / "run", "wandb")
    assert wandb_history(run) == expected(run)


def test_a_resumed_run_continues_the_tracked_run(tmp_path, text, trackio):
    run = interrupted(text, tmp_path / "run", "trackio")
    first, second = trackio
    assert (
        first.options["name"] == second.options["name"] == f"run-{json.loads((run / 'tracker.json').read_text())['id']}"
    )
    assert first.finished
    assert second.finished
    logged = [*first.logged, *second.logged]
    for name, points in expected(run).items():
        assert [(step, values[name]) for step, values in logged if name in values] == points


def test_a_run_that_is_tracked_from_the_middle_on_is_tracked_as_a_whole(tmp_path, text, trackio):
    tracked(text, tmp_path / "run", "none", max_steps=8)
    run = train(replace(tiny_config(text, track="trackio"), output_dir=str(tmp_path / "run"), extend=True))
    assert [step for step, values in trackio[0].logged if "train_loss" in values] == STEPS["train_loss"]
    assert all(set(values) <= {*rows(run)[0], "tokens_per_second"} - {"step"} for _, values in trackio[0].logged)


def test_a_run_that_starts_from_scratch_is_another_tracked_run(tmp_path, text, trackio):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="crash"):
        tracked(text, interrupt_at(patch, 2) and tmp_path / "run", "trackio")
    tracked(text, tmp_path / "run", "trackio")
    assert trackio[0].options["name"] != trackio[1].options["name"]
    assert [step for step, values in trackio[1].logged if "train_loss" in values] == STEPS["train_loss"]


def test_a_tracker_that_fails_warns_once_and_training_continues(tmp_path, text, trackio, monkeypatch, capsys):
    alone = tracked(text, tmp_path / "alone", "none")

    def fail(self, values, step):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(StubRun, "log", fail)
    run = tracked(text, tmp_path / "run", "trackio")
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning: trackio" in line]
    assert warnings == [
        "warning: trackio failed, and is no longer used (ConnectionError: no network); training continues"
    ]
    assert rows(run) == rows(alone)


def test_a_tracker_that_cannot_start_does_not_stop_training(tmp_path, text, trackio, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["trackio"], "init", lambda **_: 1 / 0)
    run = tracked(text, tmp_path / "run", "trackio")
    assert [row["step"] for row in rows(run) if row["train_loss"] is not None] == STEPS["train_loss"]
    assert capsys.readouterr().out.count("warning: trackio failed") == 1


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(
    tmp_path, text, capsys, monkeypatch, is_folder
):
    """Also beside a folder of its name, which Python can import as an empty package."""
    spec = SimpleNamespace(origin=None) if is_folder else None
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: spec)
    error = refusal(capsys, *train_words(text, tmp_path / "run", **TINY), "--track", "wandb")
    assert error == 'llamita: --track wandb needs a package that is not installed: pip install "llamita[wandb]"\n'
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_the_package_of_every_tracker_is_an_extra_of_its_name():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in trackers.TRACKERS:
        assert any(package.startswith(name) for package in project["optional-dependencies"][name])
