"""Memory and speed of `llamita prepare` on generated text: is memory constant as the text grows?

    python benchmarks/prepare.py --gigabytes 0.25 2

Each size is a folder of text, JSON lines, and both gzipped: documents of 200 words, sampled by Zipf's law from 100,000
made-up words. It is prepared with a BPE tokenizer of 10,000 tokens trained on it, then deleted. CPU seconds, of all
processes together, are what other programs affect least; memory is that of the main process, the largest one.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

WORDS, WORDS_IN_A_DOCUMENT = 100_000, 200
NAMES = ("a.txt", "b.jsonl", "c.txt.gz", "d.jsonl.gz")
LETTERS = np.frombuffer(b"eeetttaaooiinnsshhrrddlluucmfwygpbvk", dtype=np.uint8)


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.25, 2.0])
    parser.add_argument("--folder", type=Path, help="where to generate the text; default: a temporary folder")
    options = parser.parse_args()
    for gigabytes in options.gigabytes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            size = write_text(Path(folder) / "text", int(gigabytes * 1e9))
            seconds, cpu, peak = prepare(Path(folder))
        speed = f"{seconds:.0f} s ({size / 1e6 / seconds:.1f} MB/s), CPU {cpu:.0f} s"
        print(f"{size / 1e9:.2f} GB of text: {speed}, peak {peak:.0f} MiB", flush=True)


def write_text(folder: Path, size: int) -> int:
    """Write the four kinds of files, of equal size before compression -> total bytes of text."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    words = np.array([rng.choice(LETTERS, rng.integers(2, 11)).tobytes().decode() for _ in range(WORDS)], dtype=object)
    return sum(write_file(folder / name, size // len(NAMES), words, rng) for name in NAMES)


def write_file(path: Path, size: int, words: np.ndarray, rng: np.random.Generator) -> int:
    """Write documents up to `size` bytes -> bytes written."""
    written = 0
    create = gzip.open if path.suffix == ".gz" else open
    with create(path, "wt") as stream:
        for document in documents(words, rng):
            line = json.dumps({"text": document}) if ".jsonl" in path.name else f"{document}\n<|endoftext|>"
            stream.write(f"{line}\n")
            written += len(document)
            if written >= size:
                return written
    raise AssertionError("unreachable: documents() is infinite")


def documents(words: np.ndarray, rng: np.random.Generator) -> Iterator[str]:
    """An infinite stream of documents; the word of rank r has a probability proportional to 1/r."""
    edges = np.cumsum(1 / np.arange(1, WORDS + 1))
    while True:
        drawn = words[np.searchsorted(edges, rng.random((1000, WORDS_IN_A_DOCUMENT)) * edges[-1])]
        yield from (" ".join(row) + "." for row in drawn)


def prepare(folder: Path) -> tuple[float, float, float]:
    """-> (seconds, CPU seconds, peak MiB) of `llamita prepare` on folder/text."""
    words = ["prepare", "--data", folder / "text", "--vocab_size", "10000", "--output_dir", folder / "tokens"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "llamita", *map(str, words)], env={**os.environ, "LLAMITA_CACHE": str(folder / "cache")}
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        sys.exit(f"llamita prepare ended with status {status}")
    shutil.rmtree(folder / "tokens")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
