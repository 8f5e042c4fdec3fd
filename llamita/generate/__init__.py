"""Text from a model: `sampling` picks a token, `engine` goes from token to token, `text` from text to text."""

from llamita.generate.engine import generate_ids
from llamita.generate.sampling import penalize_repetition, sample_logits
from llamita.generate.text import generate, generate_many, printable, prompt_ids, stream

__all__ = [
    "generate",
    "generate_ids",
    "generate_many",
    "penalize_repetition",
    "printable",
    "prompt_ids",
    "sample_logits",
    "stream",
]
