"""Text is read as few times and as far as it has to be, and the split does not depend on how it was read."""

import gc
import gzip
import json
import weakref
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from test_data_prepare import DOCUMENTS, Utf8, naive_ids

from llamita.config import RunConfig, replace
from llamita.corpus import DocumentList, Source, TextFiles, digests, opening
from llamita.corpus.documents import Pieces
from llamita.data import Prepared, encoding, learning, prepare, prepare_data
from llamita.data.splitting import first_bytes, until_characters, without_held_out, without_last
from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT, CharTokenizer


class Fetched:
    """A corpus whose fingerprint needs no reading; it knows how far it was read, and whether it was closed."""

    def __init__(self, documents: list[str]):
        self._documents = documents
        self.read, self.open = 0, 0

    def pieces(self) -> Pieces:
        self.open += 1
        try:
            for document in self._documents:
                self.read += 1
                yield document
                yield None
        finally:
            self.open -= 1

    def fingerprint(self) -> str:
        return "fetched"

    def describe(self) -> str:
        return "fetched documents"


def ids_of(prepared: Prepared) -> tuple[list[int], list[int]]:
    return prepared.train.ids.tolist(), prepared.validation.ids.tolist()


# --- documents held out ---


@pytest.mark.parametrize("every", [2, 5, 7, 200])
@pytest.mark.parametrize("block", [1, 100, 1 << 16])
def test_the_first_of_every_n_documents_is_held_out(tmp_path, monkeypatch, every, block):
    monkeypatch.setattr("llamita.tokenizer.batches.BLOCK", block)
    prepared = prepare(Fetched(DOCUMENTS), Utf8(), tmp_path, holdout_every=every)
    held_out = DOCUMENTS[::every]
    training = [text for number, text in enumerate(DOCUMENTS) if number % every]
    assert ids_of(prepared) == (naive_ids(training, [256]), naive_ids(held_out, [256]))
    for file, documents in ((prepared.train, training), (prepared.validation, held_out)):
        cut = zip(file.document_starts, file.document_ends, strict=True)
        assert [file.ids[start:end].tolist() for start, end in cut] == [naive_ids([text], [256]) for text in documents]
        file.verify()
    assert prepared.manifest.validation == f"every {every}th document"


def test_a_cap_in_tokens_ends_the_reading_and_closes_the_corpus(tmp_path):
    documents = [f"number {number:05} " * 100 for number in range(10_000)]  # 1,300 tokens each
    corpus = Fetched(documents)
    prepared = prepare(corpus, Utf8(), tmp_path, holdout_every=10, max_tokens=200_000)
    training = naive_ids([text for number, text in enumerate(documents) if number % 10], [256])
    held_out = naive_ids(documents[::10], [256])
    assert ids_of(prepared) == (training[:180_000], held_out[: len(prepared.validation)])
    assert 18_000 < len(prepared.validation) <= 20_000
    assert corpus.read < 250  # and not 10,000: it takes 154, and a block of ids
    assert corpus.open == 0


def test_too_few_documents_to_hold_one_out_are_refused(tmp_path):
    with pytest.raises(UserError, match="fetched documents: one document is too few to hold one out"):
        prepare(Fetched(["one"]), Utf8(), tmp_path / "cache", holdout_every=200)
    with pytest.raises(UserError, match="fetched documents: there is no text"):
        prepare(Fetched([]), Utf8(), tmp_path / "cache", holdout_every=200)
    assert list(tmp_path.iterdir()) == []


def fetched_config(monkeypatch, tmp_path: Path, corpus: Fetched, **options) -> RunConfig:
    monkeypatch.setitem(opening.BY_NAME, "fetched", lambda *_: Source(corpus, holdout_every=5))
    return replace(RunConfig(), data=("fetched",), cache_dir=str(tmp_path), **options)


def test_merges_are_learned_from_the_training_documents_that_the_cap_takes_in(tmp_path, monkeypatch):
    held_out, taken, beyond = ["vwxyz "] * 10, ["the llama ran. "] * 10, ["hum hum hum "] * 1000
    pairs = zip(held_out, taken, strict=True)
    documents = [text for pair in pairs for text in (pair[0], *[pair[1]] * 4)] + beyond
    corpus = Fetched(documents)
    config = fetched_config(monkeypatch, tmp_path, corpus, vocab_size=300, max_corpus_tokens=400)
    prepared, tokenizer, _ = prepare_data(config)
    assert corpus.open == 0
    assert len(tokenizer.encode("llama")) == 1
    assert len(tokenizer.encode("vwxyz")) == 5
    assert len(tokenizer.encode("hum")) == 3
    assert len(prepared.train) == 320
    corpus.read = 0
    assert prepare_data(config)[0].folder == prepared.folder
    assert corpus.read == 0


def test_all_characters_that_the_cap_takes_in_are_known(tmp_path, monkeypatch):
    monkeypatch.setattr("llamita.tokenizer.batches.BLOCK", 50)
    documents = [chr(0x100 + number) * 10 for number in range(100)]
    corpus = Fetched(documents)
    prepared, tokenizer, _ = prepare_data(
        fetched_config(monkeypatch, tmp_path, corpus, tokenizer="char", max_corpus_tokens=200)
    )
    assert isinstance(tokenizer, CharTokenizer)
    text = tokenizer.decode(prepared.train.ids) + tokenizer.decode(prepared.validation.ids)
    assert "<unk>" not in text
    assert len(prepared.train) == 160
    assert corpus.read < 60  # in two readings


# --- the number of readings ---


@pytest.fixture
def bytes_read(monkeypatch) -> Callable[[], int]:
    """The bytes that were read from files since it was called last."""
    total = 0
    readinto = digests._Hashing.readinto

    def counted(self, buffer) -> int:
        nonlocal total
        total += (size := readinto(self, buffer))
        return size

    def since() -> int:
        nonlocal total
        was, total = total, 0
        return was

    monkeypatch.setattr(digests._Hashing, "readinto", counted)
    return since


def many(folder: Path) -> Path:
    (folder / "many.txt").write_text(f"\n{END_OF_TEXT}\n".join(DOCUMENTS * 20))
    return folder / "many.txt"


def test_text_is_read_once_to_encode_and_once_to_train_a_tokenizer(tmp_path, bytes_read):
    path = many(tmp_path)
    size = path.stat().st_size
    ready = prepare(TextFiles(path), Utf8(), tmp_path / "one")
    assert bytes_read() == size
    config = replace(RunConfig(), data=(str(path),), vocab_size=300, cache_dir=str(tmp_path / "two"))
    prepared, tokenizer, _ = prepare_data(config)
    assert bytes_read() == 2 * size
    assert prepare(TextFiles(path), Utf8(), tmp_path / "one").folder == ready.folder
    assert bytes_read() == size  # to know that it is the same text
    assert prepare_data(config)[0].folder == prepared.folder
    assert bytes_read() == size
    prepare_data(replace(config, vocab_size=270))
    assert bytes_read() == 3 * size  # as the cache has tokens of a text of the same size
    assert prepare(TextFiles(path), tokenizer, tmp_path / "three").manifest.identity == prepared.manifest.identity


def test_text_of_another_size_is_not_read_to_look_for_its_tokens(tmp_path, bytes_read):
    prepare(DocumentList(DOCUMENTS, "x"), Utf8(), tmp_path)
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "b.txt").write_text("other text")
    for name, size in (("a", 9), ("b", 10)):
        prepare(TextFiles(tmp_path / f"{name}.txt"), Utf8(), tmp_path)
        assert bytes_read() == size


def test_tokens_of_an_earlier_version_are_found_although_they_do_not_tell_the_size(tmp_path, bytes_read):
    path = many(tmp_path)
    folder = prepare(TextFiles(path), Utf8(), tmp_path / "cache").folder
    fields = json.loads((folder / "manifest.json").read_text())
    del fields["source_bytes"]
    (folder / "manifest.json").write_text(json.dumps(fields))
    bytes_read()
    written = (folder / "train.bin").stat().st_mtime_ns
    assert prepare(TextFiles(path), Utf8(), tmp_path / "cache").folder == folder
    assert bytes_read() == path.stat().st_size
    assert (folder / "train.bin").stat().st_mtime_ns == written


def test_a_cap_in_tokens_on_files_takes_one_more_reading_to_count(tmp_path, bytes_read):
    path = many(tmp_path)
    prepare(TextFiles(path), Utf8(), tmp_path / "cache", max_tokens=100)
    assert bytes_read() == 2 * path.stat().st_size


@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz", "rows.jsonl"])
@pytest.mark.parametrize("limit", [0, 3])
def test_the_fingerprint_of_a_reading_is_that_of_the_corpus_however_far_it_got(tmp_path, name, limit):
    content = f"{END_OF_TEXT}\n".join(f"{text}\n" for text in DOCUMENTS).encode()
    if name == "rows.jsonl":
        content = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else b"\xef\xbb\xbf" + content)
    (tmp_path / "b.txt").write_text("another")
    corpus = TextFiles([tmp_path / name, tmp_path / "b.txt"], max_documents=limit, read_size=100)
    for pieces in (0, 1, 5, 10**6):
        reading = corpus.read()
        text = list(islice(reading.pieces, pieces))
        assert text == list(islice(corpus.pieces(), pieces))
        reading.close()
        assert reading.fingerprint() == corpus.fingerprint()
        assert reading.position == reading.size == corpus.size


def test_closing_a_reading_closes_its_file(tmp_path):
    reading = TextFiles(many(tmp_path), read_size=10).read()
    next(reading.pieces)
    opened: list[weakref.ref[digests._Hashing]] = []
    for thing in gc.get_objects():
        if type(thing) is digests._Hashing:
            opened.append(weakref.ref(thing))
    reading.close()
    assert len(opened) == 1
    assert all((file := reference()) is None or file.closed for reference in opened)


# --- the same split, however it is found ---


@pytest.mark.parametrize("look_ahead", [1, 40, 1 << 20])
@pytest.mark.parametrize("count", [1, 2, 3, 23])
@pytest.mark.parametrize("keep_every", [1, 50, 1 << 22])
def test_the_last_share_is_the_same_counted_before_or_cut_off_afterwards(
    tmp_path, monkeypatch, count, look_ahead, keep_every
):
    monkeypatch.setattr(encoding, "LOOK_AHEAD", look_ahead)
    monkeypatch.setattr("llamita.data.token_file.KEEP_EVERY", keep_every)
    monkeypatch.setattr("llamita.data.token_file.BLOCK", 17)
    monkeypatch.setattr("llamita.tokenizer.batches.BLOCK", 10)
    path = tmp_path / "text.txt"
    path.write_text(f"{END_OF_TEXT}\n".join(DOCUMENTS[:count]), newline="")
    prepared = prepare(TextFiles(path, read_size=7), Utf8(), tmp_path / "cache")
    kept = count - max(round(count / 10), 1)
    parts = (DOCUMENTS[:kept], DOCUMENTS[kept:count])
    if count == 1:
        length = len(DOCUMENTS[0]) - round(len(DOCUMENTS[0]) / 10)
        parts = ([DOCUMENTS[0][:length]], [DOCUMENTS[0][length:]])
    for file, documents in zip((prepared.train, prepared.validation), parts, strict=True):
        assert file.ids.tolist() == naive_ids(documents, [256])
        assert (file.part.documents, file.part.largest_id) == (len(documents), max(naive_ids(documents, [256])))
        assert file.part.bytes == len("".join(documents).encode())
        assert file.document_ends.tolist() == [
            len(naive_ids(documents[: number + 1], [256])) for number in range(len(documents))
        ]
        file.verify()


@pytest.mark.parametrize("count", [1, 23])
def test_merges_are_the_same_whether_text_was_counted_before_or_not(tmp_path, monkeypatch, count):
    path = tmp_path / "text.txt"
    path.write_text(f"{END_OF_TEXT}\n".join(DOCUMENTS[-count:]), newline="")
    made = set()
    for look_ahead, most in ((1 << 20, 10**8), (1, 10**8), (1 << 20, 0)):
        monkeypatch.setattr(encoding, "LOOK_AHEAD", look_ahead)
        packed = tmp_path / f"{look_ahead}-{most}.txt{'' if most else '.gz'}"
        packed.write_bytes(path.read_bytes() if most else gzip.compress(path.read_bytes()))
        config = replace(RunConfig(), data=(str(packed),), vocab_size=270, cache_dir=str(tmp_path / packed.name[:-4]))
        made.add(prepare_data(config)[0].manifest.fingerprint)
    assert len(made) == 1


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_documents_are_held_back_until_they_are_surely_for_training(share):
    for count in range(2, 60):
        pieces = [piece for number in range(count) for piece in (f"{number}", "more", None)]
        kept = count - min(max(round(count * share), 1), count - 1)
        assert list(without_last(iter(pieces), share)) == pieces[: 3 * kept]


def test_the_beginning_of_a_text_is_measured_in_bytes_or_characters():
    pieces = ["äöü", None, "abc", None, "d", None]
    assert [list(first_bytes(pieces, limit)) for limit in (3, 5, 7, 10, 100)] == [
        [],
        ["ä"],
        ["äöü", None],
        ["äöü", None, "abc"],
        pieces,
    ]
    assert list(until_characters(pieces, None, 4)) == pieces[:3]
    assert list(until_characters(pieces, 2, 3)) == pieces[:3]
    assert list(without_held_out(pieces, 2)) == ["abc", None]


def test_a_file_that_changes_between_two_readings_is_refused(tmp_path, monkeypatch):
    path = many(tmp_path)
    train = learning.train_tokenizer

    def train_and_write(*args, **options):
        tokenizer = train(*args, **options)
        path.write_text(path.read_text().replace("Llama 7", "Llama 8"))
        return tokenizer

    monkeypatch.setattr(learning, "train_tokenizer", train_and_write)
    config = replace(RunConfig(), data=(str(path),), vocab_size=300, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="the text changed while it was read"):
        prepare_data(config)
    assert not list((tmp_path / "cache").glob("*/manifest.json"))
