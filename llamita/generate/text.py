"""Generation from text to text."""

import codecs
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from llamita.config import GenerationConfig
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
    """The continuation of `prompt` (without the prompt), up to the end token.

    An empty prompt starts a new document. The settings are those of `llamita generate`: the same `seed` gives the same
    text; temperature 0 is greedy decoding, top_k 0 keeps all tokens. Raises `UserError` for settings out of range.
    """
    config = GenerationConfig(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed)
    return "".join(stream(model, tokenizer, prompt, config))


def stream(model: Llama, tokenizer: Tokenizer, prompt: str, config: GenerationConfig) -> Iterator[str]:
    """What `generate` returns, as it is generated: in pieces that end at whole characters."""
    spelled = {token: name.encode() for name, token in tokenizer.special_tokens.items()}
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character's bytes may come in several tokens
    assigned = assigned_ids(tokenizer, model.config.vocab_size)
    for (token,) in generate_ids(model, [prompt_ids(tokenizer, prompt)], config, tokenizer.end_id, assigned):
        if token is None or token == tokenizer.end_id:
            break
        if text := decoder.decode(spelled.get(token) or tokenizer.token_bytes(token)):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


def generate_many(model: Llama, tokenizer: Tokenizer, prompts: Sequence[str], config: GenerationConfig) -> list[str]:
    """The continuations of several prompts, in order, computed as a batch; each has randomness of its own."""
    texts: list[list[int]] = [[] for _ in prompts]
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    assigned = assigned_ids(tokenizer, model.config.vocab_size)
    for step in generate_ids(model, ids, config, tokenizer.end_id, assigned):
        for text, token in zip(texts, step, strict=True):
            if token is not None and token != tokenizer.end_id:
                text.append(token)
    return [tokenizer.decode(text) for text in texts]


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids to continue: the prompt after the tokenizer's `start_id`, as a document starts in training."""
    return [tokenizer.start_id, *tokenizer.encode(prompt)]


def assigned_ids(tokenizer: Tokenizer, vocab_size: int) -> Tensor | None:
    """(vocab_size,) bool: the ids of a model's vocabulary that a token has; None where that is all of them.

    A tokenizer may leave ids unused, and a model's vocabulary may be padded beyond the tokenizer's.
    """
    assigned = torch.zeros(vocab_size, dtype=torch.bool)
    assigned[: tokenizer.vocab_size] = torch.from_numpy(tokenizer.assigned)[:vocab_size]
    return None if assigned.all() else assigned


def printable(text: str) -> str:
    """`text` without control characters, which a terminal would obey and an untrained model generates: U+FFFD each.

    Tabs and newlines stay; \\r\\n becomes \\n.
    """
    return "".join(printable_pieces([text]))


def printable_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """What `printable` makes of the joined pieces, piece by piece: a \\r waits for the piece after it."""
    held = ""
    for piece in pieces:
        text = held + piece
        held = "\r" if text.endswith("\r") else ""
        yield "".join(map(_visible, text.removesuffix(held).replace("\r\n", "\n")))
    yield "".join(map(_visible, held))


def _visible(character: str) -> str:
    return "\ufffd" if unicodedata.category(character) == "Cc" and character not in "\n\t" else character
