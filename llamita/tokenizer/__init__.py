"""Text to ids and back. Read in this order: patterns, merge, plain, bpe, training; then special,
streaming, chars, hf_json; and last, how the same is done fast: kernels, native."""

from llamita.tokenizer.base import END_OF_TEXT, Tokenizer, token_dtype
from llamita.tokenizer.bpe import BPETokenizer
from llamita.tokenizer.chars import CharTokenizer
from llamita.tokenizer.loading import load_tokenizer
from llamita.tokenizer.making import train_tokenizer, vocabulary_note
from llamita.tokenizer.training import train_bpe

__all__ = [
    "END_OF_TEXT",
    "BPETokenizer",
    "CharTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "token_dtype",
    "train_bpe",
    "train_tokenizer",
    "vocabulary_note",
]
