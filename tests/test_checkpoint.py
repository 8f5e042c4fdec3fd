"""Checkpoints come back exactly, are complete or absent, and are refused when anything about them is wrong."""

import ast
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from runs import (
    cache,
    command,
    digest,
    ended,
    evaluation_rows,
    flip,
    kill_at_file_operation,
    refusal,
    rows,
    start,
    text,
    tiny_config,
    train_words,
    training_rows,
    tree,
)
from safetensors.torch import load_file

import llamita
from llamita.config import ModelConfig
from llamita.errors import UserError
from llamita.model import Llama
from llamita.optim import AdamW
from llamita.parallel import Processes
from llamita.tokenizer import CharTokenizer
from llamita.train import Display, RunDirectory, find_checkpoint, load_checkpoint, load_run, save_checkpoint
from llamita.train.run import open_run

fixtures = (cache, text)
FILES = ("model.safetensors", "optimizer.safetensors", "manifest.json")
SHAPE = {"vocab_size": 11, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_seq_len": 8}


def model_and_optimizer(steps: int = 3, kind=AdamW, seed: int = 0, **changes):
    """A model that has learned from random numbers, and its optimizer."""
    model = Llama(ModelConfig(**{**SHAPE, **changes}), seed=seed)
    optimizer = kind(model.parameters(), lr=1e-2)
    learn(model, optimizer, range(steps))
    return model, optimizer


def learn(model, optimizer, steps) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(11, (2, 8), generator=generator)
        optimizer.zero_grad()
        model(ids, ids.roll(1, dims=1)).backward()
        optimizer.step()


def parameters(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_equal(actual, expected) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def change_manifest(checkpoint: Path, **values) -> None:
    content = json.loads((checkpoint / "manifest.json").read_text())
    (checkpoint / "manifest.json").write_text(json.dumps({**content, **values}))


@pytest.fixture
def saved(tmp_path) -> Path:
    """A checkpoint."""
    model, optimizer = model_and_optimizer()
    return save_checkpoint(tmp_path / "saved", model, optimizer, 3)


@pytest.mark.parametrize("kind", [AdamW, torch.optim.AdamW], ids=["llamita", "torch"])
@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_a_checkpoint_is_restored_exactly_and_training_continues_bit_for_bit(tmp_path, kind, tie):
    model, optimizer = model_and_optimizer(kind=kind, tie_embeddings=tie)
    save_checkpoint(tmp_path / "saved", model, optimizer, 3)
    other, its = model_and_optimizer(1, kind=kind, tie_embeddings=tie, seed=9)
    assert load_checkpoint(tmp_path / "saved", other, its) == 3
    assert_equal(parameters(other), parameters(model))
    learn(model, optimizer, range(3, 6))
    learn(other, its, range(3, 6))
    assert_equal(parameters(other), parameters(model))


def test_saving_the_same_twice_gives_the_same_bytes(saved, tmp_path):
    again = save_checkpoint(tmp_path / "again", *model_and_optimizer(), 3)
    assert tree(again) == tree(saved)


def test_tensors_are_named_as_hugging_face_names_them_and_a_tied_head_is_written_once(saved):
    names = set(load_file(saved / "model.safetensors"))
    assert "model.layers.1.self_attn.q_proj.weight" in names
    assert "lm_head.weight" not in names
    assert names == {name for name, _ in Llama(ModelConfig(**SHAPE)).named_parameters()}


def test_optimizer_state_goes_by_name_whatever_the_order_of_the_groups(saved):
    model, _ = model_and_optimizer(0)
    optimizer = AdamW([{"params": [p]} for p in reversed(list(model.parameters()))], lr=1e-2)
    load_checkpoint(saved, model, optimizer)
    expected, its = model_and_optimizer()
    states = dict(zip(parameters(expected), [its.state[p] for p in expected.parameters()], strict=True))
    for name, parameter in model.named_parameters():
        assert optimizer.state[parameter]["step"] == 3
        assert torch.equal(optimizer.state[parameter]["exp_avg"], states[name]["exp_avg"])
        assert torch.equal(optimizer.state[parameter]["exp_avg_sq"], states[name]["exp_avg_sq"])


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(UserError, match=f"not a complete checkpoint, {name} is missing"):
        load_checkpoint(saved, *model_and_optimizer(0))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.97])
def test_one_flipped_bit_anywhere_is_noticed_before_anything_is_loaded(saved, name, place):
    file = saved / name
    flip(file, at=int(place * file.stat().st_size))
    model, optimizer = model_and_optimizer(1)
    before = parameters(model)
    with pytest.raises(UserError, match="damaged checkpoint"):
        load_checkpoint(saved, model, optimizer)
    assert_equal(parameters(model), before)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_noticed(saved, name):
    os.truncate(saved / name, (saved / name).stat().st_size // 2)
    with pytest.raises(UserError, match="damaged checkpoint"):
        load_checkpoint(saved, *model_and_optimizer(0))


@pytest.mark.parametrize("values", [{"step": 4}, {"format_version": 2}, {"files": {}}, {"note": "mine"}], ids=str)
def test_a_manifest_edited_by_hand_is_refused(saved, values):
    change_manifest(saved, **values)
    with pytest.raises(UserError, match=r"manifest\.json is not what was saved"):
        load_checkpoint(saved, *model_and_optimizer(0))


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"sha256": 1}', "\x00\xff", '{"files": 3, "sha256": ""}'])
def test_a_manifest_that_is_no_manifest_is_refused(saved, content):
    (saved / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"manifest\.json"):
        load_checkpoint(saved, *model_and_optimizer(0))


def test_the_digest_of_a_manifest_is_that_of_its_content(saved):
    content = json.loads((saved / "manifest.json").read_text())
    own = content.pop("sha256")
    assert own == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert content["files"] == {name: digest(saved / name) for name in FILES[:2]}
    assert content["step"] == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 32}, r"model\.embed_tokens\.weight is \(11, 16\) there and \(11, 32\) here"),
        ({"num_layers": 3}, r"model\.layers\.2\S* is absent there"),
        ({"num_layers": 1}, r"model\.layers\.1\S* is \(\d+.*\) there and absent here"),
        ({"tie_embeddings": False}, r"lm_head\.weight is absent there"),
    ],
    ids=str,
)
def test_a_model_of_another_shape_is_refused_and_named(saved, changes, named):
    with pytest.raises(UserError, match=named):
        load_checkpoint(saved, *model_and_optimizer(0, **changes))


def test_a_checkpoint_without_optimizer_loads_into_a_model_and_is_refused_for_an_optimizer(tmp_path):
    model, optimizer = model_and_optimizer()
    save_checkpoint(tmp_path / "weights", model, None, 3)
    assert load_checkpoint(tmp_path / "weights", Llama(ModelConfig(**SHAPE))) == 3
    with pytest.raises(UserError, match="no optimizer state"):
        load_checkpoint(tmp_path / "weights", model, optimizer)


def test_what_is_not_there_or_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    for name in ("nothing", "file"):
        with pytest.raises(UserError, match=name):
            load_checkpoint(tmp_path / name, *model_and_optimizer(0))


def test_saving_where_nothing_can_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="could not be written"):
        save_checkpoint(tmp_path / "file" / "inside", *model_and_optimizer(0), 0)


def test_killed_at_any_moment_of_writing_a_new_checkpoint_it_is_complete_or_absent(tmp_path):
    for moment in range(1, 40):
        folder = tmp_path / str(moment)
        folder.mkdir()
        code = ended(start([], folder, save_and_leave, folder / "saved", moment))
        if (folder / "saved").exists():
            assert load_checkpoint(folder / "saved", *model_and_optimizer(0)) == 1
        if code == 0:
            assert moment > 10
            return
        assert code == -signal.SIGKILL
    pytest.fail("it was never written to the end")


def test_killed_at_any_moment_of_saving_over_a_checkpoint_the_old_or_the_new_one_is_there(tmp_path):
    seen = set()
    for moment in range(1, 60):
        folder = tmp_path / str(moment)
        save_checkpoint(folder / "saved", *model_and_optimizer(0), 0)
        code = ended(start([], folder, save_and_leave, folder / "saved", moment))
        seen.add(((folder / "saved").exists(), load_checkpoint(folder / "saved", *model_and_optimizer(0))))
        save_checkpoint(folder / "saved", *model_and_optimizer(2), 2)
        assert load_checkpoint(folder / "saved", *model_and_optimizer(0)) == 2
        assert not list(folder.glob(".saved*"))
        if code == 0:
            assert seen == {(True, 0), (False, 0), (True, 1)}  # the second is the moment between two names
            return
        assert code == -signal.SIGKILL
    pytest.fail("it was never written to the end")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)], ids=oct)
def test_the_umask_decides_who_may_read_a_checkpoint(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        saved = save_checkpoint(tmp_path / "saved", *model_and_optimizer(1), 1)
    finally:
        os.umask(before)
    assert {name: (saved / name).stat().st_mode & 0o777 for name in FILES} == dict.fromkeys(FILES, mode)


def save_and_leave(path: Path, moment: int) -> None:
    model, optimizer = model_and_optimizer(1)
    kill_at_file_operation(moment, path.parent)
    save_checkpoint(path, model, optimizer, 1)
    sys.exit(0)


def limit_file_size(size: int) -> None:
    """From here on, writing more than `size` bytes to a file fails, as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [12_000, 20_000], ids=["the weights do not fit", "the optimizer state does not fit"])
def test_a_full_disk_is_one_line_and_leaves_older_checkpoints_and_logs_as_they_were(text, tmp_path, size):
    run = tmp_path / "run"
    assert command(*train_words(text, run)) == 0
    before, logged = tree(run), rows(run)
    longer = train_words(text, run, max_steps=20, extend=True)
    assert ended(start(longer, tmp_path, limit_file_size, size)) == 2
    error = (tmp_path / "err").read_text()
    assert error.startswith("llamita: ")
    assert error.count("\n") == 1
    assert "step_00000016: the checkpoint could not be written" in error
    after = tree(run)
    kept = [name for name in before if name.startswith(("step_", "samples", "tokenizer"))]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert rows(run)[: len(logged)] == logged
    assert not list(run.glob(".step_*"))
    assert ended(start(longer, tmp_path)) == 0
    assert [row["step"] for row in training_rows(run)] == list(range(1, 21))


@pytest.mark.parametrize("limit", [100, 600])
def test_a_disk_that_is_full_before_the_run_begins_is_one_line(text, tmp_path, limit):
    assert command(*train_words(text, tmp_path / "warm")) == 0  # the token files are there already
    assert ended(start(train_words(text, tmp_path / "run"), tmp_path, limit_file_size, limit)) == 2
    assert (tmp_path / "err").read_text()[:limit].count("\n") <= 1
    assert not (tmp_path / "run" / "config.toml").exists()


def test_a_disk_that_fills_up_in_the_middle_of_a_log_line_leaves_no_torn_line(text, tmp_path):
    run, words = tmp_path / "run", train_words(text, tmp_path / "run", save_every=100, eval_every=100, max_steps=40)
    assert command(*train_words(text, tmp_path / "warm")) == 0  # the token files are there already
    limit = (tmp_path / "warm" / "config.toml").stat().st_size + 100
    assert ended(start(words, tmp_path, limit_file_size, limit)) == 2
    error = (tmp_path / "err").read_text()
    assert error.count("\n") == 1
    assert "metrics.jsonl: could not be written" in error
    assert 0 < len(rows(run)) < 41
    assert (run / "metrics.jsonl").stat().st_size <= limit


@pytest.fixture
def run(text, tmp_path) -> Path:
    """A finished run."""
    assert command(*train_words(text, tmp_path / "run")) == 0
    return tmp_path / "run"


def test_a_run_means_its_best_checkpoint_and_latest_best_and_step_name_one(run):
    steps = {row["step"]: row["val_loss"] for row in evaluation_rows(run)}
    best = run / f"step_{min(steps, key=lambda step: steps[step]):08d}"
    assert find_checkpoint(run) == find_checkpoint(run / "best") == best
    assert find_checkpoint(run / "latest") == run / "step_00000012"
    assert find_checkpoint(run / "step_00000008") == run / "step_00000008"


@pytest.mark.parametrize(
    ("steps", "newest", "best", "kept"),
    [
        ([2, 4, 6, 8], 8, 8, [6, 8]),
        ([2, 4, 6, 8], 8, 2, [2, 6, 8]),
        ([2, 4, 6, 8], 8, 6, [6, 8]),
        ([8], 8, -1, [8]),
        ([2, 4, 6, 8, 10], 6, 2, [2, 4, 6]),
    ],
    ids=str,
)
@pytest.mark.parametrize("spare_newer", [True, False], ids=["resuming", "saving"])
def test_kept_are_the_newest_the_one_before_and_the_best_and_newer_ones_until_a_good_one_is_saved(
    tmp_path, steps, newest, best, kept, spare_newer
):
    directory = RunDirectory(tmp_path)
    for step in steps:
        directory.checkpoint(step).mkdir()
    directory.prune(newest, best, spare_newer=spare_newer)
    assert directory.steps() == kept + [step for step in steps if step > newest and spare_newer]
    assert not list(tmp_path.glob(".*"))


KEPT = [(0, [2, 4, 6, 8, 10]), (1, [4, 10]), (2, [4, 8, 10]), (9, [2, 4, 6, 8, 10])]


@pytest.mark.parametrize(("keep_last", "kept"), KEPT)
def test_as_many_of_the_newest_are_kept_as_requested_and_the_best(tmp_path, keep_last, kept):
    directory = RunDirectory(tmp_path)
    for step in (2, 4, 6, 8, 10):
        directory.checkpoint(step).mkdir()
    directory.prune(10, 4, keep_last)
    assert directory.steps() == kept


def test_keep_last_0_keeps_every_checkpoint_of_a_run(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run", save_every=3, keep_last=0)) == 0
    assert {3, 6, 9, 12} <= set(RunDirectory(tmp_path / "run").steps())


def hashed(monkeypatch) -> list[str]:
    """The files of checkpoints that are hashed from now on, step by step."""
    seen: list[str] = []
    hash_file = llamita.train.checkpoint._file_digest

    def spy(file: Path) -> str:
        seen.append(f"{file.parent.name}/{file.name}")
        return hash_file(file)

    monkeypatch.setattr(llamita.train.checkpoint, "_file_digest", spy)
    return seen


def test_a_resume_hashes_its_checkpoint_once(text, run, monkeypatch):
    seen = hashed(monkeypatch)
    assert command(*train_words(text, run)) == 0
    assert sorted(seen) == [f"step_00000012/{name}.safetensors" for name in ("model", "optimizer")]


@pytest.mark.parametrize("name", [".", "run/config.toml", "elsewhere"])
def test_what_is_neither_a_run_nor_a_checkpoint_is_said_to_be(run, name):
    (run.parent / "elsewhere").mkdir()
    expected = f"{name}: neither a run nor a checkpoint: name a run, RUN/latest or RUN/step_00000500"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        find_checkpoint(name)


@pytest.mark.parametrize("name", ["latest", "best", "step_00000012"])
def test_loading_a_run_hashes_no_file_twice(run, monkeypatch, name):
    seen = hashed(monkeypatch)
    load_run(run / name)
    assert seen
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("name", ["", "latest", "best", "step_00000012"])
def test_load_run_gives_the_model_as_saved_in_evaluation_mode_its_tokenizer_and_settings(run, name):
    model, tokenizer, config = load_run(run / name)
    saved = load_file(find_checkpoint(run / name) / "model.safetensors")
    assert_equal(parameters(model), saved)
    assert not model.training
    assert tokenizer.decode(tokenizer.encode("the llama")) == "the llama"
    assert config.model == model.config
    assert config.training.max_steps == 12


def test_the_best_is_kept_also_when_it_is_older(text, tmp_path):
    """With a learning rate that makes things worse, the best evaluation is an early one."""
    run = tmp_path / "run"
    worse = {"learning_rate": 3.0, "warmup_steps": 20, "max_steps": 24, "eval_every": 2, "grad_clip": 0}
    assert command(*train_words(text, run, **worse)) == 0
    steps = {row["step"]: row["val_loss"] for row in evaluation_rows(run) if row["step"]}
    best = min(steps, key=lambda step: steps[step])
    assert best < 16
    assert find_checkpoint(run) == run / f"step_{best:08d}"
    assert find_checkpoint(run / "latest") == run / "step_00000024"


def change_mark(run: Path, **values) -> None:
    mark = json.loads((run / "best.json").read_text())
    (run / "best.json").write_text(json.dumps({**mark, **values}))


def test_the_best_is_marked_with_the_digest_of_its_manifest(run):
    losses = {row["val_loss"]: row["step"] for row in evaluation_rows(run) if row["step"]}
    mark = json.loads((run / "best.json").read_text())
    assert (mark["val_loss"], mark["step"]) == (min(losses), losses[min(losses)])
    assert mark["manifest_sha256"] == digest(run / f"step_{mark['step']:08d}" / "manifest.json")


def marked_older(run: Path) -> Path:
    """Let the mark name step 8, which is not the newest -> its checkpoint."""
    change_mark(run, step=8, manifest_sha256=digest(run / "step_00000008" / "manifest.json"))
    return run / "step_00000008"


@pytest.mark.parametrize(
    "mark",
    [{"step": 16}, {"manifest_sha256": "0" * 64}, {"step": "x"}, {"val_loss": None}],
    ids=["beyond the newest", "of a rewritten checkpoint", "no step", "no loss"],
)
def test_a_mark_that_does_not_hold_is_ignored(run, mark):
    older = marked_older(run)
    assert find_checkpoint(run) == older
    change_mark(run, **mark)
    assert find_checkpoint(run) == run / "step_00000012"


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00"])
def test_a_damaged_mark_is_ignored_and_rewritten_when_the_run_resumes(run, text, content):
    mark = (run / "best.json").read_bytes()
    (run / "best.json").write_text(content)
    assert find_checkpoint(run) == run / "step_00000012"
    assert command(*train_words(text, run)) == 0
    assert (run / "best.json").read_bytes() == mark


def test_a_mark_from_beyond_the_resumed_step_gives_way_to_the_best_up_to_there(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run", keep_last=0)) == 0
    run = tmp_path / "run"
    flip(run / "step_00000012" / "model.safetensors")
    assert json.loads((run / "best.json").read_text())["step"] == 12
    shutil.rmtree(run / "step_00000004")  # not the best either
    with open_run(tiny_config(text, output_dir=str(run)), Processes(), Display(quiet=True)) as opened:
        assert (opened.state.step, opened.state.best_step) == (8, 8)
    assert json.loads((run / "best.json").read_text())["step"] == 8


def test_a_tokenizer_swapped_for_another_is_refused(run, capsys):
    CharTokenizer("another alphabet").save(run)
    with pytest.raises(UserError, match=r"tokenizer\.json is not the one"):
        load_run(run)
    for what in ("generate", "eval"):
        assert "tokenizer.json is not the one" in refusal(capsys, what, "--checkpoint", run)


@pytest.mark.parametrize("content", ["model = 3", "[model]\nhidden_sise = 3", "[model", "\x00"])
def test_a_config_damaged_by_hand_is_one_line_that_names_it(run, text, capsys, content):
    (run / "config.toml").write_text(content)
    assert "config.toml" in refusal(capsys, "generate", "--checkpoint", run)
    assert "config.toml" in refusal(capsys, *train_words(text, run))


def test_nothing_is_ever_unpickled():
    """Names that unpickle, or could, occur nowhere: torch.load, pickle and its relatives, allow_pickle."""
    names = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "allow_pickle"}
    for file in Path(llamita.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=found) | ast.ImportFrom(names=found):
                    used = {alias.name.split(".")[0] for alias in found} | {getattr(node, "module", "")}
                case ast.Attribute(value=ast.Name(id="torch" | "np" | "numpy"), attr="load"):
                    used = {"pickle"}
                case ast.keyword(arg=str(name)):
                    used = {name}
                case _:
                    continue
            assert not used & names, f"{file}:{getattr(node, 'lineno', '?')}"
