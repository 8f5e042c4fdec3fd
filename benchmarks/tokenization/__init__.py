"""What `benchmarks/tokenizer.py` is made of."""
