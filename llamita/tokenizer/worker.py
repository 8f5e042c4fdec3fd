"""A process that encodes batches of documents for another one: see `parallel.py`."""

import pickle
import sys

from llamita.tokenizer.batches import encode_batch


def main() -> None:
    """Read a tokenizer and then batches from stdin, write what they become to stdout, until stdin is closed."""
    batches, results = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may get between the results
    tokenizer = pickle.load(batches)  # from the process that started this one
    while True:
        try:
            batch = pickle.load(batches)
        except EOFError:
            return
        try:
            result = encode_batch(tokenizer, batch)
        except Exception as error:
            result = error
        pickle.dump(result, results, pickle.HIGHEST_PROTOCOL)
        results.flush()
