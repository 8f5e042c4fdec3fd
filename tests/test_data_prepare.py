"""Token files hold what a naive encoding holds, are complete or absent, and are found again."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest

from llamita.config import RunConfig, replace
from llamita.corpus import DocumentList, Source, TextFiles, join_documents, opening
from llamita.data import TokenFile, prepare, prepare_data
from llamita.data.learning import training_part
from llamita.data.splitting import Counter
from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, train_bpe


class Utf8:
    """A tokenizer of which everything is known: the id of a byte is the byte."""

    byte_lengths = np.array([1] * 256 + [0])

    def __init__(self, vocab_size: int = 257, end_id: int | None = 256, fingerprint: str = "utf8"):
        self.vocab_size = vocab_size
        self.end_id = end_id
        self.fingerprint = fingerprint

    def encode_iterable(self, strings: Iterable[str]) -> Iterator[int]:
        return chain.from_iterable(string.encode() for string in strings)

    def encode_blocks(self, strings: Iterable[str]) -> Iterator[np.ndarray]:
        ids = self.encode_iterable(strings)
        while (block := np.fromiter(islice(ids, 1 << 16), np.uint32)).size:
            yield block

    def encode_document(self, strings: Iterable[str]) -> Iterator[np.ndarray]:
        return self.encode_blocks(strings)

    def save(self, path: Path) -> Path:
        (path / "tokenizer.json").write_text(self.fingerprint)
        return path / "tokenizer.json"


class Lengths(Utf8):
    """A tokenizer that costs no time: one id for every piece."""

    def encode_iterable(self, strings: Iterable[str]) -> Iterator[int]:
        return (len(string) % 256 for string in strings)


def naive_ids(documents: list[str], end: list[int]) -> list[int]:
    return [token for document in documents for token in (*document.encode(), *end)]


DOCUMENTS = [f"Llama {number} sagt: äh 🦙\n" * (number % 4 + 1) for number in range(23)]


@pytest.mark.parametrize("tokenizer", [Utf8(), Utf8(end_id=None), Utf8(vocab_size=65_537)])
def test_the_token_files_equal_a_naive_encoding_with_its_counts(tmp_path, tokenizer):
    text = tmp_path / "text.txt"
    text.write_text(f"{END_OF_TEXT}\n".join(DOCUMENTS), newline="")
    prepared = prepare(TextFiles(text, read_size=100), tokenizer, tmp_path / "cache")
    end = [] if tokenizer.end_id is None else [tokenizer.end_id]
    for file, documents in ((prepared.train, DOCUMENTS[:21]), (prepared.validation, DOCUMENTS[21:])):
        expected = naive_ids(documents, end)
        assert file.ids.tolist() == expected
        assert file.ids.dtype == (np.uint16 if tokenizer.vocab_size <= 65_536 else np.uint32)
        assert isinstance(file.ids, np.memmap)
        assert (len(file), file.part.tokens, file.part.documents) == (len(expected), len(expected), len(documents))
        assert file.part.bytes == len("".join(documents).encode())
        assert file.part.largest_id == max(expected)
        assert file.part.size == file.path.stat().st_size
        cut = zip(file.document_starts, file.document_ends, strict=True)
        assert [file.ids[start:stop].tolist() for start, stop in cut] == [naive_ids([text], end) for text in documents]
        file.verify()


def trained_bpe() -> BPETokenizer:
    return BPETokenizer(*train_bpe(DOCUMENTS, vocab_size=300, special_tokens=[END_OF_TEXT]), [END_OF_TEXT])


@pytest.mark.parametrize("tokenizer", [CharTokenizer("".join(DOCUMENTS)), trained_bpe()], ids=["characters", "bpe"])
@pytest.mark.parametrize("read_size", [1, 13, 1 << 20])
def test_the_real_tokenizers_give_the_ids_of_the_whole_text(tmp_path, tokenizer, read_size):
    text = tmp_path / "text.txt"
    text.write_text(f"{END_OF_TEXT}\n".join(DOCUMENTS), newline="")
    prepared = prepare(TextFiles(text, read_size=read_size), tokenizer, tmp_path / "cache")
    for file, documents in ((prepared.train, DOCUMENTS[:21]), (prepared.validation, DOCUMENTS[21:])):
        np.testing.assert_array_equal(
            file.ids, tokenizer.encode_array("".join(text + END_OF_TEXT for text in documents))
        )
        assert file.part.bytes == len("".join(documents).encode())


def test_the_manifest_names_text_and_tokenizer(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(f"{END_OF_TEXT}\n".join(DOCUMENTS))
    corpus = TextFiles(text)
    manifest = json.loads((prepare(corpus, Utf8(), tmp_path / "cache").folder / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["source"] == corpus.describe()
    assert manifest["source_fingerprint"] == corpus.fingerprint()
    assert (manifest["tokenizer_fingerprint"], manifest["vocab_size"], manifest["end_id"]) == ("utf8", 257, 256)
    assert set(manifest["parts"]) == {"train", "val"}


@pytest.mark.parametrize(
    ("count", "share", "kept"), [(2, 0.1, 1), (5, 0.1, 4), (20, 0.1, 18), (30, 0.1, 27), (3, 0.9, 1), (10, 0.5, 5)]
)
def test_validation_is_the_last_share_of_the_documents(tmp_path, count, share, kept):
    corpus = DocumentList([str(number) for number in range(count)], "numbers")
    prepared = prepare(corpus, Utf8(), tmp_path, validation_share=share)
    assert prepared.train.ids.tolist() == naive_ids([str(number) for number in range(kept)], [256])
    assert prepared.validation.ids.tolist() == naive_ids([str(number) for number in range(kept, count)], [256])


@pytest.mark.parametrize("read_size", [1, 7, 10, 90, 100, 1000])
@pytest.mark.parametrize("length", [2, 10, 100, 101])
def test_validation_is_the_last_tenth_of_the_characters_of_a_single_document(tmp_path, length, read_size):
    content = "".join(chr(0xE0 + number % 26) for number in range(length))
    text = tmp_path / "text.txt"
    text.write_text(content)
    prepared = prepare(TextFiles(text, read_size=read_size), Utf8(), tmp_path / "cache")
    kept = length - max(round(length / 10), 1)
    assert prepared.train.ids.tolist() == naive_ids([content[:kept]], [256])
    assert prepared.validation.ids.tolist() == naive_ids([content[kept:]], [256])


@pytest.mark.parametrize("count", [1, 2, 23])
@pytest.mark.parametrize("read_size", [1, 100, 1 << 20])
def test_the_training_part_is_the_text_of_the_training_file(tmp_path, count, read_size):
    text = tmp_path / "text.txt"
    text.write_text(f"{END_OF_TEXT}\n".join(DOCUMENTS[:count]), newline="")
    corpus = TextFiles(text, read_size=read_size)
    prepared = prepare(corpus, Utf8(), tmp_path / "cache")
    counter = Counter()
    everything = list(counter.count(corpus.pieces()))
    extent = counter.extent(corpus)
    pieces = training_part(corpus.pieces(), corpus, extent, is_all_for_training=False)
    assert naive_ids(list(join_documents(pieces)), [256]) == prepared.train.ids.tolist()
    assert list(training_part(corpus.pieces(), corpus, extent, is_all_for_training=True)) == everything


@pytest.mark.parametrize("end", [f"\n{END_OF_TEXT}\n", ""], ids=["documents", "a single document"])
def test_merges_are_learned_from_the_training_part_alone_and_characters_from_all_the_text(tmp_path, end):
    training, held_out = [f"the llama ran {number:02}. " for number in range(90)], ["vwxyz vwxyz vwxyz "] * 10
    text = tmp_path / "text.txt"
    text.write_text(end.join([*training, *held_out]))
    tokenizers = {}
    for kind in ("bpe", "char"):
        config = replace(RunConfig(), data=(str(text),), tokenizer=kind, vocab_size=300, cache_dir=str(tmp_path))
        prepared, tokenizers[kind], _ = prepare_data(config)
        assert tokenizers[kind].decode(prepared.validation.ids).count("vwxyz") == 30
    assert len(tokenizers["bpe"].encode("llama")) == 1
    assert len(tokenizers["bpe"].encode("vwxyz")) == 5
    assert set("vwxyz") < set(tokenizers["char"].characters)


def test_characters_that_only_a_validation_corpus_has_are_known(tmp_path, monkeypatch):
    source = Source(DocumentList(["ab"], "training"), DocumentList(["xyz"], "validation"))
    monkeypatch.setitem(opening.BY_NAME, "letters", lambda options, seed: source)
    _, tokenizer, _ = prepare_data(replace(RunConfig(), data=("letters",), tokenizer="char", cache_dir=str(tmp_path)))
    assert tokenizer.characters == list("abxyz")


def test_a_validation_corpus_is_used_completely(tmp_path):
    corpus, other = DocumentList(["one", "two"], "train"), DocumentList(["three"], "val")
    prepared = prepare(corpus, Utf8(), tmp_path, validation_corpus=other)
    assert prepared.train.ids.tolist() == naive_ids(["one", "two"], [256])
    assert prepared.validation.ids.tolist() == naive_ids(["three"], [256])
    assert prepared.manifest.validation_fingerprint == other.fingerprint()


def test_progress_counts_all_characters(tmp_path):
    seen: list[tuple[int, int]] = []
    prepare(DocumentList(DOCUMENTS, "x"), Utf8(), tmp_path, progress=lambda _, *counts: seen.append(counts))
    total = len("".join(DOCUMENTS))
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


def test_prepared_tokens_are_found_again_and_different_ones_are_not(tmp_path):
    corpus = DocumentList(DOCUMENTS, "first name")
    first = prepare(corpus, Utf8(), tmp_path)
    written = first.train.path.stat().st_mtime_ns
    assert prepare(DocumentList(DOCUMENTS, "other name"), Utf8(), tmp_path).folder == first.folder
    assert first.train.path.stat().st_mtime_ns == written
    others = [
        prepare(DocumentList(DOCUMENTS[1:], "first name"), Utf8(), tmp_path),
        prepare(corpus, Utf8(fingerprint="other"), tmp_path),
        prepare(corpus, Utf8(), tmp_path, validation_share=0.2),
        prepare(corpus, Utf8(), tmp_path, validation_corpus=corpus),
    ]
    assert len({prepared.folder for prepared in (first, *others)}) == 5
    assert len(list(tmp_path.iterdir())) == 5


def test_concurrent_preparations_end_with_one_good_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(prepare, DocumentList(DOCUMENTS, "x"), Utf8(), tmp_path) for _ in range(8)]
    assert len({job.result().folder for job in jobs}) == 1
    assert list(tmp_path.iterdir()) == [jobs[0].result().folder]
    jobs[0].result().train.verify()


def test_a_huge_line_is_prepared_in_little_memory(tmp_path):
    path = tmp_path / "line.txt"
    with path.open("wb") as file:
        for _ in range(30):
            file.write(b"little llama " * 80_000)  # 30 times about 1 MB
    tracemalloc.start()
    prepared = prepare(TextFiles(path), Lengths(), tmp_path / "cache")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert prepared.train.part.documents == 1
    assert peak < 12e6


def test_many_tokens_are_prepared_in_little_memory(tmp_path):
    class Constant(Utf8):
        def encode_iterable(self, strings: Iterable[str]) -> Iterator[int]:
            return (7 for _ in range(3_000_000 * sum(1 for _ in strings)))

    tracemalloc.start()
    prepared = prepare(DocumentList(["a", "b"], "x"), Constant(), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(prepared.train) == 3_000_001
    assert peak < 4e6


CHILD = """
import sys, time
sys.path.insert(0, "tests")
from test_data_prepare import DOCUMENTS, Utf8
from llamita.corpus import DocumentList
from llamita.data import prepare

def wait(what, done, total):
    if done > total / 2:
        print("half", flush=True)
        time.sleep(60)

prepare(DocumentList(DOCUMENTS, "x"), Utf8(), sys.argv[1], progress=wait if sys.argv[2] == "wait" else None)
"""


def child(folder: Path, mode: str, **options) -> subprocess.Popen:
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", CHILD, str(folder), mode]
    return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, **options)


def test_a_killed_preparation_is_never_taken_for_complete(tmp_path):
    with child(tmp_path, "wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert ".partial-" in left.name
    prepared = prepare(DocumentList(DOCUMENTS, "x"), Utf8(), tmp_path)
    assert prepared.train.ids.tolist() == naive_ids(DOCUMENTS[:21], [256])
    prepared.train.verify()

    shutil.rmtree(prepared.folder)  # and a day later what was left is cleared away
    yesterday = time.time() - 25 * 3600
    for path in (*left.iterdir(), left):
        os.utime(path, (yesterday, yesterday))
    assert list(tmp_path.iterdir()) == [left]
    prepared = prepare(DocumentList(DOCUMENTS, "x"), Utf8(), tmp_path)
    assert list(tmp_path.iterdir()) == [prepared.folder]


def test_a_full_disk_is_one_line_and_leaves_no_files(tmp_path):
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(UserError, match="token files cannot be written") as caught:
            prepare(DocumentList(DOCUMENTS * 100, "x"), Utf8(), tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_at_the_end_is_one_line_and_leaves_no_files(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*free some space"):
        prepare(DocumentList(DOCUMENTS, "x"), Utf8(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        prepare(DocumentList(DOCUMENTS, "x"), Utf8(), tmp_path / "cache")
    assert (tmp_path / "cache").read_text() == "mine"


def test_a_bug_in_a_tokenizer_keeps_its_traceback_and_leaves_no_files(tmp_path):
    class Broken(Utf8):
        def encode_iterable(self, strings: Iterable[str]) -> Iterator[int]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        prepare(DocumentList(DOCUMENTS, "x"), Broken(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_text_that_cannot_be_split_is_refused_before_anything_is_written(tmp_path):
    cache = tmp_path / "cache"
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good until here\xff")
    good = DocumentList(DOCUMENTS, "x")
    with pytest.raises(UserError, match="too short to split"):
        prepare(DocumentList(["x"], "one letter"), Utf8(), cache)
    with pytest.raises(UserError, match="there is no text"):
        prepare(DocumentList(["", " "], "nothing"), Utf8(), cache)
    with pytest.raises(UserError, match="not UTF-8"):
        prepare(TextFiles(bad), Utf8(), cache)
    with pytest.raises(UserError, match="not UTF-8"):
        prepare(good, Utf8(), cache, validation_corpus=TextFiles(bad))
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            prepare(good, Utf8(), cache, validation_share=share)
    assert not cache.exists()


def test_text_that_changes_while_it_is_read_is_refused(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(f"{END_OF_TEXT}\n".join(DOCUMENTS))
    with pytest.raises(UserError, match="changed while"):
        prepare(TextFiles(text), Utf8(), tmp_path / "cache", progress=lambda *_: text.write_text("other"))
    assert list(tmp_path.iterdir()) == [text]


@pytest.fixture
def folder(tmp_path) -> Path:
    return prepare(DocumentList(DOCUMENTS, "x"), Utf8(), tmp_path).folder


def change_manifest(folder: Path, **fields) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **fields}))


def assert_refused(folder: Path, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        TokenFile(folder / "train.bin").verify()
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train.bin", "train.documents.bin"])
def test_a_damaged_file_is_refused(folder, name):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    assert_refused(folder, "damaged, it has .* bytes instead of .*; delete the folder")
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    TokenFile(folder / "train.bin")  # opening is cheap and sees only the size
    assert_refused(folder, "damaged, its sha256")
    path.unlink()
    assert_refused(folder, "no such file")


def test_a_damaged_folder_is_not_taken_from_the_cache(folder):
    (folder / "val.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"val\.bin: damaged"):
        prepare(DocumentList(DOCUMENTS, "x"), Utf8(), folder.parent)


def test_a_damaged_manifest_is_refused(folder):
    original = (folder / "manifest.json").read_text()
    change_manifest(folder, vocab_size=100_000)
    assert_refused(folder, "damaged manifest")
    change_manifest(folder, format_version=99)
    assert_refused(folder, "format version 99, not 1")
    for content in (original[:-10], "[]", "{}", '{"format_version": 1}', "null", "\xff"):
        (folder / "manifest.json").write_text(content)
        assert_refused(folder, r"manifest\.json: damaged; delete")
    (folder / "manifest.json").unlink()
    assert_refused(folder, "cannot be read")


def test_another_tokenizer_or_part_is_refused(folder):
    assert TokenFile(folder / "train.bin", "utf8").end_id == 256
    with pytest.raises(UserError, match=r"train\.bin: its tokens were made by another tokenizer"):
        TokenFile(folder / "train.bin", "other")
    with pytest.raises(UserError, match="not a token file"):
        TokenFile(folder / "test.bin")
