"""A corpus that brings its own validation split, judge, floor and defaults needs no change anywhere else."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from runs import TINY, command, flags, refusal, tiny_config
from runs import cache as cache
from runs import text as text

from llamita.config import DataConfig
from llamita.corpus import Defaults, DocumentList, Judge, Source, TextFiles, join_documents, open_source, opening
from llamita.data import DocumentWindows, StreamWindows, open_dataset
from llamita.randomness import key
from llamita.train import RunDirectory

TOSSES = 6
COIN = re.compile(f"[HT]{{{TOSSES}}}")


class Coins:
    """A corpus of tosses of a fair coin, six a document: a perfect model knows nothing but when a document ends."""

    def __init__(self, seed: int, count: int, split: str):
        self._arguments = seed, count, split

    def pieces(self) -> Iterator[str | None]:
        seed, count, split = self._arguments
        for number in range(count):
            bits = key(seed, "coins", split, number)
            yield "".join("HT"[bits >> toss & 1] for toss in range(TOSSES))
            yield None

    def fingerprint(self) -> str:
        return repr(self._arguments)

    def describe(self) -> str:
        return f"{self._arguments[1]} series of tosses"


def open_coins(options: DataConfig, seed: int) -> Source:
    return Source(
        training=Coins(seed, options.max_documents or 80, "train"),
        validation=Coins(seed, 20, "validation"),
        judge=Judge("mint", lambda text: bool(COIN.fullmatch(text))),
        floor_nats=20 * TOSSES * math.log(2),
        defaults=Defaults(windows="document", head_init="copy"),
    )


@pytest.fixture
def coins(monkeypatch) -> dict:
    """The flags of a tiny run on a corpus that this module has just invented."""
    monkeypatch.setitem(opening.BY_NAME, "coins", open_coins)
    return {**TINY, "data": "coins", "sample_every": 12, "sample_count": 4, "eval_sequences": "auto"}


def test_it_is_prepared_with_its_own_validation_text(coins, tmp_path, capsys):
    assert command("prepare", "--data", "coins", "--tokenizer", "char", "--seed", 3, "--output_dir", "tokens") == 0
    assert "80 series of tosses" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "tokens" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["validation"] == "20 series of tosses"
    assert {name: part["documents"] for name, part in manifest["parts"].items()} == {"train": 80, "val": 20}
    assert manifest["validation_fingerprint"] == Coins(3, 20, "validation").fingerprint()


def test_training_takes_its_defaults_its_floor_and_its_judge(coins, capsys):
    assert command("train", *flags(**coins, output_dir="run")) == 0
    out = capsys.readouterr().out
    run = RunDirectory(Path("run"))
    floor = TOSSES * math.log(2) / (TOSSES + 1)  # an end token for each six tosses
    assert run.facts()["loss_floor"] == pytest.approx(floor)
    assert "above the floor" in out
    assert run.config().model.head_init == "copy"
    sample = run.samples.rows()[-1]
    accepted = sum(bool(COIN.fullmatch(text)) for text in sample["samples"]) / 4
    assert sample["accepted"] == accepted
    assert f"({accepted:.0%} of 4 accepted by the mint)" in out
    best = min(row["val_loss"] for row in run.metrics.rows() if row["val_loss"])
    assert best > floor - 0.05  # as many tosses as these come out a little uneven


def test_evaluation_compares_with_its_floor_and_lets_it_judge(coins, monkeypatch, capsys):
    assert command("train", *flags(**coins, output_dir="run")) == 0
    monkeypatch.setattr("llamita.generate.generate_many", lambda *_: ["TTH", "TTHH", "TT", "THT"])
    capsys.readouterr()
    assert command("eval", "--checkpoint", "run", "--generate", "HTH", "--sample_count", 4) == 0
    shown = {line[:16].strip(): line[16:] for line in capsys.readouterr().out.splitlines()}
    assert shown["mint"] == "accepts 2 of 4 that begin 'HTH'"
    assert shown["loss floor"].startswith(f"{TOSSES * math.log(2) / (TOSSES + 1):.4f}, the model is ")


def test_requested_windows_win_over_its_defaults_and_have_no_floor(coins):
    config = tiny_config(Path("coins"), windows="stream")
    data = open_dataset(config)
    assert isinstance(data.train, StreamWindows)
    assert data.floor is None
    assert data.judge


def test_documents_that_the_context_cuts_have_no_floor(coins):
    config = tiny_config(Path("coins"), max_seq_len=TOSSES)
    assert isinstance(open_dataset(config).train, DocumentWindows)
    assert open_dataset(config).floor is None
    assert open_dataset(replace(config, model=replace(config.model, max_seq_len=TOSSES + 1))).floor is not None


def test_a_folder_prepared_from_it_is_text_like_any_other(coins):
    assert command("prepare", "--data", "coins", "--tokenizer", "char", "--output_dir", "tokens") == 0
    data = open_dataset(tiny_config(Path("tokens")))
    assert (data.floor, data.judge, data.defaults) == (None, None, Defaults())
    assert isinstance(data.train, StreamWindows)


def test_a_name_beside_files_is_a_file(coins, text, capsys):
    assert "coins: no such file" in refusal(
        capsys, *("train", *flags(**{**coins, "data": text}), "--val_data", "coins")
    )
    source = open_source(DataConfig(data=(str(text), str(text))), seed=0)
    assert isinstance(source.training, TextFiles)


def test_local_files_have_validation_text_only_where_it_is_named(text):
    alone = open_source(DataConfig(data=(str(text),)), seed=0)
    assert (alone.validation, alone.judge, alone.floor_nats, alone.defaults) == (None, None, None, Defaults())
    both = open_source(DataConfig(data=(str(text),), val_data=(str(text),), max_documents=3), seed=0)
    assert both.validation
    assert [len(list(join_documents(corpus.pieces()))) for corpus in (both.training, both.validation)] == [3, 60]


def test_a_floor_without_its_validation_text_is_refused():
    with pytest.raises(ValueError, match="no validation text"):
        Source(DocumentList(["a"], "one"), floor_nats=1.0)
