"""Is the tokenizer's memory constant? `python benchmarks/tokenizer_memory.py [gigabytes]` (Linux; default 1).

Generates a file that is a single line, with 50,000 distinct words. Training a vocabulary of 10,000 on it and encoding
it run in separate processes; prints the seconds, and the peak memory in excess of what was resident after loading the
kernels.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llamita.tokenizer import BPETokenizer, train_bpe
from llamita.tokenizer.documents import read_blocks

WORDS, BLOCK = 50_000, 20_000_000


def write_line(file: Path, size: int) -> None:
    """About `size` bytes of words, without a line end."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyzé", k=rng.randint(2, 14))) for _ in range(WORDS)]
    with file.open("w", encoding="utf-8") as stream:
        while stream.tell() < size:
            stream.write(" ".join(rng.choices(words, k=BLOCK // 9)) + " ")


def peak() -> int:
    """Peak resident memory of this process, in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def measure(what: str, file: Path) -> None:
    """Run it in this process, and print time and memory."""
    vocab, merges = train_bpe(["a tiny text that loads all kernels"], vocab_size=260)
    tokenizer = BPETokenizer(vocab, merges)
    tokenizer.encode("and these")
    before, started = peak(), time.perf_counter()
    if what == "train":
        train_bpe([file], vocab_size=10_000)
    else:
        sum(len(block) for block in tokenizer.encode_blocks(read_blocks(file)))
    seconds, added = time.perf_counter() - started, peak() - before
    size = file.stat().st_size / 1e9
    print(f"| {what} | {size:.2f} GB | {seconds:.1f} s | {1e3 * size / seconds:.0f} MB/s | {added / 2**20:.0f} MiB |")


def main(gigabytes: float) -> None:
    """Print the table."""
    print("| what | text | seconds | speed | memory beyond the program's |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "line.txt"
        write_line(file, int(gigabytes * 1e9))
        for what in ("train", "encode"):
            subprocess.run([sys.executable, __file__, what, str(file)], check=True)


if __name__ == "__main__":
    measure(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 2 else main(float(sys.argv[1]) if sys.argv[1:] else 1.0)
