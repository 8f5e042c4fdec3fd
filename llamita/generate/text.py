"""Generation from text to text."""

import codecs
import unicodedata
from collections.abc import Iterator, Sequence

from llamita.config import GenerationConfig
from llamita.errors import UserError
from llamita.generate.engine import generate_ids
from llamita.model import Llama
from llamita.tokenizer import Tokenizer


def generate(
    model: Llama,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
) -> str:
    """The text that the model writes behind `prompt` (which is not repeated), up to its end token.

    An empty prompt starts a new document. The settings are those of `llamita generate`: the same `seed` gives the same
    text, a temperature of 0 takes the likeliest token, a top_k of 0 all. Raises `UserError` for settings out of range,
    and for an empty prompt where the tokenizer has no end token.
    """
    config = GenerationConfig(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed)
    return "".join(stream(model, tokenizer, prompt, config))


def stream(model: Llama, tokenizer: Tokenizer, prompt: str, config: GenerationConfig) -> Iterator[str]:
    """What `generate` returns, as it is written: in pieces that end at whole characters."""
    spelled = {token: name.encode() for name, token in tokenizer.special_tokens.items()}
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character's bytes may come in several tokens
    for (token,) in generate_ids(model, [prompt_ids(tokenizer, prompt)], config, tokenizer.end_id):
        if token is None or token == tokenizer.end_id:
            break
        if text := decoder.decode(spelled.get(token) or tokenizer.token_bytes(token)):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


def generate_many(model: Llama, tokenizer: Tokenizer, prompts: Sequence[str], config: GenerationConfig) -> list[str]:
    """The continuations of several prompts, in their order, computed together; each has draws of its own.

    Raises `UserError` for an empty prompt where the tokenizer has no end token.
    """
    texts: list[list[int]] = [[] for _ in prompts]
    for step in generate_ids(model, [prompt_ids(tokenizer, p) for p in prompts], config, tokenizer.end_id):
        for text, token in zip(texts, step, strict=True):
            if token is not None and token != tokenizer.end_id:
                text.append(token)
    return [tokenizer.decode(text) for text in texts]


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids to continue. A document starts behind an end token, in training as here, and an empty prompt too.

    Raises `UserError` for an empty prompt where the tokenizer has no end token.
    """
    start = [] if tokenizer.end_id is None else [tokenizer.end_id]
    ids = start + tokenizer.encode(prompt)
    if not ids:
        raise UserError("the prompt is empty, and this tokenizer has no end token to start from: write a first word")
    return ids


def printable(text: str) -> str:
    """`text` without what a terminal would obey: an untrained model also writes control characters."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)
