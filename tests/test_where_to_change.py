"""docs/architecture.md says what to edit for which change: each place has its effect."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import cache as cache
from runs import rows, tiny_config
from runs import text as text
from torch import Tensor

import llamita
from llamita import ops
from llamita.config import ExecutionConfig, GenerationConfig, ModelConfig, RunConfig
from llamita.corpus import opening
from llamita.generate import generate_ids
from llamita.model import Llama
from llamita.optim import build_optimizer
from llamita.runtime.hardware import choose_hardware
from llamita.tokenizer import BPETokenizer
from llamita.train import train

DOCS = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"
PACKAGE = Path(llamita.__file__).parent


def table_of_changes() -> list[tuple[str, str]]:
    """(what to change, what to edit) of each row."""
    section = DOCS.read_text(encoding="utf-8").partition("## Where to change")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [(what.strip(), edit.strip()) for what, edit in lines[2:]]


@pytest.mark.parametrize(("what", "edit"), table_of_changes())
def test_every_place_that_the_table_names_exists(what, edit):
    places = [word for word in re.findall(r"`([^`]+)`", edit) if "/" in word]
    assert places or what == "a story"
    assert all((PACKAGE / place).exists() for place in places)


def test_every_package_that_the_table_names_exists_and_all_are_named():
    rows_of_packages = DOCS.read_text(encoding="utf-8").partition("## Where to look")[0]
    named = set(re.findall(r"^\| (`.+?`) \|", rows_of_packages, re.MULTILINE))
    words = {word.rstrip("/") for cell in named for word in re.findall(r"`([^`]+)`", cell)}
    there = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert words == there - {"__init__.py", "__main__.py", "__pycache__"}


def losses(text: Path, folder: Path, **options: Any) -> list[float]:
    run = train(tiny_config(text, output_dir=str(folder), max_steps=4, **options))
    return [row["train_loss"] for row in rows(run) if row.get("train_loss") is not None]


OPERATIONS = ("rms_norm", "rope", "swiglu", "attention", "linear")


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_edited_reference_changes_a_run_with_plain_kernels(monkeypatch, text, tmp_path, name, precision):
    options = {"kernels": "plain", "precision": precision}
    before = losses(text, tmp_path / "before", **options)
    damp(monkeypatch, f"llamita.ops.reference.{name}", getattr(ops.reference, name))
    assert losses(text, tmp_path / "after", **options) != before


def test_an_edited_cross_entropy_changes_a_run_with_plain_kernels(monkeypatch, text, tmp_path):
    before = losses(text, tmp_path / "before", kernels="plain")
    damp(monkeypatch, "llamita.ops.reference.cross_entropy", ops.reference.cross_entropy)
    after = losses(text, tmp_path / "after", kernels="plain")
    assert after[0] == pytest.approx(before[0] / 2, rel=1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_edited_call_changes_a_run_with_fused_kernels(monkeypatch, text, tmp_path, name):
    before = losses(text, tmp_path / "before", precision="bf16")
    damp(monkeypatch, f"llamita.ops.{name}", getattr(ops, name))
    assert losses(text, tmp_path / "after", precision="bf16") != before


def damp(monkeypatch: pytest.MonkeyPatch, place: str, original: Callable[..., Tensor]) -> None:
    monkeypatch.setattr(place, lambda *arguments, **options: original(*arguments, **options) * 0.5)


def test_the_formulas_of_adamw_and_clipping_are_what_plain_kernels_run(monkeypatch, text, tmp_path):
    before = losses(text, tmp_path / "before", kernels="plain")

    def no_update(rows: Any, update: Any) -> None:
        pass

    monkeypatch.setattr("llamita.optim.adamw.reference_adamw", no_update)
    after = losses(text, tmp_path / "after", kernels="plain")
    assert after[0] == before[0]
    assert after[1:] != before[1:]


def test_the_groups_of_the_optimizer_come_from_build_optimizer(monkeypatch, text, tmp_path):
    before = losses(text, tmp_path / "before")

    def without_rate(options: Any, model: Any) -> Any:
        optimizer = build_optimizer(options, model)
        for group in optimizer.param_groups:
            group["lr_multiplier"] = 0.0
        return optimizer

    monkeypatch.setattr("llamita.train.build.build_optimizer", without_rate)
    assert losses(text, tmp_path / "after")[1:] != before[1:]


def test_the_schedule_is_that_of_optim_schedule(monkeypatch, text, tmp_path):
    monkeypatch.setattr("llamita.optim.schedule.cosine_schedule", lambda *arguments: 0.125)
    run = train(tiny_config(text, output_dir=str(tmp_path / "run"), max_steps=3))
    assert {row["lr"] for row in rows(run) if row.get("lr") is not None} == {0.125}


def test_a_new_file_in_presets_is_a_preset(monkeypatch, tmp_path):
    (tmp_path / "mine.toml").write_text("[model]\nhidden_size = 48\n", encoding="utf-8")
    monkeypatch.setattr("llamita.presets.__file__", str(tmp_path / "__init__.py"))
    assert RunConfig.from_preset("mine").model.hidden_size == 48


def test_plain_python_encodes_by_the_pieces_and_merges_of_its_files(monkeypatch):
    vocab = {**{i: bytes([i]) for i in range(256)}, 256: b"ab"}
    assert BPETokenizer(vocab, [(b"a", b"b")], plain=True).encode("ab ab") == [256, 32, 256]
    monkeypatch.setattr("llamita.tokenizer.plain.merge", lambda piece, rank: [bytes([byte]) for byte in piece])
    assert BPETokenizer(vocab, [(b"a", b"b")], plain=True).encode("ab ab") == list(b"ab ab")


def test_a_corpus_is_a_line_in_the_table_of_names(monkeypatch):
    monkeypatch.setitem(opening.BY_NAME, "made up", lambda options, seed: (options.data, seed))
    assert opening.open_source(RunConfig.from_tables({"data": {"data": "made up"}}).data, 7) == (("made up",), 7)


def test_stories_are_told_by_the_entries_of_shapes(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "llamita", ignore=shutil.ignore_patterns("__pycache__"))
    before = stories_of(tmp_path)
    shapes = tmp_path / "llamita" / "corpus" / "story_shapes.py"
    last_entry = "SHAPES |= MORE_SHAPES"
    edited = shapes.read_text(encoding="utf-8").replace(last_entry, f"{last_entry}; SHAPES.popitem()")
    shapes.write_text(edited, encoding="utf-8")
    assert stories_of(tmp_path) != before


def stories_of(folder: Path) -> str:
    """The first stories that the package in a folder tells."""
    tell = "from llamita.corpus.stories import stories; print([story.text for story in stories(0, 20)])"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", tell], capture_output=True, text=True, check=True, env=environment
    ).stdout


def test_the_order_of_data_is_that_of_permute(monkeypatch, text, tmp_path):
    before = losses(text, tmp_path / "before")
    monkeypatch.setattr("llamita.data.order.permute", lambda index, n, key: n - 1 - np.asarray(index))
    assert losses(text, tmp_path / "after") != before


def test_threads_are_those_of_choose_threads(monkeypatch):
    monkeypatch.setattr("llamita.runtime.hardware.choose_threads", lambda model, cores: 5)
    assert choose_hardware(ExecutionConfig(device="cpu")).threads == 5


def test_sampling_is_that_of_sample_logits(monkeypatch):
    model, greedy = Llama(ModelConfig(vocab_size=50, hidden_size=32)), GenerationConfig(max_new_tokens=5, temperature=0)
    before = generate_ids(model, [[1, 2]], greedy)
    assert before == generate_ids(model, [[1, 2]], greedy)
    monkeypatch.setattr("llamita.generate.sampling.sample_logits", lambda logits, **options: logits.argmin(dim=-1))
    assert generate_ids(model, [[1, 2]], greedy) != before


def test_initial_weights_are_those_of_init(monkeypatch):
    before = Llama(ModelConfig(hidden_size=32)).lm_head.weight.clone()
    monkeypatch.setattr("llamita.model.init.normal", lambda shape, std, seed, name: torch.zeros(shape))
    assert not torch.equal(before, Llama(ModelConfig(hidden_size=32)).lm_head.weight)
