"""Corpora by name: what each one's documents are, how much of it is fetched, and the commands that take the names."""

import builtins
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Dataset, Hub, corrupt, serve
from runs import TINY, command, flags, refusal, rows
from runs import cache as cache
from runs import text as text
from stand_ins import ARTICLES, parquet, serve_shakespeare, small_gpt2, stand_ins, texts

from llamita.config import DataConfig
from llamita.corpus import Source, TextFiles, open_source
from llamita.corpus.articles import articles
from llamita.corpus.catalog import CATALOG
from llamita.corpus.documents import join_documents
from llamita.errors import UserError


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    with serve(stand_ins(), monkeypatch) as hub:
        yield hub


def opened(name: str, **options) -> Source:
    return open_source(DataConfig(data=(name,), **options), seed=0)


def documents(name: str, **options) -> list[str]:
    return list(join_documents(opened(name, **options).training.pieces()))


def validation(name: str, **options) -> list[str]:
    source = opened(name, **options)
    assert source.validation
    return list(join_documents(source.validation.pieces()))


def refused(match: str, name: str, **options) -> None:
    with pytest.raises(UserError, match=match) as caught:
        documents(name, **options)
    assert "\n" not in str(caught.value)


# What a document is


def test_tinystories_has_stories_and_validation_stories(hub):
    assert documents("tinystories") == texts(2000)
    assert validation("tinystories") == texts(300, seed=1)


def test_a_limit_holds_for_the_validation_stories_too(hub):
    assert documents("tinystories", max_documents=95) == texts(2000)[:95]
    assert validation("tinystories", max_documents=95) == texts(300, seed=1)[:10]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("simplestories", [*texts(600), *texts(600, seed=1)]),
        ("openwebtext", [text for seed in range(3) for text in texts(1000, seed=seed)]),
        ("fineweb-edu", texts(500)),
    ],
)
def test_corpora_in_parquet_hold_out_every_200th_document(hub, name, expected):
    source = opened(name)
    assert list(join_documents(source.training.pieces())) == expected
    assert (source.validation, source.holdout_every) == (None, 200)


def test_wikitext_is_put_together_to_articles(hub):
    found = documents("wikitext-103")
    assert "".join(found) == "".join(ARTICLES).lstrip("\n")
    assert [document.strip() for document in found] == [article.strip() for article in ARTICLES]
    assert [document.strip() for document in validation("wikitext-103")] == [ARTICLES[0].strip()]


def test_only_a_title_after_a_blank_line_begins_an_article():
    lines = [" = One = \n", "\n", " = = Section = = \n", " = no title = \n", "", " = 2 = \n", " words \n"]
    assert list(join_documents(articles(lines))) == ["".join(lines[:5]), "".join(lines[5:])]
    assert list(articles(["\n", ""])) == []


def test_shakespeare_is_one_document_verified_by_its_hash(hub, monkeypatch):
    play = serve_shakespeare(monkeypatch, hub.cdn, hub.datasets)
    hub.failures.append(corrupt)
    refused("shakespeare: not what was published", "shakespeare")
    assert documents("shakespeare") == [play.decode()]
    source = opened("shakespeare")
    assert (source.validation, source.holdout_every) == (None, None)
    assert hub.tokens == []  # it is not on the hub


def test_every_corpus_has_a_pinned_place_and_a_licence():
    for corpus in CATALOG.values():
        assert corpus.licence
        assert corpus.summary
        if corpus.file:
            assert re.fullmatch("[0-9a-f]{64}", corpus.file.sha256)
        else:
            assert re.fullmatch("[0-9a-f]{40}", corpus.revision)


# Parquet


def test_of_parquet_only_the_row_groups_and_the_column_of_the_text_are_fetched(hub):
    content = parquet(texts(20_000), group=1000)
    hub.datasets["owner/rows"] = Dataset({"train.parquet": content}, revisions=("main",))
    assert documents("hf:owner/rows", max_documents=1500) == texts(20_000)[:1500]
    groups = pq.ParquetFile(pa.BufferReader(content)).metadata
    column = sum(groups.row_group(group).column(1).total_compressed_size for group in range(2))
    assert hub.sent <= column + 200_000 < len(content) / 2  # and the footer


def test_local_parquet_is_read_like_that_of_the_hub(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet(texts(250), "story", compression="zstd"))
    assert documents(str(tmp_path / "a.parquet"), text_field="story") == texts(250)
    by_field = {opened(str(tmp_path / "a.parquet"), text_field=f).training.fingerprint() for f in ("story", "url")}
    assert len(by_field) == 2


def test_rows_without_text_are_left_out(tmp_path):
    pq.write_table(pa.table({"text": ["a", None, " ", "b"]}), tmp_path / "a.parquet")
    assert documents(str(tmp_path / "a.parquet")) == ["a", "b"]
    pq.write_table(pa.table({"text": pa.array(["a", "b"], pa.large_string())}), tmp_path / "a.parquet")
    assert documents(str(tmp_path / "a.parquet")) == ["a", "b"]


def test_mistakes_with_parquet_are_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"story": ["a"], "number": [1]}), path)
    refused("no field 'text', only 'story', 'number'; name the text's with --text_field", str(path))
    refused("the field 'number' is of type int64", str(path), text_field="number")
    path.write_bytes(parquet(texts(500))[:-20])
    refused("a.parquet: not a readable Parquet file", str(path))
    damaged = bytearray(parquet(texts(500), compression="none", write_page_checksum=True))
    at = damaged.find(b"Story 250")
    path.write_bytes(damaged[:at] + b"Glory" + damaged[at + 5 :])
    refused("not a readable Parquet file.*fetch it again", str(path))


def test_without_pyarrow_the_extra_is_named(hub, monkeypatch):
    real = builtins.__import__

    def without_pyarrow(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    refused(r'Parquet files need pyarrow: pip install "llamita\[data\]"', "openwebtext", max_documents=1)
    assert hub.sent == 0


# Names


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("tinystory", "tinystories"),
        ("TinyStories", "tinystories"),
        ("tiny_stories", "tinystories"),
        ("wikitext", "wikitext-103"),
        ("fineweb", "fineweb-edu"),
        ("story", "stories"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong, meant):
    refused(f"{wrong}: no such file, and no corpus of that name; did you mean '{meant}'.*Corpora: stories, ", wrong)


def test_what_looks_like_a_path_is_a_missing_file():
    for name in ("tinystory.txt", "texts/tinystory", "./tinystory"):
        refused("no such file; check the path", name)


def test_a_corpus_must_be_named_alone(text):
    for name in ("tinystories", "hf:owner/tales", "stories"):
        with pytest.raises(UserError, match="must be named alone"):
            open_source(DataConfig(data=(str(text), name)), seed=0)


def test_a_local_file_of_the_name_wins_with_a_note(hub, tmp_path):
    (tmp_path / "tinystories").mkdir()
    (tmp_path / "tinystories" / "a.txt").write_text("mine", encoding="utf-8")
    source = opened("tinystories")
    assert isinstance(source.training, TextFiles)
    assert list(join_documents(source.training.pieces())) == ["mine"]
    assert "the local file or folder of that name" in source.notes()[0]
    assert hub.asked == []


def test_other_validation_text_can_be_named(hub, text):
    source = opened("openwebtext", val_data=(str(text),))
    assert isinstance(source.validation, TextFiles)
    assert source.holdout_every is None


def test_a_revision_without_a_corpus_is_refused(text):
    refused("--data_revision is for corpora that are fetched by name", str(text), data_revision="main")


def test_a_corpus_without_revisions_takes_none():
    refused("--data_revision: shakespeare has only one", "shakespeare", data_revision="main")


def test_another_revision_or_limit_is_another_text(hub):
    prints = [
        opened(name, **options).training.fingerprint()
        for name, options in [
            ("tinystories", {}),
            ("tinystories", {"max_documents": 5}),
            ("tinystories", {"data_revision": "a" * 40}),
            ("openwebtext", {}),
            ("openwebtext", {"text_field": "url"}),
            ("wikitext-103", {}),
        ]
    ]
    assert len({*prints}) == len(prints)
    assert opened("tinystories").training.fingerprint() == prints[0]
    assert hub.asked == []  # nothing is asked and nothing is read for it


# Commands


def test_train_fetches_resumes_and_evaluates_without_the_hub(hub, capsys, monkeypatch, tmp_path):
    options = {"data": "tinystories", "max_documents": 100, "output_dir": "run"}
    assert command("train", *flags(**{**TINY, **options})) == 0
    printed = capsys.readouterr()
    assert "TinyStories at f54c09f; licence: CDLA-Sharing-1.0; fetching as much" in printed.err
    assert "the first 100 documents" in printed.out
    shutil.rmtree(tmp_path / "cache" / "hub")
    asked = len(hub.asked)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert command("train", *flags(**{**TINY, **options, "max_steps": 16, "extend": True})) == 0
    assert rows(tmp_path / "run")[-1]["step"] == 16
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "tinystories").mkdir()
    assert command("eval", "--checkpoint", tmp_path / "run") == 0
    assert len(hub.asked) == asked


def test_prepare_caps_tokens_without_fetching_the_rest(hub, capsys, tmp_path):
    hub.datasets[CATALOG["openwebtext"].repository].files |= {
        f"plain_text/train-0001{number}-of-00080.parquet": parquet(texts(1000, seed=number)) for number in range(9)
    }
    words = flags(data="openwebtext", vocab_size=300, max_corpus_tokens="20k", output_dir="tokens")
    assert command("prepare", *words) == 0
    manifest = json.loads((tmp_path / "tokens" / "manifest.json").read_text(encoding="utf-8"))
    assert sum(part["tokens"] for part in manifest["parts"].values()) == 20_000
    assert manifest["parts"]["val"]["tokens"] == 100  # every 200th document
    assert "20,000 tokens need" in capsys.readouterr().err
    files = hub.datasets[CATALOG["openwebtext"].repository].files
    assert hub.sent < sum(map(len, files.values())) / 3


def test_a_tokenizer_is_trained_on_a_corpus_by_name(hub, tmp_path):
    words = flags(data="simplestories", max_documents="1k", vocab_size=300, output_dir="bpe")
    assert command("tokenizer", "train", *words) == 0
    assert (tmp_path / "bpe" / "tokenizer.json").exists()


def test_commands_pass_the_message_on(hub, capsys):
    del hub.datasets[CATALOG["tinystories"].repository]
    words = flags(**{**TINY, "data": "tinystories"})
    assert "roneneldan/TinyStories, revision f54c09f" in refusal(capsys, "train", *words)
    assert not list(Path("cache").glob("*/manifest.json"))


def test_the_10m_preset_downloads_tokenizes_trains_and_resumes_by_itself(hub, cache, monkeypatch, capsys):
    small_gpt2(monkeypatch, cache)
    small = flags(num_layers=1, max_seq_len=32, batch_size=2, max_steps=2, sample_every=0, output_dir="run")
    assert command("train", "--preset", "tinystories-10m", *small) == 0
    assert "the first 10,000 documents" in capsys.readouterr().out
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert command("train", "--preset", "tinystories-10m", *small) == 0
    assert "already finished, at step 2" in capsys.readouterr().out
