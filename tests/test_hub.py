"""Fetching from the hub: only the bytes that are read, resumed, verified; and each failure in one line."""

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import COMMIT, Dataset, Hub, corrupt, cut_after, ignore_range, refuse, serve, truncate
from hypothesis import given
from hypothesis import strategies as st
from runs import cache as cache

from llamita.config import DataConfig
from llamita.corpus import open_source
from llamita.corpus.ranges import Ranges
from llamita.corpus.remote import BLOCK
from llamita.errors import UserError

STORIES = [f"Once upon a time there were {number} llamas.\nThey were happy.\n" for number in range(60_000)]
TEXT = "<|endoftext|>\n".join(STORIES).encode()
DATASET = "owner/tales"


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    dataset = Dataset({"data/train.txt": TEXT, "README.md": b"# Tales"}, small=("README.md",))
    with serve({DATASET: dataset}, monkeypatch) as hub:
        yield hub


def documents(data: str = f"hf:{DATASET}", **options) -> list[str]:
    return list(open_source(DataConfig(data=(data,), **options), seed=0).training.documents())


def refused(match: str, data: str = f"hf:{DATASET}", **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        documents(data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cached(cache: Path) -> Path:
    return cache / "hub" / "owner--tales" / COMMIT / "data" / "train.txt"


# What is fetched


def test_a_dataset_is_fetched_once_and_then_read_without_the_hub(hub, cache, capsys):
    assert documents() == STORIES
    assert hub.sent == len(TEXT)
    assert cached(cache).read_bytes() == TEXT
    said = capsys.readouterr().err
    assert said.startswith(f"hf:{DATASET}: {len(TEXT) / 1e6:.1f} MB in 1 file of 127.0.0.1")
    assert "at 0123456; licence: cc0-1.0" in said
    asked = len(hub.asked)
    assert documents() == STORIES
    assert (len(hub.asked), capsys.readouterr().err) == (asked, "")


def test_a_limit_fetches_no_more_bytes_than_it_needs(hub, capsys):
    assert documents(max_documents=10_000) == STORIES[:10_000]
    needed = sum(len(story) for story in STORIES[:10_000])
    assert hub.sent <= needed * 1.25 + BLOCK < len(TEXT) / 3
    assert "fetching as much of it as the first 10,000 documents need" in capsys.readouterr().err
    sent = hub.sent
    assert documents(max_documents=9_000) == STORIES[:9_000]
    assert hub.sent == sent
    assert documents() == STORIES
    assert hub.sent == len(TEXT)  # the rest, and nothing twice


def test_reading_can_be_left_at_any_time(hub):
    corpus = open_source(DataConfig(data=(f"hf:{DATASET}",), max_corpus_tokens=1000), seed=0).training
    pieces = corpus.pieces()
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert hub.sent == BLOCK


def test_progress_counts_bytes_to_the_end(hub):
    told: list[tuple[str, int, int]] = []
    source = open_source(DataConfig(data=(f"hf:{DATASET}",)), seed=0, progress=lambda *row: told.append(row))
    next(source.training.pieces())
    assert {(label, total) for label, _, total in told} == {(f"downloading hf:{DATASET}", len(TEXT))}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == len(TEXT)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "tales.txt.gz"])
def test_other_formats_are_read_as_local_files_are(hub, tmp_path, name):
    lines = b"".join(json.dumps({"story": story}).encode() + b"\n" for story in STORIES[:300])
    content = lines if "jsonl" in name else TEXT[:20_000]
    content = gzip.compress(content) if name.endswith(".gz") else content
    hub.datasets[DATASET] = Dataset({name: content})
    (tmp_path / name).write_bytes(content)
    local = documents(str(tmp_path / name), text_field="story")
    assert documents(text_field="story") == local
    assert len(local) > 200


def test_the_token_of_the_user_goes_to_the_hub_and_nowhere_else(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: "hf_secret")
    documents(max_documents=1)  # the second server checks that it gets none
    assert hub.tokens[-1] == "Bearer hf_secret"


def test_a_branch_stays_where_it_was_when_it_was_fetched_first(hub):
    before = open_source(DataConfig(data=(f"hf:{DATASET}",)), 0).training
    documents(max_documents=1)
    hub.datasets[DATASET] = Dataset({"data/train.txt": b"new"}, commit="f" * 40)
    after = open_source(DataConfig(data=(f"hf:{DATASET}",)), 0).training
    assert after.fingerprint() == before.fingerprint()
    assert documents(max_documents=1) == STORIES[:1]
    assert documents(data_revision="f" * 40) == ["new"]


# Which files


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        (["a-train.txt", "a-valid.txt", "README.md"], "", ["a-train.txt"]),
        (["data/train-0.txt", "data/train-1.txt", "data/test-0.txt"], "", ["data/train-0.txt", "data/train-1.txt"]),
        (["train/0.txt", "validation/0.txt"], "", ["train/0.txt"]),
        (["a.txt", "b.txt", "test.txt"], "", ["a.txt", "b.txt"]),
        (["a.txt", "a.jsonl"], "", ["a.jsonl"]),
        (["x/0.txt", "y/0.txt"], "y", ["y/0.txt"]),
        (["x/0.txt", "y/0.txt"], "*", ["x/0.txt", "y/0.txt"]),
        (["x/train-0.txt", "x/test-0.txt"], "x/test-*", ["x/test-0.txt"]),
        (["x/train-0.txt", "x/test-0.txt"], "x/test-0.txt", ["x/test-0.txt"]),
    ],
)
def test_the_files_of_the_train_split_are_found(hub, names, files, expected):
    hub.datasets[DATASET] = Dataset({name: json.dumps({"text": name}).encode() for name in names})
    found = documents(f"hf:{DATASET}/{files}" if files else f"hf:{DATASET}")
    assert found == [json.dumps({"text": name}) if name.endswith(".txt") else name for name in expected]


def test_subsets_have_to_be_chosen(hub):
    hub.datasets[DATASET] = Dataset({"x/train.txt": b"x", "y/train.txt": b"y"})
    assert f"hf:{DATASET}/x" in refused("files in 2 folders, such as x, y; name one")


def test_a_path_that_leads_out_of_the_cache_is_never_written(hub, tmp_path):
    hub.datasets[DATASET] = Dataset({"../../../../train.txt": b"out", "train.txt": b"in"})
    assert documents() == ["in"]
    assert not list(tmp_path.glob("*.txt"))


# Failures


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_server_that_fails_for_a_while_is_asked_again(hub, status):
    hub.failures.extend([refuse(status)] * 3)
    assert documents() == STORIES
    assert hub.waits == [1, 2, 4]


def test_a_server_that_fails_for_good_is_given_up(hub):
    hub.failures.extend([refuse(503)] * 9)
    refused("hf:owner/tales/data/train.txt: the server answers 503; try again later")
    assert len(hub.waits) == 4


def test_retry_after_is_waited_for(hub, capsys):
    hub.failures.append(refuse(429, Retry_After="17"))
    hub.refusals.append((429, {"Retry_After": "20"}))
    assert documents() == STORIES
    assert hub.waits == [20, 17]
    assert "data/train.txt: the server is busy; trying again in 17 seconds\n" in capsys.readouterr().err


def test_a_long_retry_after_is_passed_on_to_the_user(hub):
    hub.failures.append(refuse(429, Retry_After="3600"))
    refused("allows no more requests for now; try again in 3,600 seconds: the same command continues")
    assert hub.waits == []


def test_a_connection_that_breaks_is_continued_where_it_was(hub):
    hub.failures.extend([cut_after(100_000), cut_after(50_000)])
    assert documents() == STORIES
    assert hub.sent == len(TEXT)


def test_an_interrupted_download_is_continued_by_the_next_command(hub, cache):
    hub.failures.extend([cut_after(1_000_000), *[refuse(503)] * 9])
    refused("the server answers 503")
    assert hub.sent == 1_000_000
    hub.failures.clear()
    assert documents() == STORIES
    assert hub.sent == len(TEXT)
    assert cached(cache).read_bytes() == TEXT


def test_ctrl_c_keeps_what_has_arrived(hub):
    def interrupt(_label: str, done: int, _total: int) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt

    source = open_source(DataConfig(data=(f"hf:{DATASET}",)), seed=0, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(source.training.pieces())
    before, hub.sent = hub.sent, 0
    assert documents() == STORIES
    assert hub.sent < len(TEXT) - 1_000_000 < before


def test_what_a_killed_process_left_unfinished_is_fetched_again(hub, cache):
    documents(max_documents=1)
    with (log := Path(f"{cached(cache)}.ranges")).open("a", encoding="utf-8") as stream:
        stream.write("262144 4")  # without the end of the line
    assert documents() == STORIES
    assert log.read_text(encoding="utf-8").endswith("verified\n")


def test_a_file_of_the_cache_that_was_cut_short_is_fetched_again(hub, cache):
    documents()
    with cached(cache).open("r+b") as stream:
        stream.truncate(len(TEXT) - 1000)
    assert documents() == STORIES
    assert hub.sent == 2 * len(TEXT)
    assert cached(cache).read_bytes() == TEXT


def test_a_corrupted_file_is_refused_deleted_and_fetched_again(hub, cache):
    hub.failures.append(corrupt)
    digest = hashlib.sha256(TEXT).hexdigest()
    assert f"not {digest[:9]}…; it was deleted from the cache" in refused("not what was published, its checksum is")
    assert not cached(cache).exists()
    assert documents() == STORIES


def test_a_corrupted_small_file_is_refused_too(hub):
    hub.datasets[DATASET] = Dataset({"train.txt": b"words"}, small=("train.txt",))
    hub.failures.append(corrupt)
    refused("not what was published")
    assert documents() == ["words"]


def test_a_truncated_file_is_refused(hub):
    hub.failures.append(truncate)
    refused(f"10 bytes on the server, but {len(TEXT):,} were published: truncated or replaced")


def test_a_server_without_ranges_is_read_from_the_beginning(hub):
    documents(max_documents=1)
    hub.failures.append(ignore_range)
    assert documents() == STORIES


def test_a_missing_revision_names_the_flag(hub):
    refused("no such revision, or no longer; name another with --data_revision", data_revision="v9")


def test_a_missing_dataset_a_missing_file_and_a_gated_one_are_told_apart(hub):
    refused("hf:owner/none, revision main: the hub refuses access; check the name", "hf:owner/none")
    refused("no .parquet, .jsonl or .txt files none.txt in revision main", f"hf:{DATASET}/none.txt")
    hub.datasets[DATASET].gated = True
    refused("gated: accept its conditions on its page of the hub, then log in with `hf auth login`")


def test_a_file_that_is_gone_is_named(hub):
    listed = open_source(DataConfig(data=(f"hf:{DATASET}",)), 0).training
    assert listed.fingerprint()
    del hub.datasets[DATASET].files["data/train.txt"]
    refused("data/train.txt: the hub has no such file in this revision")


def test_without_a_network_the_message_names_what_works(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = refused("cannot be fetched")
    assert "without a network, train on --data stories or on local files" in message
    assert hub.waits == [1]


def test_offline_mode_is_respected(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    refused("HF_HUB_OFFLINE forbids to fetch it; without a network, train on --data stories")
    assert (hub.asked, hub.waits) == ([], [])


@pytest.mark.parametrize("name", ["hf:", "hf:tales", "hf:/tales", "hf:owner/"])
def test_a_name_without_owner_or_dataset_is_refused(name):
    refused("write hf:OWNER/NAME", name)


def test_a_cache_that_cannot_be_made_is_one_line(hub, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    refused("cannot be made", cache_dir=str(tmp_path / "file"))


def test_an_answer_that_is_no_hubs_is_one_line(hub):
    hub.refusals.append((200, {}))
    refused("hf:owner/tales: the answer is not that of a hub")
    refused("hf:owner/tales.git: the answer is not that of a hub", "hf:owner/tales.git")


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_fetched(hub, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    refused(r"4.4 MB to fetch, but .* has only 1.0 MB free; choose another cache, LLAMITA_CACHE, or fetch less")
    assert hub.sent == 0
    assert documents(max_documents=3) == STORIES[:3]


# Ranges


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))), st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_missing_ranges_are_those_that_were_never_added(tmp_path_factory, added, asked):
    file = tmp_path_factory.mktemp("ranges") / "file"
    file.write_bytes(bytes(40))
    ranges = Ranges(file)
    for start, end in added:
        ranges.add(start, end)
    expected = set(range(*asked)) - {byte for start, end in added for byte in range(start, end)}
    for again in (ranges, Ranges(file)):
        gaps = list(again.missing(*asked))
        assert {byte for gap in gaps for byte in range(*gap)} == expected
        assert gaps == sorted(gaps)
        assert all(start < end for start, end in gaps)
    os.remove(file)
    assert list(Ranges(file).missing(0, 3)) == [(0, 3)]
