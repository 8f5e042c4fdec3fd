"""Text in other encodings is read as what it is, or refused in one line that names every file."""

import codecs
import gzip
import json
from pathlib import Path

import pytest
from runs import cache as cache
from runs import command, refusal, train_words
from runs import text as text

from llamita.config import DataConfig
from llamita.corpus import TextFiles
from llamita.errors import UserError

TEXT = "Grüße, naïve Lamas – 50 €\r\nzweite Zeile\n"
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def documents(*names, **options) -> list[str]:
    return list(TextFiles(names, **options).documents())


@pytest.mark.parametrize("size", [1, 3, 7, 1 << 20])
@pytest.mark.parametrize("name", MARKED)
def test_a_byte_order_mark_tells_the_encoding(tmp_path, name, size):
    content = MARKED[name] + TEXT.encode(name)
    plain, packed = write(tmp_path / "a.txt", content), write(tmp_path / "a.txt.gz", gzip.compress(content))
    rows = MARKED[name] + "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in (TEXT, "b")).encode(name)
    assert documents(plain, packed, read_size=size) == [TEXT, TEXT]
    assert documents(plain, encoding="latin-1", read_size=size) == [TEXT]
    assert documents(write(tmp_path / "a.jsonl", rows), read_size=size) == [TEXT, "b"]


@pytest.mark.parametrize("size", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    "name", ["cp1252", "Windows_1252", "utf-16-le", "utf-16", "utf-32", "utf-8-sig", "gb18030", "utf-7"]
)
def test_an_encoding_is_named_for_files_without_a_mark(tmp_path, name, size):
    actual = {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}.get(name, name)
    path = write(tmp_path / "a.txt", TEXT.encode(actual))
    rows = write(tmp_path / "a.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in (TEXT, "b")).encode(actual))
    assert documents(path, rows, encoding=name, read_size=size) == [TEXT, TEXT, "b"]


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A folder with two good files and four that are not UTF-8."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    write(folder / "a.txt", "gut ü\n".encode())
    write(folder / "b.txt", "nicht ü\n".encode("latin-1"))
    write(folder / "c.txt", b"zero\0byte")
    write(folder / "d.jsonl", b'{"text": "good"}\n{"text": "\xff"}\n')
    write(folder / "e.txt", "ü".encode("utf-16-le"))
    write(folder / "f.txt", b"good")
    return folder


def test_all_files_that_are_not_text_are_named_in_one_line(mixed):
    with pytest.raises(UserError) as caught:
        documents(mixed)
    message = str(caught.value)
    assert message.startswith(f"{mixed / 'b.txt'}: not UTF-8 text: byte 0xfc at byte 6, and neither are ")
    assert all(str(mixed / name) in message for name in ("c.txt", "d.jsonl", "e.txt"))
    assert not any(str(mixed / name) in message for name in ("a.txt", "f.txt"))
    assert "--encoding" in message
    assert "--errors skip" in message
    assert "\n" not in message


def test_of_many_files_that_are_not_text_ten_are_named(tmp_path):
    for number in range(50):
        write(tmp_path / f"{number:02}.txt", b"\xff")
    with pytest.raises(UserError, match="and 39 more") as caught:
        documents(tmp_path)
    assert str(caught.value).count(".txt") == 11


def test_files_that_are_not_text_can_be_skipped_and_are_then_named(mixed):
    corpus = TextFiles(mixed, errors="skip")
    assert list(corpus.documents()) == list(corpus.documents()) == ["gut ü\n", "good"]
    (note,) = corpus.notes()
    assert note.startswith("note: not UTF-8 text, and skipped: ")
    assert not any(name in corpus.describe() for name in note.rpartition(": ")[2].split(", "))
    assert all(name in note for name in ("b.txt", "c.txt", "d.jsonl", "e.txt"))
    with pytest.raises(UserError, match=r"no file is UTF-8 text: .*b\.txt; give their --encoding"):
        documents(mixed / "b.txt", errors="skip")


def test_bytes_that_are_not_text_can_be_replaced(mixed):
    replaced = documents(mixed, errors="replace")
    assert replaced == ["gut ü\n", "nicht \ufffd\n", "zero\ufffdbyte", "good", "\ufffd", "\ufffd\ufffd", "good"]


def test_the_fingerprint_depends_on_the_encoding_and_on_what_becomes_of_errors(tmp_path):
    path = write(tmp_path / "a.txt", "ü".encode())
    options = [{}, {"encoding": "latin-1"}, {"encoding": "cp1252"}, {"errors": "skip"}, {"errors": "replace"}]
    assert len({TextFiles(path, **option).fingerprint() for option in options}) == len(options)
    assert TextFiles(path, encoding="UTF8").fingerprint() == TextFiles(path).fingerprint()
    assert TextFiles(path, encoding="l1").fingerprint() == TextFiles(path, encoding="latin-1").fingerprint()


@pytest.mark.parametrize("name", ["", "utf-99", "hex", "rot13", "base64", "a\0b", "ü\udce9"])
def test_an_unknown_encoding_is_refused_in_one_line(name):
    with pytest.raises(UserError, match=r"encoding is .* is not a known encoding: try utf-8") as caught:
        DataConfig(encoding=name)
    assert "\n" not in str(caught.value)


def test_the_commands_take_an_encoding(text, tmp_path, capsys):
    old = write(tmp_path / "old.txt", (text.read_text() + "ü").encode("latin-1"))
    assert f"{old}: not UTF-8 text: byte 0xfc" in refusal(capsys, *train_words(old, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert command(*train_words(old, tmp_path / "run", encoding="latin-1")) == 0
    assert command("eval", "--checkpoint", tmp_path / "run") == 0
    assert (
        command("prepare", "--data", text, old, "--errors", "skip", "--vocab_size", 300, "--output_dir", "tokens") == 0
    )
    assert f"note: not UTF-8 text, and skipped: {old}" in capsys.readouterr().err
    words = ["tokenizer", "train", "--data", old, "--output_dir", "tok", "--vocab_size", 300]
    assert "--encoding" in refusal(capsys, *words)
    assert command(*words, "--encoding", "latin-1") == 0
    assert "--encoding comes too late" in refusal(capsys, "train", "--data", "tokens", "--encoding", "latin-1")
