"""Folders, patterns, JSON lines and gzip: the same documents, however they are packed and named."""

import gzip
import json
import os
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import nasty_strings

from llamita.corpus import TextFiles, short_name
from llamita.corpus.files import find_files
from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT
from llamita.tokenizer.streaming import repair

DOCUMENTS = ["one llama", "\n\ntwo\r\nlines ", "ünï 🦙\u2028three", "four"]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def json_lines(texts: list[str], field: str = "text") -> bytes:
    return b"".join(json.dumps({"id": i, field: text}).encode() + b"\n" for i, text in enumerate(texts))


def documents(*names, **options) -> list[str]:
    return list(TextFiles(names, **options).documents())


def refused(match: str, *names, **options) -> None:
    with pytest.raises(UserError, match=match) as caught:
        documents(*names, **options)
    assert "\n" not in str(caught.value)


# --- which files ---


def test_a_folder_is_read_recursively_in_order_and_nothing_else_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    requested = ["a.txt", "b/1.jsonl", "b/2.txt.gz", "b/c/3.TXT", "d.jsonl.gz"]
    for name in [
        *requested,
        "page.html",
        "picture.png",
        ".hidden.txt",
        ".git/x.txt",
        "b/.cache/y.txt",
        "manifest.json",
    ]:
        write(tmp_path / "folder" / name, "x")
    (tmp_path / "folder" / "empty").mkdir()
    found, _ = find_files(["folder"])
    assert [file.path for file in found] == [Path("folder") / name for name in requested]
    assert not any(file.named for file in found)
    assert [(file.suffix, file.compressed) for file in found[1:3]] == [(".jsonl", False), (".txt", True)]


def test_patterns_are_sorted_and_files_named_twice_are_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "c/d/e.txt", "c/f.log", "g[1].txt"):
        write(tmp_path / name, name)
    assert documents("*.txt") == ["a.txt", "b.txt", "g[1].txt"]
    assert documents("b.txt", "*.txt", "./a.txt", tmp_path / "a.txt") == ["b.txt", "a.txt", "g[1].txt"]
    assert documents("**/*.txt") == ["a.txt", "b.txt", "c/d/e.txt", "g[1].txt"]
    assert documents("?") == ["c/d/e.txt"]  # a folder that a pattern matches is a folder
    assert documents("g[1].txt") == ["g[1].txt"]  # what exists is no pattern
    assert documents("c/*.log") == ["c/f.log"]


def test_an_empty_file_is_refused_if_named_and_ignored_if_found_in_a_folder(tmp_path):
    write(tmp_path / "folder" / "a.txt", "")
    write(tmp_path / "folder" / "b.txt", " \n")
    write(tmp_path / "folder" / "c.txt", "words")
    assert documents(tmp_path / "folder") == documents(tmp_path / "folder" / "*.txt") == ["words"]
    refused("a.txt: the file is empty", tmp_path / "folder" / "a.txt")
    refused("b.txt: the file holds no text", tmp_path / "folder" / "b.txt")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("missing.txt", "missing.txt: no such file"),
        ("missing/", "missing: no such file"),
        ("*.jsonl", "no file matches this pattern"),
        ("nothing", "nothing: no text in this folder, it is empty; it needs files .txt, .md, .jsonl, .ndjson"),
        ("others", "others: no text in this folder, only 1 .png file; it needs files .txt, .md"),
        ("prepared", "prepared: holds prepared tokens, which can't be mixed with text"),
        ("rows.csv", r"rows.csv: .csv files are not read, only text and JSON lines; convert it to JSON lines"),
        ("rows.csv.gz", r"rows.csv.gz: .csv files are not read"),
        ("list.JSON", ".json files are not read"),
        ("text.zip", ".zip files are not read.*; unpack it"),
        ("text.tar.gz", ".tar files are not read.*; unpack it"),
        ("page.pdf", ".pdf files are not read.*; save its text as .txt"),
        ("/dev/null", "not a regular file"),
        ("", "an empty name stands for no text"),
        ("prepared/train.bin", "train.bin: .bin files are not read.*; name the folder of prepared tokens"),
    ],
)
def test_a_name_without_text_is_refused_in_one_line(tmp_path, monkeypatch, name, match):
    monkeypatch.chdir(tmp_path)
    for file in ("others/x.png", "prepared/train.bin", "rows.csv", "rows.csv.gz", "list.JSON", "text.zip"):
        write(tmp_path / file, "x")
    for file in ("text.tar.gz", "page.pdf", "good.txt"):
        write(tmp_path / file, "x")
    (tmp_path / "nothing").mkdir()
    refused(match, "good.txt", name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_in_a_folder_is_refused_in_one_line(tmp_path):
    write(tmp_path / "secret.txt", "x").chmod(0)
    refused("secret.txt: cannot be read", tmp_path)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("data/tale.txt", "tale"),
        ("tale.txt.gz", "tale"),
        ("folder/", "folder"),
        ("a/b/*.txt", "b"),
        ("*", "text"),
        (".", "text"),
        ("stories", "stories"),
        ("rows.v2.jsonl.gz", "rows.v2"),
    ],
)
def test_a_run_is_named_after_its_data(name, short):
    assert short_name(name) == short


# --- what a document is ---


def test_json_lines_have_one_document_per_line(tmp_path):
    path = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + json_lines(DOCUMENTS) + b" \r\n" + json_lines(["", " \n"]))
    assert documents(path) == DOCUMENTS
    other = write(tmp_path / "b.jsonl", json_lines(DOCUMENTS, "story"))
    assert documents(other, text_field="story") == DOCUMENTS
    quoting = [f"one{END_OF_TEXT}\ntwo", f"one\n{END_OF_TEXT}\ntwo", END_OF_TEXT]
    assert documents(write(tmp_path / "c.jsonl", json_lines(quoting)[:-1])) == quoting


@given(st.lists(st.sampled_from([*DOCUMENTS, "\n", END_OF_TEXT, "<|endof", "text|>", "\\", '"']).map("".join)))
def test_json_lines_hold_what_a_list_of_documents_holds(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("x") / "a.jsonl"
    path.write_bytes(json_lines([*texts, "the end"]))
    assert documents(path) == [text for text in [*texts, "the end"] if text.strip()]


def test_json_lines_may_hold_any_string(tmp_path):
    texts = [text for text in nasty_strings(300, seed=51) if repair(text).strip()]
    found = documents(write(tmp_path / "a.jsonl", json_lines(texts)))
    assert list(map(repair, found)) == list(map(repair, texts))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_documents_can_be_lines_or_files(tmp_path, size):
    one = write(tmp_path / "one.txt", f"a b\r\n\r\n \nc\n{END_OF_TEXT}\nd\re\n")
    two = write(tmp_path / "two.jsonl", json_lines(["f\ng", "h"]))
    options = {"read_size": size}
    assert documents(one, two, **options) == ["a b\r\n\r\n \nc\n", "d\re\n", "f\ng", "h"]
    assert documents(one, two, documents="line", **options) == ["a b", "c", "d", "e", "f\ng", "h"]
    assert documents(one, two, documents="file", **options) == ["a b\r\n\r\n \nc\n\nd\re\n", "f\ng\nh"]


@pytest.mark.parametrize("count", range(1, 9))
def test_max_documents_limits_the_documents_that_are_read(tmp_path, count):
    paths = [write(tmp_path / "a.jsonl", json_lines(DOCUMENTS)), write(tmp_path / "b.txt", f"five\n{END_OF_TEXT}\nsix")]
    assert documents(*paths, max_documents=count) == [*DOCUMENTS, "five\n", "six"][:count]
    assert "the first" in TextFiles(paths, max_documents=count).describe()


# --- gzip ---


def test_gzip_files_are_read_as_their_content(tmp_path):
    text, rows = END_OF_TEXT.join(["x" * 1000, "é🦙" * 1000, "z"]), json_lines(DOCUMENTS)
    paths = [write(tmp_path / "a.txt", text), write(tmp_path / "b.jsonl", rows)]
    packed = [write(tmp_path / f"{path.name}.gz", gzip.compress(path.read_bytes())) for path in paths]
    half = len(text) // 3
    members = gzip.compress(text[:half].encode()) + gzip.compress(text[half:].encode())
    packed[0].write_bytes(members)  # as `cat a.gz b.gz` makes it
    for size in (1, 3, 1000, 1 << 20):
        assert documents(*packed, read_size=size) == documents(*paths)
    assert documents(write(tmp_path / "bom.gz", gzip.compress(b"\xef\xbb\xbfwords"))) == ["words"]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz"])
def test_broken_gzip_is_refused_in_one_line(tmp_path, name):
    noise = random.Random(52).randbytes(60_000).hex()
    whole = gzip.compress(json_lines([noise] * 3))
    content = {
        "cut": whole[:-2000],
        "none": b"just text\n",
        "flipped": whole[:30_000] + bytes(64) + whole[30_064:],
        "no end": whole[:-8],
        "tail": whole + b"tail",
    }
    for damage in content.values():
        refused(f"{name}: broken gzip file .*; fetch or compress it again", write(tmp_path / name, damage))


# --- mistakes in the lines ---


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (b"{", "line 3: not JSON .*; each line must be an object"),
        (b"words", "line 3: not JSON"),
        (b'{"text": "x"} {"text": "y"}', r"line 3: not JSON \(Extra data: character 15\)"),
        (b'["text"]', "line 3: of type list, not an object"),
        (b'"text"', "line 3: of type str, not an object"),
        (b"null", "line 3: of type NoneType, not an object"),
        (b'{"story": "x", "id": 1}', "line 3: no field 'text', only 'story', 'id'; name the text's with --text_field"),
        (b"{}", "line 3: no field 'text', only none"),
        (b'{"text": 7}', "line 3: the field 'text' is of type int, not text"),
        (b'{"text": null}', "line 3: the field 'text' is of type NoneType, not text"),
        (b'{"text": "\xff"}', "line 3: not UTF-8 text: byte 0xff"),
        (b"[" * 100_000, "line 3: not JSON"),
        (b'{"text": "x', "line 3: not JSON"),
    ],
)
def test_an_invalid_line_is_named_with_its_file_and_number(tmp_path, line, match):
    path = write(tmp_path / "a.jsonl", b'{"text": "good"}\n\n' + line + b"\n")
    refused(f"a.jsonl, {match}", path)
    refused(f"a.jsonl.gz, {match}", write(tmp_path / "a.jsonl.gz", gzip.compress(path.read_bytes())))


def test_a_file_without_a_newline_is_not_read_completely(tmp_path, monkeypatch):
    monkeypatch.setattr("llamita.corpus.reading.LONGEST_LINE", 1000)
    refused("line 1: not JSON", write(tmp_path / "a.jsonl", json_lines(["x" * 2000])))


# --- what they are called ---


def test_the_fingerprint_depends_on_what_is_read_and_how(tmp_path):
    rows = json_lines(DOCUMENTS)
    jsonl, text = write(tmp_path / "a.jsonl", rows), write(tmp_path / "a.txt", rows)
    prints = [
        TextFiles(text), TextFiles(jsonl), TextFiles([text, jsonl]), TextFiles([jsonl, text]),
        TextFiles(text, documents="line"), TextFiles(text, documents="file"), TextFiles(text, max_documents=1),
        TextFiles(text, max_documents=2), TextFiles(jsonl, text_field="id"), TextFiles(jsonl, documents="file"),
    ]  # fmt: skip
    assert len({corpus.fingerprint() for corpus in prints}) == len(prints)
    copy = write(tmp_path / "elsewhere" / "b.jsonl", rows)
    assert TextFiles(copy).fingerprint() == TextFiles(jsonl).fingerprint() == TextFiles(copy.parent).fingerprint()


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.jsonl"])
def test_large_files_are_read_in_little_memory(tmp_path, name):
    rows = json_lines(["little llama " * 80] * 30_000)  # 31 MB
    write(tmp_path / name, gzip.compress(rows, 1) if name.endswith(".gz") else rows)
    del rows
    corpus = TextFiles(tmp_path / name)
    tracemalloc.start()
    length = sum(len(piece or "") for piece in corpus.pieces())
    corpus.fingerprint()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert length >= 30_000 * 1040
    assert peak < 12e6


@pytest.mark.parametrize("pattern", ["s/**", "s/**/*.txt", "s/*/*.txt"])
def test_a_pattern_over_circular_links_finds_each_file_once(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    write(Path("s/one/a.txt"), "words")
    Path("s/one/loop").symlink_to("..")
    Path("s/one/dead.txt").symlink_to("nowhere")
    assert [file.path.resolve().name for file in find_files([pattern])[0]] == ["a.txt"]


def test_a_pattern_that_only_a_dead_link_matches_is_refused(tmp_path):
    (tmp_path / "dead.txt").symlink_to("nowhere")
    refused("no file matches this pattern", tmp_path / "*.txt")
