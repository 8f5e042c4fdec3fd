"""A folder or pattern is scanned for the user's text: not for what llamita, other programs or links put there."""

import json
import os
import sys
from pathlib import Path

import pytest
from runs import TINY, command, flags, refusal, runs_in, train_words, write_text
from runs import cache as cache
from runs import text as text

from llamita.config import DataConfig
from llamita.corpus import TextFiles, open_source, scanning
from llamita.corpus.documents import join_documents
from llamita.corpus.files import find_files
from llamita.errors import UserError


def write(path: Path, content: str = "words") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def found(*names, folder: Path = Path()) -> list[str]:
    return [os.path.relpath(file.path, folder) for file in find_files(names)[0]]


def skipped(*names) -> str:
    return str(find_files(names)[1])


def test_markdown_and_json_lines_of_either_name_are_read_and_files_about_the_folder_are_not(tmp_path):
    for name in (
        "a.md",
        "b.ndjson",
        "c.MD.gz",
        "README.md",
        "readme_de.md",
        "LICENSE.md",
        "License.md.gz",
        "READING.md",
    ):
        write(tmp_path / name)
    assert found(tmp_path, folder=tmp_path) == ["READING.md", "a.md", "b.ndjson", "c.MD.gz"]
    assert skipped(tmp_path) == "4 README or LICENSE files"
    write(tmp_path / "rows" / "b.ndjson", '{"text": "one"}\n{"text": "two"}\n')
    assert list(TextFiles(tmp_path / "rows").documents()) == ["one", "two"]


def test_what_is_named_is_read_whatever_it_is(tmp_path):
    for name in ("README.md", ".hidden.txt", "__pycache__/a.txt", ".git/a.txt", "page.html", "run/config.toml"):
        write(tmp_path / name)
    write(tmp_path / "run" / "metrics.jsonl", '{"text": "log"}\n')
    named = ["README.md", ".hidden.txt", "__pycache__", ".git", "page.html", "run/metrics.jsonl"]
    inside = ["README.md", ".hidden.txt", "__pycache__/a.txt", ".git/a.txt", "page.html", "run/metrics.jsonl"]
    assert found(*(tmp_path / name for name in named), folder=tmp_path) == inside


def test_a_folder_that_holds_the_validation_file_does_not_train_on_it(tmp_path):
    write(tmp_path / "a.txt", "to train on"), write(tmp_path / "deep" / "held_out.txt", "to validate on")
    (tmp_path / "again.txt").symlink_to(tmp_path / "deep" / "held_out.txt")

    def texts(*data, val_data="deep/held_out.txt") -> list[list[str]]:
        names = tuple(str(tmp_path / name) for name in data)
        source = open_source(DataConfig(data=names, val_data=(str(tmp_path / val_data),)), seed=0)
        assert source.validation
        return [list(join_documents(corpus.pieces())) for corpus in (source.training, source.validation)]

    assert texts(".") == texts("*") == [["to train on"], ["to validate on"]]
    assert texts(".", val_data="deep") == [["to train on"], ["to validate on"]]
    assert texts("a.txt", "again.txt")[0] == ["to train on", "to validate on"], "named, so it was meant"
    with pytest.raises(UserError, match="only 1 validation file"):
        texts("deep")


def test_runs_tokens_caches_hidden_files_and_links_are_skipped_and_counted_by_kind(tmp_path):
    kept = write(tmp_path / "deep" / "er" / "a.txt")
    for name in ("runs/one/config.toml", "runs/one/metrics.jsonl", "runs/two/config.toml", "runs/two/tokenizer.json"):
        write(tmp_path / name)
    for name in ("runs/three/config.toml", "runs/three/step_00000500/x.txt", "runs/one/plots/x.txt"):
        write(tmp_path / name)
    for name in (
        "step/manifest.json",
        "step/model.safetensors",
        "step/x.txt",
        "tokens/manifest.json",
        "tokens/train.bin",
    ):
        write(tmp_path / name)
    for name in ("__pycache__/x.txt", "web/node_modules/x/y.md", "env/pyvenv.cfg", "env/lib/x.txt", "c/CACHEDIR.TAG"):
        write(tmp_path / name)
    for name in (".venv/x.txt", ".git/x.txt", ".x.txt", "a.html", "b.html", "Makefile", "x.py"):
        write(tmp_path / name)
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    assert found(tmp_path) == [os.path.relpath(kept)]
    counted = "4 caches, 3 run directories, 3 hidden, 1 checkpoint, 1 folder of prepared tokens, 1 link to a folder"
    files = "2 .html files, 1 .py file and 1 other file"
    assert sorted(skipped(tmp_path).replace(" and ", ", ").split(", ")) == sorted(
        f"{counted}, {files}".replace(" and ", ", ").split(", ")
    )
    (note,) = TextFiles(tmp_path).notes()
    assert note == f"note: files read: 1; skipped: {skipped(tmp_path)} (name a file to read it)"
    assert "\n" not in note


def test_a_run_directory_that_is_scanned_itself_is_read_without_its_logs(tmp_path):
    for name in ("config.toml", "metrics.jsonl", "samples.jsonl", "a.txt", "step_00000500/manifest.json"):
        write(tmp_path / name)
    write(tmp_path / "step_00000500" / "model.safetensors")
    assert found(tmp_path, folder=tmp_path) == ["a.txt"]


def test_a_folder_with_a_configuration_of_another_program_is_no_run(tmp_path):
    write(tmp_path / "site" / "config.toml")
    write(tmp_path / "site" / "a.txt")
    assert found(tmp_path, folder=tmp_path) == ["site/a.txt"]


def test_a_file_that_the_command_itself_writes_is_skipped(tmp_path, monkeypatch):
    write(tmp_path / "a.txt")
    log = write(tmp_path / "log.txt")
    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", lambda descriptor: log.stat() if descriptor == 1 else fstat(descriptor))
    assert found(tmp_path, folder=tmp_path) == ["a.txt"]
    assert skipped(tmp_path) == "1 output of this command"
    assert found(log, folder=tmp_path) == ["log.txt"]


def test_links_in_circles_are_not_followed_by_folders_or_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("s/one/a.txt"))
    for name in ("s/one/up", "s/one/up2", "s/again"):
        Path(name).symlink_to("..")
    looked_into = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked_into.append(path) or scandir(path))
    for name in ("s", "s/**", "s/**/*.txt", "**/*.txt", "**/one/**/*.txt"):
        assert found(name) == ["s/one/a.txt"], name
    assert len(looked_into) < 40
    assert skipped("s") == "3 links to folders"


def test_a_link_to_a_file_is_read_once_with_the_file(tmp_path):
    write(tmp_path / "a.txt")
    (tmp_path / "b.txt").symlink_to("a.txt")
    (tmp_path / "c.txt").symlink_to("nowhere")
    assert found(tmp_path, folder=tmp_path) == ["a.txt"]


def test_a_deep_tree_is_no_recursion(tmp_path):
    folder = tmp_path
    for _ in range(300):
        folder = folder / "d"
    write(folder / "a.txt")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(250)
    try:
        assert len(scanning.scan_folder(tmp_path, scanning.Skipped(), lambda name: True)) == 1
    finally:
        sys.setrecursionlimit(limit)


def test_a_folder_below_that_may_not_be_opened_is_counted(tmp_path, monkeypatch):
    write(tmp_path / "a.txt")
    write(tmp_path / "secret" / "b.txt")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert found(tmp_path, folder=tmp_path) == ["a.txt"]
    assert skipped(tmp_path) == "1 unreadable folder"
    with pytest.raises(UserError, match=r"secret: cannot be read \(Permission denied\)"):
        find_files([tmp_path / "secret"])


def test_a_pattern_passes_over_runs_and_folders_without_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/x/config.toml", "runs/x/metrics.jsonl", "pictures/a.png", "texts/a.txt", "b.jsonl"):
        write(Path(name))
    assert found("*") == ["b.jsonl", "texts/a.txt"]
    assert found("*/**/*.txt") == ["texts/a.txt"]
    assert found("**/*.jsonl") == ["b.jsonl"]
    assert found("runs/x/*.jsonl") == ["runs/x/metrics.jsonl"]  # named but for its ending
    with pytest.raises(UserError, match=r"no file matches this pattern; check it; skipped: 1 run directory"):
        find_files(["runs/*/*.jsonl"])


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000 + "b", "a\0b"])
def test_a_name_that_no_file_can_have_is_refused_in_one_line(name):
    with pytest.raises(UserError) as caught:
        find_files([name])
    assert "\n" not in str(caught.value)


def test_a_run_inside_its_own_data_is_resumed_and_evaluated(text, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_text(folder / "text.txt")
    write(folder / "page.html")
    words = ["train", "--data", ".", *flags(**{**TINY, "sample_every": 6})]
    for _ in range(2):
        assert command(*words) == 0
    assert "note: files read: 1; skipped: 1 .html file" in capsys.readouterr().out
    (run,) = runs_in(Path("runs"))
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 12
    assert command("eval", "--checkpoint", run) == 0
    assert command(*words, "--weight_decay", 0.2) == 0  # another run, beside the first


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems take no name that is not UTF-8")
def test_a_file_whose_name_is_not_utf8_is_read_from_a_folder_and_refused_by_name(text, tmp_path, capsys):
    folder = tmp_path / "texts"
    folder.mkdir()
    odd = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")
    os.rename(text, odd)
    assert TextFiles(folder).describe() == r"caf\xe9.txt (4.1 KB)"
    assert command(*train_words(folder, tmp_path / "run")) == 0
    out = capsys.readouterr().out
    assert r"caf\xe9.txt" in out
    out.encode("utf-8")
    assert command("eval", "--checkpoint", tmp_path / "run") == 0
    assert "is not UTF-8: rename it, or name its folder" in refusal(capsys, *train_words(Path(odd), tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    Path(odd).write_bytes(b"\xff")
    assert r"caf\xe9.txt: not UTF-8 text" in refusal(capsys, "prepare", "--data", folder)
    for name in ("output_dir", "name", "cache_dir", "tokenizer", "val_data"):
        assert "is not UTF-8" in refusal(capsys, "train", "--data", text, f"--{name}", "x\udce9")
