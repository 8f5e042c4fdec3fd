"""A process that encodes batches of documents for another one: see `parallel.py`."""

import json
import sys
import traceback

from llamita.errors import UserError
from llamita.tokenizer.base import Tokenizer
from llamita.tokenizer.batches import encode_batch
from llamita.tokenizer.loading import tokenizer_from_json
from llamita.tokenizer.pipes import FAILED, REFUSED, pack_ids, receive, send, unpack_strings


def main() -> None:
    """Read a tokenizer and then batches from stdin, write what they become to stdout, until stdin is closed."""
    requests, results = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may get between the results
    settings = json.loads(receive(requests))
    tokenizer = tokenizer_from_json(settings["tokenizer"], plain=settings["plain"])
    while True:
        try:
            batch = receive(requests)
        except EOFError:
            return
        send(results, _result(tokenizer, batch))


def _result(tokenizer: Tokenizer, batch: bytes) -> bytes:
    try:
        return pack_ids(encode_batch(tokenizer, unpack_strings(batch)))
    except UserError as error:
        return REFUSED + str(error).encode()
    except Exception:
        return FAILED + traceback.format_exc().encode("utf-8", "replace")
