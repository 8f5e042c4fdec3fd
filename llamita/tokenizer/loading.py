"""Reading a tokenizer back: from `tokenizer.json`, or from the files that GPT-2 was published with."""

import json
import os
from pathlib import Path
from typing import Any

from llamita.errors import UserError
from llamita.tokenizer.base import END_OF_TEXT, Tokenizer
from llamita.tokenizer.bpe import BPETokenizer
from llamita.tokenizer.chars import UNKNOWN, CharTokenizer
from llamita.tokenizer.hf_json import SPLIT_TEXTS, spell, unspell
from llamita.tokenizer.patterns import PUBLISHED


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer at `path`: a `tokenizer.json`, a folder with one, or a folder with GPT-2's published files.

    "gpt2" stands for the folder `gpt2` in `$LLAMITA_CACHE` (default ~/.cache/llamita). Files of Hugging Face's
    `tokenizers` are read if they hold byte-level BPE with a known pattern; what their post-processor would add around
    a text, such as a first token, is not added.
    Raises UserError, in one line, for a file that is missing, damaged, or of another kind.
    """
    folder = gpt2_folder() if path == "gpt2" else Path(path)
    if not folder.is_dir():
        return _load_json(folder)
    if (folder / "tokenizer.json").exists():
        return _load_json(folder / "tokenizer.json")
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return _guarded(_gpt2, folder)
    raise UserError(f"{folder}: no tokenizer.json there, nor vocab.json and merges.txt; give a tokenizer's folder")


def gpt2_folder() -> Path:
    """Where GPT-2's published files are looked for. Raises UserError, with what to do, if they aren't there."""
    cache = Path(os.environ.get("LLAMITA_CACHE", Path.home() / ".cache" / "llamita"))
    if (cache / "gpt2").is_dir():
        return cache / "gpt2"
    raise UserError(f"{cache / 'gpt2'}: not there; put GPT-2's published vocab.json and merges.txt into that folder")


def _guarded(read: Any, file: Path, *arguments: Any) -> Tokenizer:
    """`read(file, ...)`, where everything that a damaged file can cause becomes one line."""
    try:
        return read(file, *arguments)
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror}); give a tokenizer.json or its folder") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{file}: damaged or not a tokenizer ({reason}); make or fetch it again") from error


def _load_json(file: Path) -> Tokenizer:
    return _guarded(_read_json, file)


def _read_json(file: Path) -> Tokenizer:
    content = json.loads(file.read_bytes().decode("utf-8"))
    kind = content["model"].get("type", "BPE")  # old files leave it out
    if kind == "WordLevel":
        return _characters(file, content)
    if kind != "BPE":
        raise UserError(f"{file}: the model type {kind!r} is not supported; give byte-level BPE or characters")
    return _bpe(file, content)


def _bpe(file: Path, content: dict[str, Any]) -> BPETokenizer:
    model, special = content["model"], {token["content"]: token["id"] for token in content.get("added_tokens") or []}
    _refuse_extras(file, content)
    # A special token stands in the vocabulary as it is, not spelled in bytes. Where both look alike, it may be either.
    ordinary = {t: i for t, i in model["vocab"].items() if t not in special or t == spell(t.encode("utf-8"))}
    vocab = {token_id: unspell(token) for token, token_id in ordinary.items()}
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    pairs = [(unspell(left), unspell(right)) for left, right in merges]
    by_rank = bool(model.get("ignore_merges"))
    tokenizer = BPETokenizer(vocab, None if by_rank else pairs, special, _pattern(file, content["pre_tokenizer"]))
    if by_rank and tokenizer.to_json()["model"]["merges"] != [" ".join(merge) for merge in merges]:
        raise UserError(f"{file}: ignore_merges needs merges that follow from the vocabulary; set it to false")
    return tokenizer


def _refuse_extras(file: Path, content: dict[str, Any]) -> None:
    """Settings that change ids and that llamita doesn't have."""
    model = content["model"]
    settings = {"normalizer": content.get("normalizer")}
    names = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    settings |= {name: model.get(name) for name in names}
    for token in content.get("added_tokens") or []:
        settings |= {f"{name} of {token['content']!r}": token.get(name) for name in ("single_word", "lstrip", "rstrip")}
    for name, value in settings.items():
        if value:
            shown = json.dumps(value)[:80]
            raise UserError(f"{file}: the setting {name} ({shown}) is not supported; use a tokenizer without it")


def _pattern(file: Path, pre_tokenizer: Any) -> str:
    """The name of the pattern that a pre-tokenizer cuts by."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer and pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, **rest}] if rest.get("use_regex", True):
            return "gpt2"
        case [
            {"type": "Split", "pattern": {"Regex": text}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            for name in PUBLISHED:
                if text in (PUBLISHED[name], SPLIT_TEXTS[name]):
                    return name
    shown = json.dumps(pre_tokenizer, ensure_ascii=False)[:300]
    raise UserError(f"{file}: the pre-tokenizer {shown} is not known; use one of {', '.join(PUBLISHED)}")


def _characters(file: Path, content: dict[str, Any]) -> CharTokenizer:
    """A file that `CharTokenizer.save` wrote; a vocabulary of words, or in another order, is refused."""
    tokenizer = CharTokenizer(token for token in content["model"]["vocab"] if token not in (UNKNOWN, END_OF_TEXT))
    if tokenizer.to_json() != content:
        raise UserError(f"{file}: not a WordLevel model that CharTokenizer wrote; train a CharTokenizer")
    return tokenizer


def _gpt2(folder: Path) -> BPETokenizer:
    """vocab.json and merges.txt as OpenAI published them."""
    spelled: dict[str, int] = json.loads((folder / "vocab.json").read_bytes().decode("utf-8"))
    # Split at "\n" alone: splitlines() would also split at characters that a merge may contain.
    lines = (folder / "merges.txt").read_bytes().decode("utf-8").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    merges = [(unspell(left), unspell(right)) for left, right in pairs]
    return BPETokenizer({token_id: unspell(token) for token, token_id in spelled.items()}, merges, [END_OF_TEXT])
