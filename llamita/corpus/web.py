"""Requests to the hub: retried while that may help, and otherwise explained in one line."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from llamita.errors import UserError

if TYPE_CHECKING:  # 0.3 s to import, which most commands do not need
    from httpx2 import Response

ATTEMPTS = 5
"""Failures in a row, without a byte in between, after which a download is given up."""
ATTEMPTS_TO_CONNECT = 2
"""The same where no server has answered yet: then there is probably no network."""
FIRST_WAIT = 1.0  # seconds; doubled after each failure
SILENT_WAIT = 5.0
"""Seconds of waiting that need no explanation."""
LONGEST_WAIT = 120.0
"""Seconds that a server may ask to wait (Retry-After); for longer waits, the user is asked to come back."""
TIMEOUT = 30.0  # seconds without a byte
RETRIED = (408, 429, 500, 502, 503, 504)
WITHOUT_NETWORK = "without a network, train on --data stories or on local files"

sleep = time.sleep  # the tests do not wait


class EndedEarlyError(Exception):
    """A server sent less than it announced."""


class Retries:
    """Decides after a failed request for `what`: wait and return, or raise `UserError`."""

    def __init__(self, what: str):
        self._what, self._failures, self._answered = what, 0, False

    def succeeded(self) -> None:
        """Something arrived: failures are counted from zero again."""
        self._failures, self._answered = 0, True

    def wait(self, error: Exception) -> None:
        """Wait as long as the server asks, or longer after each failure; raise `UserError` where that is no use."""
        self._failures += 1
        seconds = FIRST_WAIT * 2 ** (self._failures - 1)
        if (response := getattr(error, "response", None)) is not None:
            self._answered = True
            if response.status_code not in RETRIED or retry_after(response) > LONGEST_WAIT:
                explain(error, self._what)
            seconds = max(retry_after(response), seconds)
        if self._failures >= (ATTEMPTS if self._answered else ATTEMPTS_TO_CONNECT) or _is_offline(error):
            explain(error, self._what)
        if seconds > SILENT_WAIT:
            print(f"{self._what}: the server is busy; trying again in {seconds:.0f} seconds", file=sys.stderr)
        sleep(seconds)


def transient_errors() -> tuple[type[Exception], ...]:
    """What a request raises that may succeed when it is repeated, or has to be explained."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    return httpx2.TransportError, HfHubHTTPError, OfflineModeIsEnabled, EndedEarlyError


@contextmanager
def get(url: str, start: int, end: int, *, trusted: bool) -> Iterator["Response"]:
    """The answer to a request for the bytes from `start` to `end` (exclusive) of what is at `url`.

    Redirects are followed. `trusted`: the user's token for the hub is sent along; not to other hosts, also not after a
    redirect. Raises what `transient_errors` lists.
    """
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    headers = build_hf_headers(token=None if trusted else False)
    headers |= {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
        hf_raise_for_status(response)
        yield response


def retry_after(response: "Response") -> float:
    """The seconds in the header Retry-After; 0 where there is none, or a date."""
    value = response.headers.get("Retry-After", "").strip()
    return float(value) if value.isdecimal() else 0.0


def explain(error: Exception, what: str) -> NoReturn:
    """Raise the `UserError` for a request for `what` that failed for good."""
    raise UserError(f"{what}: {_reason(error)}") from error


def _is_offline(error: Exception) -> bool:
    """Whether the user, by HF_HUB_OFFLINE, has forbidden to ask."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled)


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has no such revision, or no longer; name another with --data_revision, such as main"
    if isinstance(error, errors.GatedRepoError):
        return "gated: accept its conditions on its page of the hub, then log in with `hf auth login`"
    if isinstance(error, errors.EntryNotFoundError):
        return "the hub has no such file in this revision; check the name, or give another --data_revision"
    if _is_offline(error):
        return f"not in the cache, and HF_HUB_OFFLINE forbids to fetch it; {WITHOUT_NETWORK}"
    if isinstance(error, EndedEarlyError):
        return f"the connection ended early, {ATTEMPTS} times; the same command continues from here"
    if (response := getattr(error, "response", None)) is not None:
        return _reason_of_status(response)
    return f"cannot be fetched ({one_line(error)}); the same command tries again; {WITHOUT_NETWORK}"


def _reason_of_status(response: "Response") -> str:
    status = response.status_code
    if status in (401, 403):
        return "the hub refuses access; check the name, and for a private dataset log in with `hf auth login`"
    if status == 404:
        return "the hub has no such dataset; check the name, OWNER/NAME"
    if status == 429:
        seconds = retry_after(response)
        when = f"in {seconds:,.0f} seconds" if seconds else "later"
        return f"the hub allows no more requests for now; try again {when}: the same command continues from here"
    return f"the server answers {status}; try again later, the same command continues from here"


def one_line(error: Exception) -> str:
    """The message of an error in one line; its class where it has none."""
    return " ".join(f"{error}".split()) or type(error).__name__
