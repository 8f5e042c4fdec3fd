"""The tokenizer's kernels: split text into pieces, merge them, look them up, decode, count, and learn merges.

What they compute is what `patterns.py`, `merge.py`, `bpe.py` and `plain_training.py` say in plain Python, which is the
text to learn from and the reference that tests compare with; here is how to do it fast.

- `memory.py`: the table by which all kernels know their memory.
- `pieces.py`: the pretokenization patterns as state machines.
- `merging.py`: merge the tokens of a piece.
- `words.py`: the piece cache, so that a word is merged once.
- `encoding.py`: encode, decode, and fill the tables of a vocabulary; called by `native.py`.
- `counting.py`: count the pieces of a text; `learning.py`: merge the most frequent pairs; called by
  `native_training.py`.

All kernels work on UTF-8 bytes and on memory that the callers allocate. With LLAMITA_CHECKED_KERNELS=1 every access is
checked against the end of its span.
"""
