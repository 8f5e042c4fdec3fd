"""Stand-ins for the corpora of the catalog: small files of the same names, with the same fields, for the test hub."""

import hashlib
import io
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Dataset, Hub, serve
from runs import WORDS

from llamita.corpus.catalog import CATALOG
from llamita.tokenizer import gpt2, train_bpe
from llamita.tokenizer.hf_json import spell

ARTICLES = [
    f"\n = Llama {number} = \n\n Llamas , such as number {number} , eat grass . \n\n = = History = = \n\n"
    f" = not a title = , in 19{number:02} \n In a line : \n = = = Wool = = = \n Soft . \n"
    for number in range(30)
]


def texts(count: int, seed: int = 0) -> list[str]:
    """Sentences, all different."""
    rng = random.Random(seed)
    return [f"Story {number}: {' '.join(rng.choices(WORDS, k=40))}.\n" for number in range(count)]


def parquet(rows: list[str], field: str = "text", group: int = 100, **options) -> bytes:
    """A Parquet file with a column of text beside another one, in row groups."""
    stream = io.BytesIO()
    table = pa.table({"url": [f"http://example.org/{'x' * 300}/{i}" for i in range(len(rows))], field: rows})
    pq.write_table(table, stream, row_group_size=group, **options)
    return stream.getvalue()


def stand_ins() -> dict[str, Dataset]:
    """Every dataset of the catalog, at its pinned commit."""
    lines = [line for article in ARTICLES for line in article.splitlines(keepends=True)]
    files = {
        "tinystories": {
            "TinyStoriesV2-GPT4-train.txt": "<|endoftext|>\n".join(texts(2000)).encode(),
            "TinyStoriesV2-GPT4-valid.txt": "<|endoftext|>\n".join(texts(300, seed=1)).encode(),
            "TinyStories-train.txt": b"the first version",
        },
        "simplestories": {
            "data/train-00000-of-00002.parquet": parquet(texts(600), "story"),
            "data/train-00001-of-00002.parquet": parquet(texts(600, seed=1), "story"),
            "data/test-00000-of-00001.parquet": parquet(["a test"], "story"),
        },
        "openwebtext": {
            f"plain_text/train-0000{number}-of-00080.parquet": parquet(texts(1000, seed=number)) for number in range(3)
        },
        "fineweb-edu": {
            "sample/10BT/000_00000.parquet": parquet(texts(500)),
            "sample/100BT/000_00000.parquet": parquet(["another sample"]),
            "data/CC-MAIN-2013-20/train-00000-of-00014.parquet": parquet(["all of it"]),
        },
        "wikitext-103": {
            "wikitext-103-raw-v1/train-00000-of-00002.parquet": parquet(lines[:100]),
            "wikitext-103-raw-v1/train-00001-of-00002.parquet": parquet(lines[100:]),
            "wikitext-103-raw-v1/validation-00000-of-00001.parquet": parquet(ARTICLES[0].splitlines(keepends=True)),
            "wikitext-103-raw-v1/test-00000-of-00001.parquet": parquet(["test"]),
            "wikitext-2-raw-v1/train-00000-of-00001.parquet": parquet(["another size"]),
        },
    }
    return {CATALOG[name].repository: Dataset(held, commit=CATALOG[name].revision) for name, held in files.items()}


@contextmanager
def serve_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with stand-ins for every corpus of the catalog."""
    with serve(stand_ins(), monkeypatch) as hub:
        serve_shakespeare(monkeypatch, hub.cdn, hub.datasets)
        yield hub


def serve_shakespeare(monkeypatch: pytest.MonkeyPatch, cdn: str, datasets: dict[str, Dataset]) -> bytes:
    """Put a play onto the second server, and its address and hash into the catalog -> the play."""
    play = "".join(f"ROMEO:\n{text}\n" for text in texts(200)).encode()
    datasets["karpathy/char-rnn"] = Dataset({"input.txt": play})
    held = CATALOG["shakespeare"].file
    assert held
    moved = replace(held, url=f"{cdn}/karpathy/char-rnn/input.txt", size=len(play), sha256=sha256(play))
    monkeypatch.setitem(CATALOG, "shakespeare", replace(CATALOG["shakespeare"], file=moved))
    return play


def small_gpt2(monkeypatch: pytest.MonkeyPatch, cache) -> None:
    """A vocabulary of 300 in place of GPT-2's, as if it had been downloaded."""
    vocab, merges = train_bpe(["the llama and the other llama ate the grass " * 9], vocab_size=300)
    encoder = json.dumps({spell(token): token_id for token_id, token in vocab.items()}).encode()
    lines = [f"{spell(left)} {spell(right)}" for left, right in merges]
    files = {"encoder.json": encoder, "vocab.bpe": "\n".join(["#version: 0.2", *lines, ""]).encode()}
    (cache / "gpt2").mkdir(parents=True)
    for name, content in files.items():
        (cache / "gpt2" / name).write_bytes(content)
    monkeypatch.setattr(gpt2, "SHA256", {name: sha256(content) for name, content in files.items()})


def sha256(content: bytes) -> str:
    """In hex."""
    return hashlib.sha256(content).hexdigest()
