"""The implementation of `benchmarks/tokenizer.py`."""
