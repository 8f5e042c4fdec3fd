"""A request to stop: never lost, never obeyed by one process alone, and never made of a signal that is ignored."""

import importlib.util
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llamita.train import signals
from llamita.train.signals import stop_request

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class Agreement:
    """What `StopRequest.agree` asks of the processes, with something that happens while they exchange their numbers."""

    def __init__(self, meanwhile: int | None = None):
        self.meanwhile = meanwhile

    def max(self, value: float) -> float:
        if self.meanwhile:
            os.kill(os.getpid(), self.meanwhile)
        return value


@contextmanager
def handled_by(number: int, handler: signal.Handlers) -> Iterator[None]:
    """Within the block, this process has another handler of a signal."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_that_comes_while_the_processes_agree_is_obeyed_by_all_at_the_next_step(number):
    with stop_request() as stop:
        stop.agree(Agreement(meanwhile=number))
        assert not stop  # the others were told that nothing came
        stop.agree(Agreement())
        assert stop


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_comes_after_they_agreed_waits_for_the_next_time(number, code):
    with stop_request() as stop:
        stop.agree(Agreement())
        os.kill(os.getpid(), number)
        assert not stop
        stop.agree(Agreement())
        assert stop
        with pytest.raises(SystemExit, match=str(code)):
            stop.obey()


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_that_was_inherited_as_ignored_stays_ignored(number):
    with handled_by(number, signal.SIG_IGN):
        with stop_request() as stop:
            os.kill(os.getpid(), number)
            stop.agree(Agreement())
            assert not stop
            assert stop.received is None
        assert signal.getsignal(number) == signal.SIG_IGN


def test_where_ctrl_c_is_ignored_another_signal_still_stops_and_leaves_it_ignored():
    with handled_by(signal.SIGINT, signal.SIG_IGN), stop_request() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.parametrize("number", STOPS)
def test_a_second_ctrl_c_interrupts_immediately_after_any_first_signal(number):
    with handled_by(signal.SIGINT, signal.default_int_handler), stop_request():
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in STOPS]
    with stop_request():
        assert all(callable(signal.getsignal(number)) for number in STOPS)
    assert [signal.getsignal(number) for number in STOPS] == before


def test_signals_that_the_system_does_not_have_are_skipped(monkeypatch):
    """Windows has no SIGHUP, and SIGBREAK besides."""
    monkeypatch.delattr(signal, "SIGHUP")
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    spec = importlib.util.spec_from_file_location("signals_of_windows", signals.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.STOP_SIGNALS == (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    with module.stop_request() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        stop.agree(Agreement())
        with pytest.raises(KeyboardInterrupt):
            stop.obey()
