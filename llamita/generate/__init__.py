"""Generation: `sampling` picks the next token, `engine` decodes token by token, `text` goes from text to text."""

from llamita.generate.engine import generate_ids
from llamita.generate.sampling import penalize_repetition, sample_logits
from llamita.generate.text import generate, generate_many, printable, printable_pieces, prompt_ids, stream

__all__ = [
    "generate",
    "generate_ids",
    "generate_many",
    "penalize_repetition",
    "printable",
    "printable_pieces",
    "prompt_ids",
    "sample_logits",
    "stream",
]
