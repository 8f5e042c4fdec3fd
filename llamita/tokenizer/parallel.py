"""Encoding on all cores: the same ids as in one process, in the same order, whatever the number of processes.

Processes, not threads: the kernels release the GIL, but what surrounds them (text to UTF-8, slices, copies of ids)
holds it. They are started as commands rather than by `multiprocessing`, which would import the user's script again.
"""

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, cast

import numpy as np

from llamita.errors import UserError
from llamita.jit.cpu import usable_cores
from llamita.tokenizer.base import Tokenizer
from llamita.tokenizer.batches import Encoded, batches, characters, encode_batch, encode_pieces
from llamita.tokenizer.bpe import BPETokenizer
from llamita.tokenizer.chars import CharTokenizer
from llamita.tokenizer.pipes import pack_strings, receive, send, unpack_result

PARALLEL_AFTER = 1.0
"""Seconds of encoding in this process before others are started, which takes each of them about as long."""
MOST_WORKERS = 16  # more than one process can feed
WAITING = 2  # batches for each worker, encoded ones included: memory does not grow with the text

_START = "import sys; sys.path.insert(0, sys.argv[1]); from llamita.tokenizer.worker import main; main()"


Needed = Callable[[], int]


def endless() -> int:
    """All tokens are needed."""
    return sys.maxsize


class DocumentEncoder:
    """Encodes the documents of corpora, in other processes once there is much text. Close it, or use `with`.

    workers: the number of processes; None: one for each core that this process may use; 1: none but this one.
    """

    def __init__(self, tokenizer: Tokenizer, workers: int | None = None):
        self._tokenizer = tokenizer
        self._count = min(usable_cores(), MOST_WORKERS) if workers is None else workers
        self._workers: Workers | None = None
        self._seconds = 0.0  # of encoding in this process

    def encode(self, pieces: Iterable[str | None], needed: Needed = endless) -> Generator[Encoded]:
        """Documents as strings, cut anywhere, with None after each document -> their ids, in order.

        needed: the number of tokens that are still needed; no more characters than that are read ahead.
        Raises `UserError` where a worker is killed.
        """
        if self._count < 2 or not _is_parallel(self._tokenizer):
            yield from encode_pieces(self._tokenizer, pieces)
            return
        waiting = batches(self._tokenizer, pieces, needed)
        for batch in waiting:
            if self._seconds >= PARALLEL_AFTER:
                self._workers = self._workers or Workers(self._tokenizer, self._count)
                yield from self._workers.encode(chain((batch,), waiting), needed)
                return
            started = time.perf_counter()
            encoded = encode_batch(self._tokenizer, batch)
            self._seconds += time.perf_counter() - started
            yield encoded

    def __enter__(self) -> "DocumentEncoder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the other processes."""
        if self._workers:
            self._workers.close()


class Workers:
    """Processes that encode batches, and a thread for each, which waits for it."""

    def __init__(self, tokenizer: Tokenizer, count: int):
        self._processes = [_start() for _ in range(count)]
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._threads = ThreadPoolExecutor(count)
        for process in self._processes:
            self._idle.put(process)
        settings = {"tokenizer": tokenizer.to_json(), "plain": isinstance(tokenizer, BPETokenizer) and tokenizer.plain}
        self._tokenizer, self._dtype = json.dumps(settings).encode(), np.dtype(tokenizer.dtype)
        self._ready: set[int] = set()  # the processes that have the tokenizer

    def encode(self, waiting: Iterable[list[str | None]], needed: Needed) -> Iterator[Encoded]:
        """Batches -> their ids, in order. What is in progress when the iterator is closed is given up."""
        pending: deque[tuple[Future[Encoded], int]] = deque()  # with the characters of each
        ahead = 0
        try:
            for batch in waiting:
                pending.append((self._threads.submit(self._encode, batch), characters(batch)))
                ahead += pending[-1][1]
                while len(pending) > WAITING * len(self._processes) or (pending and ahead >= needed()):
                    ahead -= pending[0][1]
                    yield pending.popleft()[0].result()
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()

    def close(self) -> None:
        """End the processes, also in the middle of their work."""
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            with suppress(OSError), process:  # closes its pipes, which may hold what it has not read, and waits for it
                pass

    def _encode(self, batch: list[str | None]) -> Encoded:
        process = self._idle.get()
        try:
            return unpack_result(self._answer(process, batch), self._dtype)
        except (OSError, EOFError) as error:
            raise UserError(
                f"a process that encodes text ended with status {process.wait()}, perhaps because memory ran out; "
                "start again"
            ) from error
        finally:
            self._idle.put(process)

    def _answer(self, process: "subprocess.Popen[bytes]", batch: list[str | None]) -> bytes:
        requests, results = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        if process.pid not in self._ready:
            send(requests, self._tokenizer)
            self._ready.add(process.pid)
        send(requests, pack_strings(batch))
        return receive(results)


def _is_parallel(tokenizer: Tokenizer) -> bool:
    """Whether other processes can have the tokenizer: one that a user's script defines is not known there."""
    return type(tokenizer) in (BPETokenizer, CharTokenizer) and tokenizer.is_separable


def _start() -> "subprocess.Popen[bytes]":
    place = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", _START, place]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **_own_process_group())
    return cast("subprocess.Popen[bytes]", process)


def _own_process_group() -> dict[str, Any]:
    """Options of `Popen` with which Ctrl-C in a terminal reaches only this process, which ends the others."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # pyright: ignore[reportAttributeAccessIssue]
    return {"process_group": 0}
