"""`gpt2`: downloaded once, verified, and equal to tiktoken's. The downloads come from a server of the test's own."""

import hashlib
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest
import tiktoken
from runs import cache, command, refusal, text, train_words
from texts import development_text, nasty_strings, read_text
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT, BPETokenizer, load_tokenizer, train_bpe
from llamita.tokenizer import gpt2 as module
from llamita.tokenizer.hf_json import spell
from llamita.tokenizer.patterns import PUBLISHED

fixtures = (cache, text)


class Server:
    """Serves `files` on 127.0.0.1, and remembers what it was asked for."""

    def __init__(self, files: dict[str, bytes]):
        self.files, self.asked = files, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                content = server.files.get(self.path.removeprefix("/published/"))
                self.send_response(404 if content is None else 200)
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *args):
                pass

        self._http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/published/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def small_files() -> dict[str, bytes]:
    """A vocabulary of 300 in GPT-2's two files."""
    vocab, merges = train_bpe(["the llama and the other llama ate the grass " * 9], vocab_size=300)
    encoder = json.dumps({spell(token): token_id for token_id, token in vocab.items()})
    lines = [f"{spell(left)} {spell(right)}" for left, right in merges]
    return {"encoder.json": encoder.encode(), "vocab.bpe": "\n".join(["#version: 0.2", *lines, ""]).encode()}


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    served = Server(small_files())
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in served.files.items()}
    monkeypatch.setattr(module, "SHA256", hashes)
    monkeypatch.setattr(module, "PUBLISHED_AT", served.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield served
    served.close()


def refused(match: str) -> str:
    with pytest.raises(UserError, match=match) as caught:
        load_tokenizer("gpt2")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_files_are_downloaded_once_into_the_cache(server, cache):
    first = load_tokenizer("gpt2")
    assert load_tokenizer("gpt2").fingerprint == first.fingerprint
    assert server.asked == ["/published/encoder.json", "/published/vocab.bpe"]
    assert {path.name: path.read_bytes() for path in (cache / "gpt2").iterdir()} == server.files
    assert len(first.encode("llama")) == 1


def test_another_cache_can_be_named(server, tmp_path, cache):
    load_tokenizer("gpt2", tmp_path / "other")
    assert sorted(path.name for path in (tmp_path / "other" / "gpt2").iterdir()) == ["encoder.json", "vocab.bpe"]
    assert not cache.exists()


def test_a_download_that_was_not_published_is_refused_and_not_cached(server, cache):
    good = server.files["vocab.bpe"]
    server.files["vocab.bpe"] = good + b"q x\n"
    assert "vocab.bpe" in refused("its sha256 is .*by hand")
    assert [path.name for path in (cache / "gpt2").iterdir()] == ["encoder.json"]
    server.files["vocab.bpe"] = good  # the next attempt fetches what is missing, and only that
    load_tokenizer("gpt2")
    assert server.asked.count("/published/encoder.json") == 1


def test_a_damaged_file_in_the_cache_is_refused(server, cache):
    load_tokenizer("gpt2")
    (cache / "gpt2" / "encoder.json").write_bytes(b"{}")
    assert str(cache / "gpt2" / "encoder.json") in refused("delete it, and it is fetched again")
    (cache / "gpt2" / "encoder.json").unlink()
    load_tokenizer("gpt2")


def test_a_server_without_the_file_is_one_line(server, cache):
    del server.files["encoder.json"]
    assert server.url in refused("can't be downloaded .Not Found.")
    assert not cache.exists()


def test_a_server_that_answers_in_several_lines_is_one_line(server, cache, monkeypatch):
    reason = URLError("it went\nround in\n circles\n")

    def urlopen(*args, **kwargs):
        raise reason

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert "(it went round in circles); try again" in refused("can't be downloaded")


def test_without_a_network_it_says_where_to_put_the_files_by_hand(cache, capsys, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"  # where nobody listens
        monkeypatch.setattr(module, "PUBLISHED_AT", url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        line = refused("can't be downloaded .*refused")
        assert f"put encoder.json and vocab.bpe from {url} into {cache / 'gpt2'} by hand" in line
        for words in (["tokenizer", "encode", "x"], ["prepare"], ["train"]):
            assert "by hand" in refusal(capsys, *words, "--tokenizer", "gpt2")


@pytest.mark.parametrize("names", module.NAMES)
def test_files_put_there_by_hand_are_used_under_either_name(server, cache, names):
    (cache / "gpt2").mkdir(parents=True)
    for name, content in zip(names, server.files.values(), strict=True):
        (cache / "gpt2" / name).write_bytes(content)
    assert len(load_tokenizer("gpt2").encode("llama")) == 1
    assert server.asked == []
    assert load_tokenizer(cache / "gpt2").fingerprint == load_tokenizer("gpt2").fingerprint


def test_a_cache_that_cannot_be_written_is_one_line(server, cache):
    cache.write_text("mine")
    refused("can't be written")
    assert cache.read_text() == "mine"


# --- the published files ---


@pytest.fixture
def published(cache) -> Path:
    """GPT-2's own files in the cache, under the names they were published with."""
    source = development_text("gpt2")
    (cache / "gpt2").mkdir(parents=True)
    shutil.copy(source / "vocab.json", cache / "gpt2" / "encoder.json")
    shutil.copy(source / "merges.txt", cache / "gpt2" / "vocab.bpe")
    return cache / "gpt2"


def tiktoken_gpt2(folder: Path) -> tiktoken.Encoding:
    """tiktoken's GPT-2, from local files."""
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    return tiktoken.Encoding(
        "gpt2", pat_str=PUBLISHED["gpt2"], mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 50256}
    )


def test_gpt2_by_name_gives_the_ids_of_tiktoken(published, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # no copies of its own
    ours, theirs = load_tokenizer("gpt2"), tiktoken_gpt2(published)
    assert isinstance(ours, BPETokenizer)
    assert (ours.vocab_size, ours.end_id) == (50257, 50256)
    texts = [read_text("tinyshakespeare.txt"), read_text("fairytales.txt")[:2_000_000], *nasty_strings(3_000, seed=41)]
    for content in texts:
        assert ours.encode(content) == theirs.encode(content, allowed_special="all")


def test_a_run_and_every_command_take_gpt2(published, text, tmp_path, capsys):
    assert command("prepare", "--data", text, "--tokenizer", "gpt2") == 0
    assert "50,257 tokens" in capsys.readouterr().out
    run = tmp_path / "run"
    assert command(*train_words(text, run, tokenizer="gpt2", max_steps=2, eval_every=2, save_every=2)) == 0
    assert load_tokenizer(run).fingerprint == load_tokenizer("gpt2").fingerprint
    for words in (["eval", "--checkpoint", run], ["generate", "--checkpoint", run, "--max_tokens", "3", "The llama"]):
        assert command(*words) == 0
    capsys.readouterr()
    assert command("tokenizer", "encode", f"Hello world{END_OF_TEXT}", "--tokenizer", "gpt2") == 0
    assert capsys.readouterr().out.startswith("15496 995 50256\n")
    assert command("tokenizer", "decode", "15496", "995", "--tokenizer", "gpt2") == 0
    assert capsys.readouterr().out == "Hello world\n"
