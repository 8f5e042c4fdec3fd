"""From ids to text, token by token: whole characters only, and nothing from a stop string on."""

import codecs
from collections.abc import Sequence

from llamita.tokenizer import Tokenizer


class Detokenizer:
    """The text of one sequence in pieces that end at whole characters, up to the first stop string.

    The bytes of a character may come in several tokens. Text that might begin a stop string is held back until it is
    known whether it does; so a stop string is found wherever its tokens are split.

    >>> detokenizer = Detokenizer(tokenizer, stop=("END",))
    >>> [detokenizer.push(token) for token in tokenizer.encode("a EN")]     # ["a", " "], and "EN" is held back
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self.tokenizer, self.stop, self.has_stopped = tokenizer, stop, False
        self._special = {token: name.encode() for name, token in tokenizer.special_tokens.items()}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def push(self, token: int) -> str:
        """Append a token -> the text that is certain now. Special tokens are spelled out."""
        return self._release(self._decoder.decode(self._special.get(token) or self.tokenizer.token_bytes(token)))

    def flush(self) -> str:
        """The rest at the end of the sequence: incomplete characters as U+FFFD, and what was held back."""
        piece = self._release(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return piece + held

    def _release(self, text: str) -> str:
        self._held += text
        found = [place for stop in self.stop if (place := self._held.find(stop)) >= 0]
        if found:
            self.has_stopped = True
            piece, self._held = self._held[: min(found)], ""
            return piece
        end = len(self._held) - self._possible_start()
        piece, self._held = self._held[:end], self._held[end:]
        return piece

    def _possible_start(self) -> int:
        """The length of the longest end of the held text that begins a stop string."""
        most = min(max(map(len, self.stop), default=1) - 1, len(self._held))
        return next((size for size in range(most, 0, -1) if self._begins_a_stop(self._held[-size:])), 0)

    def _begins_a_stop(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self.stop)
