"""The `tokenizer.json` of Hugging Face's `tokenizers`, which everyone else's programs read.

`tokenizers` cuts pieces with Oniguruma, whose idea of letters and numbers is that of another version of Unicode than
tiktoken's. On characters that one of them doesn't know yet the pieces there, and so the ids, can differ from llamita's.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from llamita.errors import UserError
from llamita.tokenizer.patterns import PUBLISHED

# What the file says for a pattern. Oniguruma reads `{1,3}+` as "many times one to three" and `$` as the end of a line,
# so the text of cl100k can't be taken over as it is published; this one means the same there.
CL100K_FOR_ONIGURUMA = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"""
    r"""\s+\z|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
SPLIT_TEXTS = PUBLISHED | {"cl100k": CL100K_FOR_ONIGURUMA}

GPT2_SHORTER = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
GPT2_FASTER = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
PATTERN_OF_TEXT = {text: name for name, text in SPLIT_TEXTS.items()} | {GPT2_SHORTER: "gpt2", GPT2_FASTER: "gpt2"}
"""What files say -> the pattern that cuts the same pieces. (cl100k's published text is missing: see above.)"""


@cache
def byte_alphabet() -> dict[int, str]:
    """Byte -> the visible character GPT-2 spells it with: itself where it prints, else one from U+0100 on.

    >>> byte_alphabet()[ord("a")], byte_alphabet()[ord(" ")]
    ('a', 'Ġ')
    """
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printing]
    return {byte: chr(byte) for byte in printing} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def spell(token: bytes) -> str:
    """Bytes in GPT-2's alphabet: b" the" -> "Ġthe"."""
    return token.decode("latin-1").translate(byte_alphabet())


@cache
def _byte_of_character() -> dict[str, int]:
    return {character: byte for byte, character in byte_alphabet().items()}


def unspell(spelled: str) -> bytes:
    """The inverse of `spell`. Raises KeyError for a character that is not in the alphabet."""
    return bytes([_byte_of_character()[character] for character in spelled])


def merges_of_ranks(ids: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that joins to a token, by that token's rank: how a vocabulary without merges is converted.

    The order within a rank is that of `transformers`' converter: by the rank of the left part.
    """
    merges = []
    for token in sorted(ids, key=ids.__getitem__):
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        merges += sorted((p for p in pairs if p[0] in ids and p[1] in ids), key=lambda p: (ids[p[0]], ids[p[1]]))
    return merges


def bpe_json(
    ids: Mapping[bytes, int],
    merges: Sequence[tuple[bytes, bytes]],
    special_tokens: Mapping[str, int],
    pattern: str,
    *,
    ignore_merges: bool,
) -> dict[str, Any]:
    """The file for byte-level BPE. ignore_merges: a piece that is a token is never cut (vocabularies by rank)."""
    vocab = {spell(token): token_id for token, token_id in ids.items()}
    for token, token_id in special_tokens.items():
        if vocab.setdefault(token, token_id) != token_id:
            raise UserError(f"special token {token!r} is how tokenizer.json spells an ordinary token; rename it")
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges,
        "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
        "merges": [f"{spell(left)} {spell(right)}" for left, right in merges],
    }  # fmt: skip
    return _file(model, special_tokens, _split(pattern), _byte_level(use_regex=True))


def characters_json(vocab: Mapping[str, int], unknown: str, special_tokens: Mapping[str, int]) -> dict[str, Any]:
    """The file for single characters: a "word" is one character, and decoding joins them without spaces."""
    model = {"type": "WordLevel", "vocab": dict(vocab), "unk_token": unknown}
    every_character = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    return _file(model, special_tokens, every_character, {"type": "Fuse"})


def _file(model: dict[str, Any], special_tokens: Mapping[str, int], pre_tokenizer: Any, decoder: Any) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    by_id = sorted(special_tokens.items(), key=lambda item: item[1])
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": token_id, "content": token, **flags} for token, token_id in by_id],
        "normalizer": None, "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": decoder, "model": model,
    }  # fmt: skip


def _split(pattern: str) -> dict[str, Any]:
    """GPT-2's pattern is built into `ByteLevel`; the others are written out before it."""
    if pattern == "gpt2":
        return _byte_level(use_regex=True)
    split = {"type": "Split", "pattern": {"Regex": SPLIT_TEXTS[pattern]}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
