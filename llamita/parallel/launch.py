"""Starting the processes of a run on this machine, as torchrun would, and seeing that they end together."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]  (documented)

from llamita.errors import UserError
from llamita.parallel.processes import FAILURE, FIRST_ATTEMPT, first_to_fail, is_main_process, meeting_store

LOOK_EVERY = 0.05  # seconds between looks at whether all processes are there
LAST_WORDS = 3.0  # seconds that processes have to leave by themselves when one has failed
RESULT = "llamita/result"  # where in the store the main process puts what the work came to


def launch(
    module: str, work: Mapping[str, Any], world_size: int, asked_to_stop: Callable[[], int | None]
) -> str | None:
    """Run `python -m module` in `world_size` processes, each of which reads `work` -> the main one's result.

    The module calls `take_part`. A signal number from `asked_to_stop` is handed on to all of them, once; None comes
    back where they obeyed. Where one fails, the rest is ended: its `UserError` is raised here, and for a defect a
    `RuntimeError` with the traceback from there. None of them outlives this process, however that ends.
    """
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = PrefixStore(FIRST_ATTEMPT, server)
    processes = [_start(module, work, rank, world_size, server.port) for rank in range(world_size)]
    try:
        signalled = _wait(processes, asked_to_stop)
        _raise_failure(processes, store, signalled)
        return store.get(RESULT).decode() if store.check([RESULT]) else None
    finally:
        for process in processes:
            process.kill()
            process.wait()


def take_part(work: Callable[[Mapping[str, Any]], str]) -> NoReturn:
    """What each process started by `launch` does: read its task, do it, hand the result back, end."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        result = work(task)
        if is_main_process():
            meeting_store().set(RESULT, result)
    except KeyboardInterrupt:
        _leave(128 + signal.SIGINT)
    except SystemExit as stop:
        _leave(stop.code if isinstance(stop.code, int) else 1)
    except Exception as error:
        first_to_fail(meeting_store(), error)  # the parent says it
        _leave(1)
    _leave(0)


def _start(module: str, work: Mapping[str, Any], rank: int, world_size: int, port: int) -> "subprocess.Popen[str]":
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    environment = {**os.environ, **{name: str(value) for name, value in {**place, **meeting}.items()}}
    words = [sys.executable, "-m", module]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, env=environment, text=True, **_own_process_group())
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it is gone already, which `_wait` will see
        process.stdin.write(json.dumps(work) + "\n")
        process.stdin.flush()
    return process


def _own_process_group() -> dict[str, Any]:
    """The option of `Popen` with which Ctrl-C on a terminal reaches the parent alone, which passes it on to each."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # pyright: ignore[reportAttributeAccessIssue]
    return {"process_group": 0}


def _signal(process: "subprocess.Popen[str]", number: int) -> None:
    """Send a signal; Windows can interrupt another process group by Ctrl-Break only."""
    process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", number))


def _wait(processes: "list[subprocess.Popen[str]]", asked_to_stop: Callable[[], int | None]) -> bool:
    """Wait until all have ended, or one has failed and the others had their time -> whether they were asked to stop."""
    signalled, deadline = False, math.inf
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        number = asked_to_stop()
        if number is not None and not signalled:
            signalled = True
            for process in processes:
                _signal(process, number)
        if deadline == math.inf and any(process.poll() for process in processes):
            deadline = time.monotonic() + LAST_WORDS
        time.sleep(LOOK_EVERY)
    return signalled


def _raise_failure(processes: "list[subprocess.Popen[str]]", store: Store, signalled: bool) -> None:
    codes = [process.poll() for process in processes]
    failure = json.loads(store.get(FAILURE)) if store.check([FAILURE]) else None
    if failure and failure["kind"] == "UserError":
        raise UserError(failure["text"])
    if signalled:  # what else they say is that they lost one another on the way out
        return
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            raise UserError(
                f"process {rank} of {len(codes)} was killed ({name}), perhaps for want of memory: lower "
                "--micro_batch_size or --world_size; the same command goes on from the last checkpoint"
            )
    if failure and failure["kind"] == "SystemExit":  # asked to stop by someone else, or nobody reads what it prints
        raise SystemExit(int(failure["text"]))
    if failure:
        raise RuntimeError(f"process {failure['rank']} of {len(codes)} failed\n\n{failure['text']}")
    if any(codes):
        raise SystemExit(max(code for code in codes if code is not None))


def _end_with_the_parent() -> None:
    """Its end of the pipe is closed when it is gone, in whatever way."""
    sys.stdin.read()
    os._exit(1)  # at once: nobody may be left who reads what would still be written


def _leave(code: int) -> NoReturn:
    """End without taking apart what may still wait for other processes."""
    with suppress(OSError):  # whoever read it may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
