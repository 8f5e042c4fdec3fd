"""A hub on this machine: datasets in the layout of huggingface.co, files behind redirects to a second server.

It counts the bytes of the files that it sends, and fails as it is told to.
"""

import hashlib
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Dataset:
    """Path -> content; files of `small` are stored by git itself, not by LFS, and are sent without a redirect."""

    files: dict[str, bytes]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main",)
    licence: str = "cc0-1.0"
    small: tuple[str, ...] = ()
    gated: bool = False


Failure = Callable[["Handler", bytes], bytes | None]
"""Called in place of an answer, with the bytes requested -> the bytes to send, or None if it has answered itself."""


@dataclass
class Hub:
    """What is served, and what was asked."""

    datasets: dict[str, Dataset] = field(default_factory=dict)
    failures: deque[Failure] = field(default_factory=deque)
    refusals: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    sent: int = 0
    address: str = ""
    cdn: str = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None: ...

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, content: bytes, **headers: str) -> None:
        """The range that is asked for, or everything, unless a failure is due."""
        requested = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(requested[1]), int(requested[2]) + 1) if requested else (0, len(content))
        body: bytes | None = content[start:end]
        if self.hub.failures:
            body = self.hub.failures.popleft()(self, body)
        if body is None:
            return
        self.hub.sent += len(body)
        headers |= {"Content_Range": f"bytes {start}-{end - 1}/{len(content)}"} if requested else {}
        self.answer(206 if requested else 200, body, **headers)


class HubHandler(Handler):
    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        self.hub.tokens.append(self.headers.get("Authorization"))
        if self.hub.refusals:
            status, headers = self.hub.refusals.popleft()
            self.answer(status, **headers)
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/revision/(.+)", path):
            self.describe(*match.groups())
        elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*match.groups())
        else:
            self.answer(404)

    def dataset(self, repository: str, revision: str) -> Dataset | None:
        if (dataset := self.hub.datasets.get(repository)) is None:
            self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif revision not in (dataset.commit, *dataset.revisions):
            self.answer(404, X_Error_Code="RevisionNotFound")
            return None
        return dataset

    def describe(self, repository: str, revision: str) -> None:
        if dataset := self.dataset(repository, revision):
            siblings = [sibling(name, content, name in dataset.small) for name, content in dataset.files.items()]
            card = {"license": dataset.licence}
            info = {"id": repository, "sha": dataset.commit, "cardData": card, "siblings": siblings, "tags": []}
            self.answer(200, json.dumps(info).encode(), Content_Type="application/json")

    def resolve(self, repository: str, revision: str, name: str) -> None:
        if not (dataset := self.dataset(repository, revision)):
            return
        if dataset.gated:
            self.answer(403, X_Error_Code="GatedRepo")
        elif (content := dataset.files.get(name)) is None:
            self.answer(404, X_Error_Code="EntryNotFound")
        elif name in dataset.small:
            self.send_file(content, ETag=f'"{git_sha1(content)}"', X_Repo_Commit=dataset.commit)
        else:
            digest = hashlib.sha256(content).hexdigest()
            linked = {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(len(content))}
            location = f"{self.hub.cdn}/{repository}/{name}"
            self.answer(302, Location=location, X_Repo_Commit=dataset.commit, **linked)


class CdnHandler(Handler):
    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"cdn:{path}")
        assert "Authorization" not in self.headers  # a token must not leave the hub
        owner, name, file = path.removeprefix("/").split("/", 2)
        self.send_file(self.hub.datasets[f"{owner}/{name}"].files[file])


def sibling(name: str, content: bytes, is_small: bool) -> dict:
    sha256 = hashlib.sha256(content).hexdigest()
    lfs = {} if is_small else {"lfs": {"sha256": sha256, "size": len(content), "pointerSize": 130}}
    return {"rfilename": name, "size": len(content), "blobId": git_sha1(content), **lfs}


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve(datasets: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with these datasets, on two ports of 127.0.0.1, which is the hub for this test; nobody waits in it."""
    hub = Hub(datasets)
    monkeypatch.setattr("llamita.corpus.web.sleep", hub.waits.append)
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._fetch_registry", lambda: None)  # asks the real hub
    servers = []
    for kind in (HubHandler, CdnHandler):
        handler = type(kind.__name__, (kind,), {"hub": hub})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
    hub.address, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


# Failures


def refuse(status: int, **headers: str) -> Failure:
    """Answer with an error."""

    def fail(handler: Handler, _: bytes) -> None:
        handler.answer(status, **headers)

    return fail


def cut_after(count: int) -> Failure:
    """Announce everything, send `count` bytes, and close the connection."""

    def fail(handler: Handler, body: bytes) -> None:
        handler.hub.sent += count
        handler.send_response(206)
        start = int(re.findall(r"\d+", handler.headers["Range"])[0])
        path = urlsplit(handler.path).path.removeprefix("/").split("/", 2)
        total = len(handler.hub.datasets["/".join(path[:2])].files[unquote(path[2])])
        handler.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{total}")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:count])
        handler.close_connection = True

    return fail


def corrupt(_: Handler, body: bytes) -> bytes:
    """Change one bit on the way."""
    return bytes([body[0] ^ 1]) + body[1:]


def ignore_range(handler: Handler, _: bytes) -> None:
    """Answer with the whole file, as servers without ranges do."""
    owner, name, file = unquote(urlsplit(handler.path).path).removeprefix("/").split("/", 2)
    handler.answer(200, handler.hub.datasets[f"{owner}/{name}"].files[file])


def truncate(handler: Handler, _: bytes) -> None:
    """Answer as if the file ended after 10 bytes."""
    handler.answer(206, b"0123456789", Content_Range="bytes 0-9/10")
