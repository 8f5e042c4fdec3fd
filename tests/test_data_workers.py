"""Other processes encode the same ids, and end with this one."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from test_data_prepare import DOCUMENTS, Utf8, trained_bpe

from llamita.corpus import DocumentList, TextFiles
from llamita.data import prepare
from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, parallel, worker
from llamita.tokenizer.batches import Encoded, encode_pieces
from llamita.tokenizer.parallel import DocumentEncoder, Workers
from llamita.tokenizer.pipes import pack_ids, pack_strings, unpack_result, unpack_strings


@pytest.fixture(autouse=True)
def without_delay(monkeypatch):
    """Workers take every batch, and batches are small."""
    monkeypatch.setattr(parallel, "PARALLEL_AFTER", 0)
    monkeypatch.setattr("llamita.tokenizer.batches.BATCH", 100)


@pytest.mark.parametrize("kind", ["bpe", "special", "plain", "characters"])
def test_workers_make_the_ids_of_one_process(tmp_path, kind):
    trained = trained_bpe()
    vocab = {token: trained.token_bytes(token) for token in range(trained.vocab_size - 1)}
    tokenizer = {
        "bpe": trained,
        "special": BPETokenizer(vocab, trained._merges, [END_OF_TEXT, "äh"]),
        "plain": BPETokenizer(vocab, trained._merges, [END_OF_TEXT], plain=True),
        "characters": CharTokenizer("".join(DOCUMENTS)),
    }[kind]
    path = tmp_path / "text.txt"
    path.write_text(f"{END_OF_TEXT}\n".join([*DOCUMENTS, f"it's {END_OF_TEXT}  quoted\t{END_OF_TEXT}"]), newline="")
    made = [
        prepare(TextFiles(path, read_size=50), tokenizer, tmp_path / str(workers), workers=workers)
        for workers in (1, 2)
    ]
    for one, two in zip(*((each.train, each.validation) for each in made), strict=True):
        np.testing.assert_array_equal(one.ids, two.ids)
        assert one.part == two.part
    assert made[0].manifest == made[1].manifest


def test_batches_of_one_process_are_those_of_a_stream(monkeypatch):
    monkeypatch.setattr(parallel, "PARALLEL_AFTER", 1e9)
    tokenizer = trained_bpe()
    pieces = [piece for text in DOCUMENTS for piece in (*text, None)]  # single characters
    with DocumentEncoder(tokenizer, 2) as encoder:
        encoded = list(encoder.encode(pieces))
    expected = list(encode_pieces(tokenizer, pieces))
    np.testing.assert_array_equal(np.concatenate([e.ids for e in encoded]), np.concatenate([e.ids for e in expected]))
    assert sum(len(e.ends) for e in encoded) == len(DOCUMENTS)


def test_tokenizers_that_other_processes_do_not_know_encode_here(tmp_path):
    class Mine(BPETokenizer):
        pass

    tokenizer = Mine({byte: bytes([byte]) for byte in range(256)}, [], [END_OF_TEXT])
    for ours in (tokenizer, Utf8()):
        assert len(prepare(DocumentList(DOCUMENTS, "x"), ours, tmp_path, workers=2).train)
    blank = BPETokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["a b"])
    assert not parallel._is_parallel(blank)


def test_a_killed_worker_is_one_line_and_leaves_no_files(tmp_path, monkeypatch):
    answer = Workers._answer

    def kill_first(self, process, batch):
        process.kill()
        process.wait()
        return answer(self, process, batch)

    monkeypatch.setattr(Workers, "_answer", kill_first)
    with pytest.raises(UserError, match="a process that encodes text ended with status"):
        prepare(DocumentList(DOCUMENTS, "x"), trained_bpe(), tmp_path / "cache", workers=2)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_a_worker_is_raised_here(tmp_path):
    tokenizer = BPETokenizer({ord(letter): letter.encode() for letter in "Lam "}, [], [END_OF_TEXT])
    with pytest.raises(UserError, match="byte"):
        prepare(DocumentList(DOCUMENTS, "x"), tokenizer, tmp_path / "cache", workers=2)
    assert list(tmp_path.iterdir()) == []


def test_what_is_sent_to_workers_and_back_arrives_unchanged():
    strings = ["", None, "äh", "\ud800 alone", "\0", "x" * 70_000, None, None]
    assert unpack_strings(pack_strings(strings)) == strings
    assert unpack_strings(pack_strings([])) == []
    for dtype in (np.uint16, np.uint32):
        encoded = Encoded(np.array([3, 65_535, 0], dtype), np.array([1, 1, 3], np.int64))
        received = unpack_result(pack_ids(encoded), np.dtype(dtype))
        assert received.ids.dtype == dtype
        assert [part.tolist() for part in received] == [part.tolist() for part in encoded]


def test_a_defect_in_a_worker_comes_with_its_traceback():
    tokenizer = trained_bpe()
    tokenizer.encode_document = lambda strings: [1 / 0]  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        unpack_result(worker._result(tokenizer, pack_strings(["text"])), np.dtype(np.uint16))


def test_workers_end_when_the_iterator_is_left(monkeypatch):
    with DocumentEncoder(trained_bpe(), 2) as encoder:
        blocks = encoder.encode(piece for _ in range(10**6) for piece in ("text " * 30, None))
        next(blocks)
        blocks.close()
        assert encoder._workers is not None
        processes = encoder._workers._processes
    assert all(process.returncode is not None for process in processes)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_an_interrupt_ends_all_processes_and_leaves_no_files(tmp_path, monkeypatch):
    started: list = []
    start = parallel._start
    monkeypatch.setattr(parallel, "_start", lambda: started.append(start()) or started[-1])

    def interrupt(*_: object) -> None:
        if started:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        prepare(DocumentList(DOCUMENTS, "x"), trained_bpe(), tmp_path / "cache", workers=2, progress=interrupt)
    assert started
    assert all(process.returncode is not None for process in started)
    assert list(Path(tmp_path).iterdir()) == []
