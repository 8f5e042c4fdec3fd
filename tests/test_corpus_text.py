"""Text files become documents: as a naive split of the whole text would cut them, and in little memory."""

import errno
import hashlib
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamita.corpus import DocumentList, TextFiles, join_documents, split_documents
from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT


def naive_documents(text: str) -> list[str]:
    documents = [""]
    for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", text):
        if line.rstrip("\r\n") == END_OF_TEXT:
            documents.append("")
        else:
            documents[-1] += line
    return [document for document in documents if document.strip()]


def chunks_of(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


FRAGMENTS = [END_OF_TEXT, "<|endof", "text|>", "<|", "<", "\n", "\r\n", "\r", " ", "once", "é🦙", "<<|endoftext|>"]
FRAGMENTS += [f"\n{END_OF_TEXT}\n", f"{END_OF_TEXT}\r\n"]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), st.integers(1, 40))
def test_documents_are_those_of_a_naive_split_wherever_the_reads_fall(text, size):
    assert list(join_documents(split_documents(chunks_of(text, size)))) == naive_documents(text)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), st.integers(1, 40))
def test_pieces_are_never_empty_and_the_last_document_is_ended(text, size):
    pieces = list(split_documents(chunks_of(text, size)))
    assert "" not in pieces
    assert pieces == [] or pieces[-1] is None


@pytest.mark.parametrize(
    "text",
    [f"a {END_OF_TEXT} b", f"a{END_OF_TEXT}\nb", f"a\n {END_OF_TEXT}\nb", f"a\n{END_OF_TEXT}b\n",
     f"a\n{END_OF_TEXT} \nb", f"{END_OF_TEXT}{END_OF_TEXT}", f"<{END_OF_TEXT}", f'"{END_OF_TEXT}"'],
)  # fmt: skip
def test_a_marker_that_is_not_a_line_of_its_own_is_ordinary_text(text):
    assert list(join_documents(split_documents([text]))) == [text]
    assert list(join_documents(split_documents(text))) == [text]


def test_a_marker_within_a_line_is_said_to_be_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(f"one{END_OF_TEXT}two\n{END_OF_TEXT}\nthree")
    corpus = TextFiles(path)
    assert list(corpus.documents()) == [f"one{END_OF_TEXT}two\n", "three"]
    assert corpus.notes() == [
        f"note: {END_OF_TEXT} within a line is ordinary text; only a line of its own ends a document"
    ]
    path.write_text(f"one\n{END_OF_TEXT}\nthree")
    corpus = TextFiles(path)
    assert list(corpus.documents()) == ["one\n", "three"]
    assert corpus.notes() == []


@pytest.mark.parametrize("read_size", [1, 2, 3, 5, 7, 13, 14, 15, 64, 1 << 20])
def test_a_file_read_in_any_size_gives_the_same_documents(tmp_path, read_size):
    end = END_OF_TEXT
    text = f"ein Übel 🦙\r\n{end}\r\n\n{end}\n two\n{end}\n{end}\nthree\r{end}\r four"
    path = tmp_path / "tale.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    documents = list(TextFiles(path, read_size=read_size).documents())
    assert documents == ["ein Übel 🦙\r\n", " two\n", "three\r", " four"] == naive_documents(text)


def test_each_file_ends_its_document(tmp_path):
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    paths[0].write_text("one\n<|endof")
    paths[1].write_text("text|>\n two\n")
    assert list(TextFiles(paths).documents()) == ["one\n<|endof", "text|>\n two\n"]
    assert list(TextFiles(str(paths[0])).pieces()) == ["one\n", "<|endof", None]


def test_the_same_bytes_have_the_same_fingerprint_and_others_another(tmp_path):
    paths = [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]
    for path, text in zip(paths, ("one", "one", "on"), strict=True):
        path.write_text(text)
    a, b, c = (TextFiles(path).fingerprint() for path in paths)
    assert a == b != c
    assert a == hashlib.sha256(hashlib.sha256(b"one").digest()).hexdigest()
    assert TextFiles(paths[:2]).fingerprint() != a


def test_the_description_names_the_files_and_the_size(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("x" * 50_000)
    assert TextFiles(tmp_path / "0.txt").describe() == "0.txt (50.0 KB)"
    assert TextFiles(sorted(tmp_path.iterdir())).describe() == "0.txt, 1.txt, 2.txt and 2 more (0.2 MB)"


def test_a_huge_line_is_read_in_little_memory(tmp_path):
    path = tmp_path / "line.txt"
    with path.open("wb") as file:
        for _ in range(30):
            file.write("naïve llama ".encode() * 80_000)  # 30 times about 1 MB
    corpus = TextFiles(path)
    tracemalloc.start()
    length = sum(len(piece or "") for piece in corpus.pieces())
    corpus.fingerprint()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert length == 30 * 80_000 * 12
    assert peak < 20e6


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty"),
        (b" \n\t", "no text"),
        (f"\n{END_OF_TEXT}\n \n{END_OF_TEXT}".encode(), "no text"),
        (b"\xef\xbb\xbf", "no text"),
        (b"0123456789abc\0def", "NUL byte at byte 13"),
        (b"0123456789abc\xffdef", "byte 0xff at byte 13"),
        (b"0123456789abcd" + "é".encode("latin-1") + b"tude", "byte 0xe9 at byte 14"),
        (b"0123456789abcd" + "🦙".encode()[:3], "byte 0xf0 at byte 14"),
        ("text".encode("utf-16-le"), "NUL byte at byte 1"),
    ],
)
@pytest.mark.parametrize("read_size", [1, 4, 14, 1 << 20])
def test_a_file_that_is_not_text_is_refused_in_one_line_that_names_it(tmp_path, content, complaint, read_size):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(TextFiles(path, read_size=read_size).pieces())
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert complaint in message
    assert "\n" not in message


def test_a_path_that_is_not_a_file_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    with pytest.raises(UserError, match=r"missing\.txt: no such file"):
        TextFiles([tmp_path / "good.txt", tmp_path / "missing.txt"])
    with pytest.raises(UserError, match="not a regular file"):
        TextFiles("/dev/null")
    with pytest.raises(UserError, match="no text file was given"):
        TextFiles([])


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "secret.txt"
    path.write_text("secret")

    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(UserError, match=r"secret\.txt: cannot be read \(Permission denied\)"):
        TextFiles(path)


def test_a_list_of_documents_is_a_corpus():
    corpus = DocumentList(["one", " ", f"two\n{END_OF_TEXT}\nthree", END_OF_TEXT], "stories")
    assert list(corpus.pieces()) == ["one", None, f"two\n{END_OF_TEXT}\nthree", None, END_OF_TEXT, None]
    assert list(corpus.documents()) == ["one", f"two\n{END_OF_TEXT}\nthree", END_OF_TEXT]
    assert corpus.describe() == "stories (4 documents)"
    assert DocumentList(["ab", "c"], "x").fingerprint() == DocumentList(["ab", "c"], "y").fingerprint()
    assert DocumentList(["ab", "c"], "x").fingerprint() != DocumentList(["a", "bc"], "x").fingerprint()
