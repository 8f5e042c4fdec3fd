"""Generation from text to text."""

import unicodedata
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Ids
from typing import Any

from llamita.config import GenerationConfig
from llamita.generate.engine import MOST_SLOTS, Engine
from llamita.generate.sequence import Sequence
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
    **settings: Any,
) -> str:
    """The continuation of `prompt` (without the prompt), up to the end token.

    An empty prompt starts a new document. The settings are those of `llamita generate`, further ones (`min_p`, `stop`,
    ...) those of `GenerationConfig`: the same `seed` gives the same text; temperature 0 is greedy decoding, top_k 0
    keeps all tokens. When the context is full, its first half is dropped.

    Raises `UserError` for settings out of range and for a prompt longer than the context.
    """
    config = GenerationConfig(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, **settings)
    return "".join(stream(model, tokenizer, prompt, config))


def stream(model: Llama, tokenizer: Tokenizer, prompt: str, config: GenerationConfig) -> Iterator[str]:
    """What `generate` returns, as it is generated: in pieces that end at whole characters."""
    engine = Engine(model, 1, tokenizer)
    engine.add(prompt_ids(tokenizer, prompt), config, slides=True)
    return (output.text for output in engine.run() if output.text)


def generate_many(
    model: Llama, tokenizer: Tokenizer, prompts: Ids[str | Ids[int]], config: GenerationConfig
) -> list[str]:
    """The continuations of several prompts, each a text or ids, in order; each has randomness of its own.

    Up to 16 are decoded together. When the context is full, its first half is dropped.
    """
    return [sequence.text for sequence in complete(model, tokenizer, prompts, config)]


def complete(
    model: Llama,
    tokenizer: Tokenizer,
    prompts: Ids[str | Ids[int]],
    config: GenerationConfig,
    *,
    choices: int = 1,
    slots: int = 0,
    slides: bool = True,
) -> list[Sequence]:
    """The finished sequences of `choices` continuations of each prompt, in order, with ids and log-probabilities.

    slots    how many are decoded together; 0: all, up to 16. Another number rounds differently.
    slides   drop the first half of a full context and continue; else the sequence ends with finish_reason "length"
    """
    engine = Engine(model, slots or min(len(prompts) * choices, MOST_SLOTS) or 1, tokenizer)
    sequences = add_prompts(engine, tokenizer, prompts, config, choices, slides)
    for _ in engine.run():
        pass
    return sequences


def add_prompts(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Ids[str | Ids[int]],
    config: GenerationConfig,
    choices: int,
    slides: bool,
) -> list[Sequence]:
    """Queue `choices` continuations of each prompt -> the sequences, in order."""
    encoded = [prompt_ids(tokenizer, prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    return [
        engine.add(ids, config, index=index, choice=choice, slides=slides)
        for index, ids in enumerate(encoded)
        for choice in range(choices)
    ]


def generate_ids(
    model: Llama, prompts: Ids[Ids[int]], config: GenerationConfig, end_id: int | None = None
) -> list[list[int]]:
    """The ids that continue each prompt (at least one id each), the end token included, without a tokenizer.

    All prompts are decoded together. When the context is full, its first half is dropped. Raises `UserError` for NaN or
    infinite logits.
    """
    engine = Engine(model, len(prompts), end_id=end_id)
    sequences = [engine.add(prompt, config, index=index, slides=True) for index, prompt in enumerate(prompts)]
    for _ in engine.run():
        pass
    return [sequence.ids for sequence in sequences]


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids to continue: the prompt after the tokenizer's `start_id`, as a document starts in training."""
    return [tokenizer.start_id, *tokenizer.encode(prompt)]


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
