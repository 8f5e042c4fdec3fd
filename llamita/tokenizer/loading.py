"""Reading a tokenizer back: from `tokenizer.json`, or from the files that GPT-2 was published with."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

from llamita.errors import UserError
from llamita.tokenizer.base import END_OF_TEXT, Tokenizer
from llamita.tokenizer.bpe import BPETokenizer
from llamita.tokenizer.chars import UNKNOWN, CharTokenizer
from llamita.tokenizer.gpt2 import cached_gpt2, published_files, read_published
from llamita.tokenizer.hf_json import PATTERN_OF_TEXT, spell, unspell

Content = dict[str, Any]
"""What a tokenizer.json holds."""


def load_tokenizer(path: str | Path, cache: Path | None = None) -> Tokenizer:
    """The tokenizer at `path`: a `tokenizer.json`, a folder with one, or a folder with GPT-2's published files.

    Those are encoder.json and vocab.bpe, or vocab.json and merges.txt. "gpt2" is GPT-2's tokenizer itself,
    downloaded once into `cache` (default: $LLAMITA_CACHE, else ~/.cache/llamita); a folder of that name is "./gpt2".

    Files of Hugging Face's `tokenizers` are read if they hold byte-level BPE with a known pattern, and give the same
    ids. Truncation, padding, and the tokens that a post-processor adds around a text, such as a first one, are not
    applied.
    Raises UserError, in one line, for a file that is missing, damaged, or of another kind, or whose tokens do not cover
    every byte of text.
    """
    if path == "":
        raise UserError("the name of the tokenizer is empty; give gpt2, or a tokenizer's folder")
    if path == "gpt2":
        return read_published(*cached_gpt2(cache))
    folder = Path(path)
    if not folder.is_dir():
        return _guarded(_read_json, folder)
    if (folder / "tokenizer.json").exists():
        return _guarded(_read_json, folder / "tokenizer.json")
    if found := published_files(folder):
        return _guarded(read_published, *found)
    raise UserError(
        f"{folder}: no tokenizer.json there, nor encoder.json and vocab.bpe, nor vocab.json and merges.txt; "
        "give a tokenizer's folder"
    )


def _guarded(read: Callable[..., Tokenizer], file: Path, *others: Path) -> Tokenizer:
    """`read(file, ...)`, but any error that a damaged file can cause becomes one line that names the file."""
    try:
        tokenizer = read(file, *others)
        _require_all_bytes(tokenizer)
        return tokenizer
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except OSError as error:
        raise UserError(
            f"{file}: can't be read ({error.strerror}); give gpt2, a tokenizer.json or its folder"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{file}: damaged or not a tokenizer ({reason}); make or fetch it again") from error


def _require_all_bytes(tokenizer: Tokenizer) -> None:
    """Raise `UserError` where some text has no ids: `tokenizers` would silently drop its bytes."""
    missing = tokenizer.missing_bytes() if isinstance(tokenizer, BPETokenizer) else []
    if missing:
        raise UserError(
            f"{len(missing)} bytes, such as {bytes(missing[:1])!r}, have no token; byte-level BPE needs them all: "
            "train it with initial_alphabet=ByteLevel.alphabet()"
        )


def _read_json(file: Path) -> Tokenizer:
    return tokenizer_from_json(json.loads(file.read_bytes().decode("utf-8")))


def tokenizer_from_json(content: Content, *, plain: bool = False) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes; `plain` as for `BPETokenizer`.

    Raises `UserError` for one of another kind, and other errors for content that is damaged.
    """
    kind = content["model"].get("type", "BPE")  # old files leave it out
    if kind == "WordLevel":
        return _characters(content)
    if kind != "BPE":
        raise UserError(f"the model type {kind!r} is not supported; give byte-level BPE or characters")
    return _bpe(content, plain)


def _bpe(content: Content, plain: bool) -> BPETokenizer:
    model, special = content["model"], _added_tokens(content)
    _refuse_extras(content)
    pattern = _pattern(content.get("pre_tokenizer"))
    # The vocabulary has special tokens as they are, not spelled in bytes. If both look alike, it may be either.
    ordinary = {t: i for t, i in model["vocab"].items() if t not in special or t == spell(t.encode("utf-8"))}
    vocab = {token_id: _bytes_of(token) for token, token_id in ordinary.items()}
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    merges = [(_bytes_of(left), _bytes_of(right)) for left, right in pairs]
    if not model.get("ignore_merges"):
        return BPETokenizer(vocab, merges, special, pattern, plain=plain)
    # If the merges just follow from the vocabulary, they are only there because the file needs some: ids are ranks.
    by_rank = BPETokenizer(vocab, None, special, pattern, plain=plain)
    derived = by_rank.to_json()["model"]["merges"] == [" ".join(pair) for pair in pairs]
    return by_rank if derived else BPETokenizer(vocab, merges, special, pattern, ignore_merges=True, plain=plain)


def _bytes_of(token: str) -> bytes:
    try:
        return unspell(token)
    except KeyError as character:
        raise UserError(
            f"not byte-level BPE: the token {token[:40]!r} has the character {character}, which is no byte; "
            "give a byte-level tokenizer"
        ) from None


def _added_tokens(content: Content) -> dict[str, int]:
    """Added token -> its id."""
    added, vocab = content.get("added_tokens") or [], content["model"]["vocab"]
    for token in added:
        if vocab.get(token["content"], token["id"]) != token["id"]:
            raise UserError(f"the added token {token['content']!r} has two ids; give a file in which it has one")
    _refuse_overlaps(added)
    return {token["content"]: token["id"] for token in added}


def _refuse_overlaps(added: list[dict[str, Any]]) -> None:
    """`tokenizers` looks for the tokens that are not `normalized` first, llamita for all of them together.

    That makes no difference as long as no token of one kind can overlap one of the other.
    """
    for one, other in permutations(added, 2):
        mixed = bool(one.get("normalized")) != bool(other.get("normalized"))
        if mixed and _overlap(one["content"], other["content"]):
            raise UserError(
                f"the added tokens {one['content']!r} and {other['content']!r} overlap, and one is normalized; "
                "set normalized to false for both"
            )


def _overlap(one: str, other: str) -> bool:
    """Whether `other` can begin inside an occurrence of `one`."""
    return other in one or any(one.endswith(other[:length]) for length in range(1, len(other)))


def _refuse_extras(content: Content) -> None:
    """Settings that change ids and that llamita doesn't have."""
    for name, value in _extras(content):
        if value:
            shown = json.dumps(value, ensure_ascii=False)[:80]
            raise UserError(f"the setting {name} ({shown}) is not supported; use a tokenizer without it")


def _extras(content: Content) -> Iterator[tuple[str, Any]]:
    """The name and the value of every setting that must not be on."""
    normalizer = content.get("normalizer")
    yield "normalizer", normalizer if normalizer != {"type": "Sequence", "normalizers": []} else None
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        yield name, content["model"].get(name)
    for token in content.get("added_tokens") or []:
        for name in ("single_word", "lstrip", "rstrip"):
            yield f"{name} of {token['content']!r}", token.get(name)


def _pattern(pre_tokenizer: Content | None) -> str:
    """The name of the pattern that a pre-tokenizer cuts by."""
    steps = _steps(pre_tokenizer) if pre_tokenizer else []
    if any(step.get("add_prefix_space") for step in steps):
        raise UserError("the setting add_prefix_space (true) is not supported; use a tokenizer without it")
    match steps:
        case [{"type": "ByteLevel", **rest}] if rest.get("use_regex", True):
            return "gpt2"
        case [{"type": "Split", "pattern": {"Regex": text}, **how}, {"type": "ByteLevel", "use_regex": False}] if (
            text in PATTERN_OF_TEXT and _keeps_matches(how)
        ):
            return PATTERN_OF_TEXT[text]
    shown = json.dumps(pre_tokenizer, ensure_ascii=False)[:300]
    known = ", ".join(sorted(set(PATTERN_OF_TEXT.values())))
    raise UserError(f"the pre-tokenizer {shown} is not known; use one of {known}")


def _steps(pre_tokenizer: Content) -> list[Content]:
    """What a pre-tokenizer does, one thing after the other."""
    if pre_tokenizer["type"] != "Sequence":
        return [pre_tokenizer]
    return [step for inner in pre_tokenizer["pretokenizers"] for step in _steps(inner)]


def _keeps_matches(how: Mapping[str, Any]) -> bool:
    """Whether a Split returns its matches, each as a piece. Matches of the known patterns leave no gaps."""
    return how["behavior"] == "Isolated" or (how["behavior"] == "Removed" and how["invert"])


def _characters(content: Content) -> CharTokenizer:
    """A file that `CharTokenizer.save` wrote; a vocabulary of words, or in another order, is refused."""
    characters = [token for token in content["model"]["vocab"] if token not in (UNKNOWN, END_OF_TEXT)]
    words = [token for token in characters if len(token) != 1]
    if words or (tokenizer := CharTokenizer(characters)).to_json() != content:
        example = f" (it has the word {words[0][:40]!r})" if words else ""
        raise UserError(f"not a WordLevel model that CharTokenizer wrote{example}; give byte-level BPE or characters")
    return tokenizer
