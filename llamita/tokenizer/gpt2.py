"""GPT-2's tokenizer as OpenAI published it (Radford et al., 2019): downloaded once, verified, cached."""

import hashlib
import http.client
import json
import urllib.request
from pathlib import Path

from llamita.errors import UserError
from llamita.files import default_cache, write_atomically
from llamita.tokenizer.base import END_OF_TEXT
from llamita.tokenizer.bpe import BPETokenizer
from llamita.tokenizer.hf_json import unspell

PUBLISHED_AT = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
NAMES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
"""What the vocabulary and the merges are called: by OpenAI, and by Hugging Face."""

TIMEOUT = 30.0  # seconds without an answer


def published_files(folder: Path) -> tuple[Path, Path] | None:
    """Vocabulary and merges in a folder, under either pair of names; None where they aren't both there."""
    pairs = ((folder / vocabulary, folder / merges) for vocabulary, merges in NAMES)
    return next((pair for pair in pairs if all(file.exists() for file in pair)), None)


def read_published(vocabulary: Path, merges: Path) -> BPETokenizer:
    """The tokenizer that the two files describe. What is damaged in them raises ValueError, KeyError or TypeError."""
    spelled: dict[str, int] = json.loads(vocabulary.read_bytes().decode("utf-8"))
    # Split at "\n" alone: splitlines() would also split at characters that a merge may contain.
    lines = merges.read_bytes().decode("utf-8").split("\n")
    cut = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    pairs = [(unspell(left), unspell(right)) for left, right in cut]
    return BPETokenizer({token_id: unspell(token) for token, token_id in spelled.items()}, pairs, [END_OF_TEXT])


def cached_gpt2(cache: Path | None = None) -> tuple[Path, Path]:
    """GPT-2's vocabulary and merges in the folder `gpt2` of the cache, downloaded on first use; verified each time.

    Raises `UserError`, saying how to put them there by hand, where they can't be fetched or aren't what was published.
    """
    folder = (cache or default_cache()) / "gpt2"
    if (found := published_files(folder)) is None:
        found = (folder / "encoder.json", folder / "vocab.bpe")
        for file in found:
            if not file.exists():
                _download(PUBLISHED_AT + file.name, file)
    for file, name in zip(found, SHA256, strict=True):
        _require_published(file.read_bytes(), name, f"{file}", "delete it, and it is fetched again")
    return found


def _download(address: str, file: Path) -> None:
    """Fetch a file into its place, complete and verified, or not at all."""
    by_hand = f"put {' and '.join(SHA256)} from {PUBLISHED_AT} into {file.parent} by hand"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            content = answer.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(f"{getattr(error, 'reason', None) or error}".split())  # servers send whole lines
        raise UserError(f"{address}: can't be downloaded ({reason}); try again, or {by_hand}") from error
    _require_published(content, file.name, address, f"try again, or {by_hand}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror}); choose a cache with LLAMITA_CACHE") from error


def _require_published(content: bytes, name: str, where: str, what_to_do: str) -> None:
    """Raise `UserError` unless `content` is what was published under this name."""
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise UserError(
            f"{where}: not GPT-2's {name}, its sha256 is {found[:9]}…, not {SHA256[name][:9]}…; {what_to_do}"
        )
