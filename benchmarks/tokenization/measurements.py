"""llamita's tokenizer against tiktoken, Hugging Face's `tokenizers` and rustbpe: time for the same ids."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from common.command import UsageError
from common.markdown import header, line, spread
from common.rounds import Job, Seconds, measure_jobs
from llamita.corpus import TextFiles
from llamita.data import prepare
from llamita.tokenizer import END_OF_TEXT, BPETokenizer, Tokenizer, load_tokenizer, train_bpe
from llamita.tokenizer.patterns import PUBLISHED

PEERS = ("tiktoken", "tokenizers", "rustbpe")
VOCAB_SIZE = 32_000  # with the pattern cl100k; training itself is measured with 10,000
TRAINED_VOCAB = 10_000
CALL = "The quick brown fox jumps over the lazy dog, again"  # 50 characters
CALLS = 2000
REPEATS = 5  # of the text, to measure threads: starting them takes a moment
ENDLESS = {"a": "a", "^": "^", "spaces": " "}
SHORT, LONG = 100_000, 10_000_000


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratios`: time of the peer over llamita's in each round, ascending."""

    what: str
    text: str
    ours: str
    peer: str
    ratios: list[float]
    goal: str

    def __str__(self) -> str:
        return line([self.what, self.text, self.ours, self.peer, spread(self.ratios), self.goal])


HEADER = header(("what", "text", "llamita", "peer", "ratio (min-max)", "goal"))


@dataclass(frozen=True)
class Setting:
    """Shared settings: the texts, GPT-2's tokenizer (a folder, or "gpt2"), and the number of rounds."""

    english: str
    code: str
    multilingual: str | None
    gpt2: str
    rounds: int

    def texts(self) -> dict[str, str]:
        """Name -> text."""
        named = {"English": self.english, "code": self.code, "multilingual": self.multilingual}
        return {name: text for name, text in named.items() if text}


def measure(setting: Setting) -> Iterator[Row]:
    """The rows of the table, as they are measured. Raises `UsageError` if a peer is not installed."""
    if missing := [name for name in PEERS if not find_spec(name)]:
        raise UsageError(f"needed for the comparison, but not installed: pip install {' '.join(missing)}")
    os.environ["TOKENIZERS_PARALLELISM"], os.environ["RAYON_NUM_THREADS"] = "false", "1"  # before they are loaded
    yield from encoding(setting)
    yield from newer_pattern(setting)
    yield from batches(setting)
    yield from short_calls(setting)
    yield from endless_pieces(setting)
    yield from decoding(setting)
    yield from training(setting)
    yield from preparing(setting)
    yield from compiling()


def encoding(setting: Setting) -> Iterator[Row]:
    """GPT-2's vocabulary on each text: an array with a warm and a cold cache, a list, and two threads."""
    ours, theirs = load_tokenizer(setting.gpt2), tiktoken_gpt2(setting.gpt2)
    for name, text in setting.texts().items():
        require_same(ours.encode_array(text), theirs.encode_to_numpy(text, allowed_special="all"), name)
        cold = iter([_fresh(setting.gpt2) for _ in range(setting.rounds + 1)])
        jobs: dict[str, Job] = {
            "array": lambda text=text: ours.encode_array(text),
            "their array": lambda text=text: theirs.encode_to_numpy(text, allowed_special="all"),
            "cold": lambda text=text, cold=cold: next(cold).encode_array(text),
            "list": lambda text=text: ours.encode(text),
            "their list": lambda text=text: theirs.encode(text, allowed_special="all"),
            "one": lambda text=text: ours.encode_array(text * REPEATS),
            "two": lambda text=text: ours.encode_array(text * REPEATS, threads=2),
        }
        seconds, megabytes = measure_jobs(jobs, setting.rounds), len(text.encode("utf-8")) / 1e6
        for what, mine, peer, english_goal, multilingual_goal in (
            ("encode to array, gpt2, warm", "array", "their array", "7", "2.5"),
            ("the same, cold cache", "cold", "their array", "2.5", "1.5"),
            ("encode to list", "list", "their list", "3", "2"),
            (f"two threads vs. one, {REPEATS} times the text", "two", "one", "1.8", "1.8"),
        ):
            goal = multilingual_goal if name == "multilingual" else english_goal
            size = megabytes * REPEATS if mine == "two" else megabytes
            yield _row(what, name, seconds, mine, peer, size, goal)


def newer_pattern(setting: Setting) -> Iterator[Row]:
    """The pattern cl100k, with a vocabulary trained on all texts."""
    import tiktoken

    vocab, _ = train_bpe(list(setting.texts().values()), vocab_size=VOCAB_SIZE, pattern="cl100k")
    ranks = {token: token_id for token_id, token in vocab.items()}
    ours = BPETokenizer.from_ranks(ranks, pattern="cl100k")
    theirs = tiktoken.Encoding("own", pat_str=PUBLISHED["cl100k"], mergeable_ranks=ranks, special_tokens={})
    for name, text in setting.texts().items():
        require_same(ours.encode_array(text), theirs.encode_to_numpy(text), name)
        jobs: dict[str, Job] = {
            "ours": lambda text=text: ours.encode_array(text),
            "theirs": lambda text=text: theirs.encode_to_numpy(text),
        }
        seconds = measure_jobs(jobs, setting.rounds)
        megabytes, goal = len(text.encode("utf-8")) / 1e6, "4" if name == "multilingual" else "10"
        yield _row("encode to array, cl100k, warm", name, seconds, "ours", "theirs", megabytes, goal)


def batches(setting: Setting) -> Iterator[Row]:
    """Paragraphs as a batch, against `tokenizers`."""
    from tokenizers import Tokenizer as TheirTokenizer

    ours = load_tokenizer(setting.gpt2)
    with tempfile.TemporaryDirectory() as folder:
        theirs = TheirTokenizer.from_file(str(ours.save(folder)))
    for name, text in setting.texts().items():
        if name == "code":
            continue
        texts = [text[start : start + 2000] for start in range(0, min(len(text), 4_000_000), 2000)]
        expected = [encoding.ids for encoding in theirs.encode_batch_fast(texts[:20], add_special_tokens=False)]
        require_same(np.concatenate(ours.encode_batch(texts[:20])), np.concatenate(expected), name)
        jobs: dict[str, Job] = {
            "ours": lambda texts=texts: ours.encode_batch(texts),
            "theirs": lambda texts=texts: theirs.encode_batch_fast(texts, add_special_tokens=False),
        }
        seconds = measure_jobs(jobs, setting.rounds)
        megabytes, goal = len("".join(texts).encode("utf-8")) / 1e6, "10" if name == "multilingual" else "25"
        yield _row("batch of 2,000 characters, vs. tokenizers", name, seconds, "ours", "theirs", megabytes, goal)


def short_calls(setting: Setting) -> Iterator[Row]:
    """Many calls with 50 characters each."""
    ours, theirs = load_tokenizer(setting.gpt2), tiktoken_gpt2(setting.gpt2)
    jobs: dict[str, Job] = {
        "ours": lambda: [ours.encode(CALL) for _ in range(CALLS)],
        "theirs": lambda: [theirs.encode(CALL, allowed_special="all") for _ in range(CALLS)],
    }
    seconds = measure_jobs(jobs, setting.rounds)
    each = {name: f"{1e6 * seconds.median(name) / CALLS:.1f} µs" for name in jobs}
    ratios = seconds.ratios("theirs", "ours")
    yield Row("one call on 50 characters", "English", each["ours"], each["theirs"], ratios, "0.83")


def endless_pieces(setting: Setting) -> Iterator[Row]:
    """A single repeated letter: compared with tiktoken, and how the time grows from 0.1 to 10 MB."""
    ours, theirs = load_tokenizer(setting.gpt2), tiktoken_gpt2(setting.gpt2)
    for name, letter in ENDLESS.items():
        text = letter * SHORT
        require_same(ours.encode_array(text), theirs.encode_to_numpy(text), name)
        jobs: dict[str, Job] = {
            "ours": lambda text=text: ours.encode_array(text),
            "theirs": lambda text=text: theirs.encode_to_numpy(text),
        }
        seconds = measure_jobs(jobs, setting.rounds)
        yield _row(f"{SHORT:,} times", name, seconds, "ours", "theirs", SHORT / 1e6, "0.67")
        lengths = {f"{size / 1e6:g} MB": letter * size for size in (LONG // 100, LONG // 10, LONG)}
        grown = measure_jobs({name: lambda text=text: ours.encode_array(text) for name, text in lengths.items()}, 2)
        short, middle, long = lengths
        for less, more in ((short, middle), (middle, long)):
            times = {size: f"{1e3 * grown.median(size):,.0f} ms" for size in (less, more)}
            yield Row(
                f"{more} vs. {less}: time ratio",
                name,
                times[more],
                times[less],
                grown.ratios(more, less),
                "at most 13",
            )


def decoding(setting: Setting) -> Iterator[Row]:
    """A list of ids to text, and an array."""
    ours, theirs = load_tokenizer(setting.gpt2), tiktoken_gpt2(setting.gpt2)
    for name, text in setting.texts().items():
        ids = ours.encode(text)
        array = np.array(ids, dtype=np.uint16)
        jobs: dict[str, Job] = {
            "list": lambda ids=ids: ours.decode(ids),
            "array": lambda array=array: ours.decode(array),
            "their list": lambda ids=ids: theirs.decode(ids),
            "their array": lambda array=array: theirs.decode(array.tolist()),
        }
        seconds, megabytes = measure_jobs(jobs, setting.rounds), len(text.encode("utf-8")) / 1e6
        yield _row("decode a list", name, seconds, "list", "their list", megabytes, "1")
        yield _row("decode an array", name, seconds, "array", "their array", megabytes, "1")


def training(setting: Setting) -> Iterator[Row]:
    """Train a vocabulary of 10,000 on a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.txt"
        file.write_text(setting.english, encoding="utf-8", newline="")
        jobs: dict[str, Job] = {
            "ours": lambda: train_bpe([file], vocab_size=TRAINED_VOCAB, special_tokens=[END_OF_TEXT]),
            "tokenizers": lambda: _train_with_tokenizers(file),
            "rustbpe": lambda: _train_with_rustbpe(file),
        }
        seconds = measure_jobs(jobs, setting.rounds)
    for peer, goal in (("tokenizers", "10"), ("rustbpe", "2.5")):
        times = {name: f"{seconds.median(name):.3f} s" for name in ("ours", peer)}
        ratios = seconds.ratios(peer, "ours")
        yield Row(f"train {TRAINED_VOCAB:,} tokens, vs. {peer}", "English", times["ours"], times[peer], ratios, goal)


def preparing(setting: Setting) -> Iterator[Row]:
    """A text file to a file of ids, against a plain loop over tiktoken that writes only the ids."""
    ours, theirs = load_tokenizer(setting.gpt2), tiktoken_gpt2(setting.gpt2)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "text.txt", Path(folder) / "train.bin"
        file.write_text(setting.english, encoding="utf-8", newline="")
        numbers = iter(range(setting.rounds + 1))
        jobs: dict[str, Job] = {
            "ours": lambda: prepare(TextFiles(file), ours, Path(folder) / str(next(numbers))),
            "theirs": lambda: _loop_over_tiktoken(file, theirs, out),
        }
        seconds, megabytes = measure_jobs(jobs, setting.rounds), len(setting.english.encode("utf-8")) / 1e6
    yield _row("llamita prepare, vs. a loop over tiktoken", "English", seconds, "ours", "theirs", megabytes, "")


def _loop_over_tiktoken(file: Path, theirs: Any, out: Path) -> None:
    with out.open("wb") as stream:
        for document in file.read_text(encoding="utf-8").split(END_OF_TEXT):
            theirs.encode_to_numpy(document).astype(np.uint16).tofile(stream)


COMPILE = """
import time
started = time.perf_counter()
from llamita.tokenizer import BPETokenizer
BPETokenizer({value: bytes([value]) for value in range(256)}, []).encode("text")
print(time.perf_counter() - started)
"""


def compiling() -> Iterator[Row]:
    """Seconds from importing the tokenizer to its first ids, first with an empty kernel cache, then with a warm one."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            words = [sys.executable, "-c", COMPILE]
            done = subprocess.run(
                words, env={**os.environ, "LLAMITA_CACHE": folder}, capture_output=True, text=True, check=True
            )
            seconds.append(float(done.stdout))
    first, again = seconds
    yield Row("compile once, then load", "", f"{first:.1f} s", f"{again:.2f} s", [first / again], "8 s, then 0.5 s")


def tiktoken_gpt2(folder: str) -> Any:
    """tiktoken's GPT-2, from the published files."""
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    ours = load_tokenizer(folder)
    ranks = {ours.token_bytes(token): token for token in range(ours.vocab_size) if token != ours.end_id}
    assert ours.end_id is not None
    special = {END_OF_TEXT: ours.end_id}
    return tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=special)


def require_same(ours: np.ndarray, theirs: np.ndarray, name: str) -> None:
    """Raise `AssertionError` if results differ: their speeds would not be comparable."""
    if not np.array_equal(ours, theirs):
        raise AssertionError(f"{name}: the ids differ")


def _fresh(folder: str) -> Tokenizer:
    """A tokenizer with its tables loaded and an empty cache of pieces."""
    tokenizer = load_tokenizer(folder)
    tokenizer.encode("")
    return tokenizer


def _row(what: str, text: str, seconds: Seconds, ours: str, peer: str, megabytes: float, goal: str) -> Row:
    speeds = {name: f"{megabytes / seconds.median(name):,.1f} MB/s" for name in (ours, peer)}
    return Row(what, text, speeds[ours], speeds[peer], seconds.ratios(peer, ours), goal)


def _train_with_tokenizers(file: Path) -> None:
    from tokenizers import Tokenizer as TheirTokenizer
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = TheirTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TRAINED_VOCAB, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(file)], trainer)


def _train_with_rustbpe(file: Path) -> None:
    rustbpe = import_module("rustbpe")  # untyped
    documents = file.read_text(encoding="utf-8").split(END_OF_TEXT)
    rustbpe.Tokenizer().train_from_iterator(iter(documents), TRAINED_VOCAB, pattern=PUBLISHED["gpt2"])
