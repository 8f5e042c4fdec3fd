"""Generation: `engine` decodes sequences in slots, `sampling` picks the next token, `text` goes from text to text.

`sequence` is one request, `detokenizer` its text. docs/generation.md describes the settings.
"""

from llamita.generate.detokenizer import Detokenizer
from llamita.generate.engine import Engine, Output, assigned_ids, decode_step, prefill
from llamita.generate.sampling import Sampler, penalize_counts, penalize_repetition, sample_logits
from llamita.generate.sequence import Sequence, TokenLogprobs
from llamita.generate.text import (
    add_prompts,
    complete,
    generate,
    generate_ids,
    generate_many,
    printable,
    printable_pieces,
    prompt_ids,
    stream,
)

__all__ = [
    "Detokenizer",
    "Engine",
    "Output",
    "Sampler",
    "Sequence",
    "TokenLogprobs",
    "add_prompts",
    "assigned_ids",
    "complete",
    "decode_step",
    "generate",
    "generate_ids",
    "generate_many",
    "penalize_counts",
    "penalize_repetition",
    "prefill",
    "printable",
    "printable_pieces",
    "prompt_ids",
    "sample_logits",
    "stream",
]
