"""The compiled kernels against the plain Python that says what they must do, and what is asked of their memory."""

import os
import pickle
import random
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from itertools import chain, pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import nasty_strings, read_text, tight_strings

from llamita.errors import UserError
from llamita.tokenizer import BPETokenizer, native, train_bpe
from llamita.tokenizer.character_classes import character_classes
from llamita.tokenizer.patterns import PUBLISHED
from llamita.tokenizer.streaming import slices_at_breaks

PATTERNS = list(PUBLISHED)
SPECIAL = ["<|endoftext|>", "<|end|>"]


@cache
def learned(pattern: str) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    return train_bpe(["".join(nasty_strings(2000, seed=1))], vocab_size=1500, special_tokens=SPECIAL, pattern=pattern)


def both(kind: str, pattern: str) -> tuple[BPETokenizer, BPETokenizer]:
    """The same tokenizer natively and plainly: by its merges, by ranks, or by merges that never cut a token."""
    vocab, merges = learned(pattern)
    ranks = {token: token_id for token_id, token in vocab.items()}
    by_kind = {
        "merges": lambda plain: BPETokenizer(vocab, merges, SPECIAL, pattern, plain=plain),
        "ranks": lambda plain: BPETokenizer.from_ranks(ranks, SPECIAL, pattern, plain=plain),
        "whole": lambda plain: BPETokenizer(vocab, merges[::2], SPECIAL, pattern, ignore_merges=True, plain=plain),
    }
    return by_kind[kind](False), by_kind[kind](True)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", ["merges", "ranks", "whole"])
def test_the_ids_are_those_of_plain_python(kind, pattern):
    fast, plain = both(kind, pattern)
    for text in (*nasty_strings(3000, seed=2), *tight_strings(3000, seed=3)):
        assert fast.encode(text) == plain.encode(text)


def telling_points() -> set[int]:
    """Both sides of every place where the table has a class begin or end, and every 20th code point besides."""
    ends = {point for ranges in character_classes().values() for range_ in ranges for point in range_}
    return {point + step for point in ends for step in (-1, 0, 1) if 0 <= point + step < 0x110000} | {
        *range(0, 0x110000, 20)
    }


@pytest.mark.parametrize("pattern", PATTERNS)
def test_characters_are_cut_as_the_pinned_table_says(pattern):
    fast, plain = both("merges", pattern)
    every = [chr(point) for point in sorted(telling_points()) if not 0xD800 <= point < 0xE000]
    for surroundings in ("{}", "a{}b", " {}1", "'{}", "{}\n"):
        text = "".join(surroundings.format(character) for character in every)
        assert np.array_equal(fast.encode_array(text), plain.encode_array(text))


ANYTHING = st.text(st.characters(codec="utf-8") | st.sampled_from("\ud800\udfff\x00'sStTlLeEvVrR \n\r\t\u0301\ue000🙂"))


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(texts=st.lists(ANYTHING, min_size=20, max_size=40))
def test_arbitrary_text_has_the_ids_of_plain_python(pattern, texts):
    fast, plain = tokenizers(pattern)
    for text in texts:
        assert fast.encode(text) == plain.encode(text)


@cache
def tokenizers(pattern: str) -> tuple[BPETokenizer, BPETokenizer]:
    return both("merges", pattern)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_hundred_thousand_strings_have_the_ids_of_tiktoken(pattern):
    vocab, _ = learned(pattern)
    ranks = {token: token_id for token_id, token in vocab.items()}
    ours = BPETokenizer.from_ranks(ranks, SPECIAL, pattern)
    special = {token: ranks.pop(token.encode()) for token in SPECIAL}
    theirs = tiktoken.Encoding("x", pat_str=PUBLISHED[pattern], mergeable_ranks=ranks, special_tokens=special)
    for text in (*nasty_strings(20_000, seed=4), *tight_strings(14_000, seed=5)):
        assert ours.encode(text) == theirs.encode(text, allowed_special="all")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_text_in_any_chunks_gives_the_ids_of_the_whole(pattern, monkeypatch):
    monkeypatch.setattr(native, "CHUNK", 64)
    fast, plain = both("ranks", pattern)
    rng = random.Random(6)
    for seed in range(30):
        text = "".join((*nasty_strings(20, seed), *tight_strings(40, seed), "x" * rng.randint(0, 300), " " * seed))
        cuts = sorted({0, len(text), *(rng.randint(0, len(text)) for _ in range(rng.randint(0, 30)))})
        strings = [text[start:end] for start, end in pairwise(cuts)]
        assert fast.encode(text) == list(fast.encode_iterable(strings)) == plain.encode(text)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_slices_at_breaks_have_the_pieces_of_the_whole(pattern):
    fast, _ = tokenizers(pattern)
    text = "".join(nasty_strings(3000, seed=7))
    for size in (50, 1000, 10**9):
        slices = list(slices_at_breaks(text, size))
        assert "".join(slices) == text
        ids = chain.from_iterable(fast.encode(part, allow_special=False) for part in slices)
        assert list(ids) == fast.encode(text, allow_special=False)


@pytest.mark.parametrize("letters", ["a", "ab", "^", " ", "\n", "é", "日本", "aab"])
def test_very_long_pieces_are_merged_as_in_plain_python(letters):
    for pattern in PATTERNS:
        fast, plain = tokenizers(pattern)
        for size in (60, 70, 5000):
            assert fast.encode(letters * size) == plain.encode(letters * size)


@pytest.mark.parametrize("plain", [False, True])
def test_a_vocabulary_without_a_byte_names_it_when_a_text_has_it(plain):
    vocab = {i: bytes([i]) for i in range(256) if i not in b"bc"} | {300: b"bc"}
    tokenizer = BPETokenizer(vocab, [(b"b", b"c")], plain=plain)
    assert tokenizer.encode("abca") == [97, 300, 97]  # the merge needs the byte, the ids do not
    with pytest.raises(UserError, match="lacks the byte b'b'"):
        tokenizer.encode("abba")


# --- learning ---


@pytest.mark.parametrize("name", ["data/input.txt", "tinyshakespeare.txt", "fairytales.txt"])
def test_merges_are_those_of_plain_python_on_real_texts(name):
    text = (Path(__file__).parents[1] / name).read_text() if "/" in name else read_text(name)
    requested = {"vocab_size": 2000, "special_tokens": ["<|endoftext|>"]}
    assert train_bpe([text], **requested) == train_bpe([text], plain=True, **requested)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("tie_break", ["bytes", "id"])
def test_merges_are_those_of_plain_python_on_nasty_texts(pattern, tie_break):
    for seed in range(5):
        texts = [*nasty_strings(300, seed), *tight_strings(300, seed), "a" * 1000, "ab" * 501, "日本" * 200]
        options = {"vocab_size": 900, "pattern": pattern, "tie_break": tie_break, "min_frequency": 1 + seed % 3}
        expected = train_bpe(texts, plain=True, **options)
        assert train_bpe(texts, **options) == expected
        assert train_bpe(texts, threads=3, **options) == expected


def test_tables_that_are_too_small_grow(monkeypatch):
    from llamita.tokenizer import native_training

    rng = random.Random(8)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 40))) for _ in range(5000)]
    options = {"vocab_size": 1500, "special_tokens": []}
    expected = train_bpe([" ".join(words)], plain=True, **options)
    for name, size in {"SLOTS": 1 << 4, "FIRST_ARENA": 1 << 8, "RECORDS": 1 << 11}.items():
        monkeypatch.setattr(native_training, name, size)
    assert train_bpe([" ".join(words)], **options) == expected
    assert train_bpe([" ".join(words)], threads=2, **options) == expected


def test_an_error_in_a_counting_thread_is_raised(monkeypatch):
    from llamita.tokenizer import native_training

    def fail(*_):
        raise MemoryError("out of memory")

    monkeypatch.setattr(native_training.PieceCounter, "count", fail)
    with pytest.raises(MemoryError, match="out of memory"):
        train_bpe(["a text"] * 50, vocab_size=300, threads=2)


# --- decoding ---


def test_an_array_is_decoded_as_a_list_is():
    fast, plain = tokenizers("gpt2")
    ids = np.random.default_rng(9).integers(0, fast.vocab_size, 20_000)
    for array in (ids, ids.astype(np.uint16), ids[::-3]):
        assert fast.decode(array) == fast.decode(array.tolist()) == plain.decode(iter(array.tolist()))


@pytest.mark.parametrize("bad", [-1, 1500, 2**32 + 1])
def test_a_long_array_with_an_id_out_of_range_is_refused(bad):
    ids = np.zeros(5000, dtype=np.int64)
    ids[4000] = bad
    for given_ids in (ids, ids.tolist()):
        with pytest.raises(UserError, match=f"token id {bad} is not in the vocabulary"):
            tokenizers("gpt2")[0].decode(given_ids)


# --- memory, threads, processes, places ---


def test_the_piece_cache_is_bounded_and_clearing_it_changes_no_id(monkeypatch):
    monkeypatch.setattr(native, "ARENA", 1 << 12)
    fast, plain = both("ranks", "gpt2")
    rng = random.Random(10)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(3, 90))) for _ in range(40_000)]
    assert fast.encode(" ".join(words[:20_000])) == plain.encode(" ".join(words[:20_000]))
    (workspace,) = fast._encoder._idle  # type: ignore[union-attr]
    sizes = {which: array.nbytes for which, array in workspace._remembered.items()}
    assert fast.encode(" ".join(words)) == plain.encode(" ".join(words))
    assert {which: array.nbytes for which, array in workspace._remembered.items()} == sizes
    assert sum(sizes.values()) < 16 << 20


def test_threads_share_a_tokenizer():
    fast, plain = both("ranks", "llama3")
    texts = ["".join(nasty_strings(200, seed)) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fast.encode, texts)) == [plain.encode(text) for text in texts]
    assert [ids.tolist() for ids in fast.encode_batch(texts, threads=3)] == [plain.encode(text) for text in texts]
    whole = "".join(texts) * 5
    assert np.array_equal(fast.encode_array(whole, threads=3), plain.encode_array(whole))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_tokenizer(method):
    fast, plain = tokenizers("gpt2")
    texts = nasty_strings(20, seed=11)
    fast.encode(texts[0])
    with ProcessPoolExecutor(2, get_context(method)) as pool:
        assert list(pool.map(fast.encode, texts)) == [plain.encode(text) for text in texts]


def test_a_pickled_tokenizer_holds_no_address():
    fast, _ = both("merges", "gpt2")
    before = len(pickle.dumps(fast))
    fast.encode("what makes the tables")
    assert len(pickle.dumps(fast)) == before


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment}
    words = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(words, env=variables, cwd=os.sep, capture_output=True, text=True, timeout=300)


TOKENIZES = """
    import sys
    from llamita.tokenizer import BPETokenizer, train_bpe
    text = "hello world, the world says hello " * 50
    learned = train_bpe([text], vocab_size=300)
    tokenizer = BPETokenizer(*learned)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode_array(text * 20)) == text * 20
"""
PLAIN = """
    assert learned == train_bpe([text], vocab_size=300, plain=True)
    assert ids == BPETokenizer(*learned, plain=True).encode(text)
"""


def test_importing_the_tokenizer_compiles_and_loads_nothing():
    done = python("import sys, llamita.tokenizer; assert not sys.modules.keys() & {'numba', 'llvmlite', 'torch'}")
    assert done.returncode == 0, done.stderr


def test_kernels_are_compiled_once_and_tokenizing_then_needs_neither_compiler_nor_torch(tmp_path):
    first = python(TOKENIZES, LLAMITA_CACHE=str(tmp_path), LLAMITA_KERNEL_CACHE="")
    assert (first.returncode, first.stderr.count("compiling")) == (0, 1), first.stderr
    has_linker = os.name == "posix" and shutil.which("cc")
    unneeded = {"numba", "torch", *(["llvmlite"] if has_linker else [])}
    again = python(
        TOKENIZES + f"\n    assert not sys.modules.keys() & {unneeded!r}",
        LLAMITA_CACHE=str(tmp_path),
        LLAMITA_KERNEL_CACHE="",
    )
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize("missing", ["numba", "llvmlite"])
def test_without_numba_ids_and_merges_are_those_of_plain_python_and_one_line_says_so(tmp_path, missing):
    block = f"""
    import sys
    sys.modules[{missing!r}] = None
    """
    done = python(block + TOKENIZES + PLAIN, LLAMITA_CACHE=str(tmp_path), LLAMITA_KERNEL_CACHE="")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "numba cannot be imported" in done.stderr
    assert "pip install numba" in done.stderr


@pytest.mark.slow
def test_a_checked_build_finds_no_access_out_of_bounds_and_would_find_one(tmp_path):
    done = python(
        """
        import numpy as np
        from texts import nasty_strings, tight_strings
        from llamita.jit.language import CHECKED
        from llamita.tokenizer import BPETokenizer, native, train_bpe
        from llamita.tokenizer.kernels.memory import IDS
        assert CHECKED
        native.CHUNK, native.ARENA = 256, 4096
        texts = [*nasty_strings(300, 1), *tight_strings(300, 2), "a" * 3000, "^" * 700, " " * 700, "é" * 300]
        for pattern in ("gpt2", "cl100k", "llama3"):
            vocab, merges = train_bpe(texts, vocab_size=700, pattern=pattern)
            tokenizer = BPETokenizer(vocab, merges, [], pattern)
            for text in texts:
                ids = tokenizer.encode_array(text)
                assert tokenizer._encoder.decode(ids).decode("utf-8", "replace") == tokenizer.decode(ids.tolist())
            tokenizer.encode_array("".join(texts))
        workspace = tokenizer._encoder._idle[0]
        workspace._table[2 * IDS + 1] = 8  # as if the capacity were two ids
        try:
            tokenizer.encode("more ids than that")
        except IndexError:
            print("found")
        """,
        LLAMITA_CHECKED_KERNELS="1",
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    )
    assert done.stdout == "found\n", done.stderr
