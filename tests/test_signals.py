"""A request to stop: never lost, and never obeyed by one process alone."""

import os
import signal

import pytest

from llamita.train.signals import stop_request


class Agreement:
    """What `StopRequest.agree` asks of the processes, with something that happens while they exchange their numbers."""

    def __init__(self, meanwhile: int | None = None):
        self.meanwhile = meanwhile

    def max(self, value: float) -> float:
        if self.meanwhile:
            os.kill(os.getpid(), self.meanwhile)
        return value


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_the_processes_agree_is_obeyed_by_all_at_the_next_step(number):
    with stop_request() as stop:
        stop.agree(Agreement(meanwhile=number))
        assert not stop  # the others were told that nothing came
        stop.agree(Agreement())
        assert stop


def test_a_signal_that_comes_after_they_agreed_waits_for_the_next_time():
    with stop_request() as stop:
        stop.agree(Agreement())
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stop
        stop.agree(Agreement())
        assert stop
        with pytest.raises(SystemExit, match="143"):
            stop.obey()
