"""Launch the processes of a run on this machine, as torchrun would, and make sure that they end together."""

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

from llamita.errors import DivergenceError, UserError
from llamita.parallel.processes import FAILURE, FIRST_ATTEMPT, is_main_process, rendezvous_store, report_failure

POLL_SECONDS = 0.05  # between checks whether all processes are alive
GRACE_SECONDS = 3.0  # for the other processes to exit by themselves after one has failed
USER_ERRORS = {"UserError": UserError, "DivergenceError": DivergenceError}
RESULT = "llamita/result"  # key in the store: what the main process returned


def launch(
    module: str, task: Mapping[str, Any], world_size: int, received_signal: Callable[[], int | None]
) -> str | None:
    """Run `python -m module` in `world_size` processes, each of which reads `task` -> the result of the main one.

    The module calls `run_worker`. A signal number from `received_signal` is forwarded to all of them, once; the result
    is None if they stopped because of it. If one fails, the others are terminated and its `UserError` is raised here,
    or, for a bug, a `RuntimeError` with its traceback. No process outlives this one, however this one ends.
    """
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = PrefixStore(FIRST_ATTEMPT, server)
    processes = [_start(module, task, rank, world_size, server.port) for rank in range(world_size)]
    try:
        signalled = _wait(processes, received_signal)
        _raise_failure(processes, store, signalled)
        return store.get(RESULT).decode() if store.check([RESULT]) else None
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_worker(work: Callable[[Mapping[str, Any]], str]) -> NoReturn:
    """The main function of a process started by `launch`: read the task, do it, return the result, exit."""
    task = json.loads(sys.stdin.buffer.readline())  # UTF-8, whatever PYTHONIOENCODING says
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        result = work(task)
        if is_main_process():
            rendezvous_store().set(RESULT, result)
    except KeyboardInterrupt:
        _exit(128 + signal.SIGINT)
    except SystemExit as stop:
        _exit(stop.code if isinstance(stop.code, int) else 1)
    except Exception as error:
        report_failure(rendezvous_store(), error)  # which the parent raises
        _exit(1)
    _exit(0)


def _start(module: str, task: Mapping[str, Any], rank: int, world_size: int, port: int) -> "subprocess.Popen[str]":
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    environment = {**os.environ, **{name: str(value) for name, value in {**ranks, **rendezvous}.items()}}
    command = [sys.executable, "-m", module]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, env=environment, encoding="utf-8", **_own_process_group()
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has exited already, which `_wait` will notice
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
    return process


def _own_process_group() -> dict[str, Any]:
    """Options of `Popen` with which Ctrl-C in a terminal reaches only the parent, which forwards it."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # pyright: ignore[reportAttributeAccessIssue]
    return {"process_group": 0}


def _signal(process: "subprocess.Popen[str]", number: int) -> None:
    """Send a signal; Windows can interrupt another process group only with Ctrl-Break."""
    process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", number))


def _wait(processes: "list[subprocess.Popen[str]]", received_signal: Callable[[], int | None]) -> bool:
    """Wait until all processes have ended, or `GRACE_SECONDS` after one failed -> whether a signal was forwarded."""
    signalled, deadline = False, math.inf
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        number = received_signal()
        if number is not None and not signalled:
            signalled = True
            for process in processes:
                _signal(process, number)
        if deadline == math.inf and any(process.poll() for process in processes):
            deadline = time.monotonic() + GRACE_SECONDS
        time.sleep(POLL_SECONDS)
    return signalled


def _raise_failure(processes: "list[subprocess.Popen[str]]", store: Store, signalled: bool) -> None:
    codes = [process.poll() for process in processes]
    failure = json.loads(store.get(FAILURE)) if store.check([FAILURE]) else None
    if failure and failure["kind"] in USER_ERRORS:
        raise USER_ERRORS[failure["kind"]](failure["text"])
    if signalled:  # other errors are of processes that lost their peers while stopping
        return
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            raise UserError(
                f"process {rank} of {len(codes)} was killed ({name}), perhaps because memory ran out: lower "
                "--micro_batch_size or --world_size; the same command resumes from the last checkpoint"
            )
    if failure and failure["kind"] == "SystemExit":  # it received a signal itself, or its output was closed
        raise SystemExit(int(failure["text"]))
    if failure:
        raise RuntimeError(f"process {failure['rank']} of {len(codes)} failed\n\n{failure['text']}")
    if any(codes):
        raise SystemExit(max(code for code in codes if code is not None))


def _exit_with_parent() -> None:
    """Exit when the parent does: its end of the pipe is closed then, whatever the reason."""
    sys.stdin.buffer.read()
    os._exit(1)  # without flushing: there may be no reader left


def _exit(code: int) -> NoReturn:
    """Exit without destroying the process group, which may still wait for other processes."""
    with suppress(OSError):  # the reader may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
