"""Where the stories of a grammar part from a text: the exact probability of every next token.

All stories of a grammar are sorted by how far they agree with a text. Those that agree with its first k tokens have the
probability P(k) together, so the token after them has the probability P(k + 1) / P(k). No model does better on average.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from llamita.corpus.grammar import Draw, Expand, Grammar, Literal, Memory, Pending, Recall, chain
from llamita.tokenizer import Tokenizer
from llamita.tokenizer.patterns import breaks, last_break


class Branch(NamedTuple):
    """Stories that begin with `text[:shared] + instead`, and part from the text there; other branches may begin alike.

    ended: whether it is a single story, which ends there. nats: -ln of their probability. `instead` is empty only for
    the story that is the text.
    """

    shared: int
    instead: str
    ended: bool
    nats: float


class _State(NamedTuple):
    """A derivation that agrees with the text up to `shared`, and has written `instead` after that."""

    shared: int
    instead: str
    pending: Pending
    memory: Memory
    nats: float


def branches(grammar: Grammar, text: str, is_enough: Callable[[str], bool]) -> Iterator[Branch]:
    """Every story of the grammar is in exactly one of these: their probabilities sum to 1.

    A branch is followed beyond the text until `is_enough(instead)`.
    """
    states = [_State(0, "", (grammar.start, None), {}, 0.0)]
    while states:
        state = states.pop()
        ended = state.pending is None
        if ended or (state.instead and is_enough(state.instead)):
            yield Branch(state.shared, state.instead, ended, state.nats)
        else:
            states += _successors(state, text)


def _successors(state: _State, text: str) -> Iterator[_State]:
    """The states after the next item of a derivation: one for each of its alternatives."""
    assert state.pending is not None
    (item, rest), memory = state.pending, state.memory
    if isinstance(item, Literal):
        yield _written(state, text, item.text, rest, memory, 0.0)
    elif isinstance(item, Recall):
        yield _written(state, text, memory[item.name].forms[item.form], rest, memory, 0.0)
    elif isinstance(item, Draw):
        words = item.words(memory)
        for word in words:
            yield _written(state, text, word.forms[item.form], rest, memory | {item.name: word}, math.log(len(words)))
    elif isinstance(item, Expand):
        inside = memory | {name: memory[outside] for name, outside in item.aliases}
        for items, nats in zip(item.alternatives, item.nats, strict=True):
            yield state._replace(pending=chain(items, rest), memory=inside, nats=state.nats + nats)


def _written(state: _State, text: str, added: str, rest: Pending, memory: Memory, nats: float) -> _State:
    """The state after a string was written."""
    common = 0 if state.instead else _common(added, text[state.shared : state.shared + len(added)])
    return _State(state.shared + common, state.instead + added[common:], rest, memory, state.nats + nats)


class ExactLoss:
    """The loss of a model that knows the grammar perfectly, token by token, in nats.

    Encoded strings are cached, since stories have their branches in common.
    """

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer):
        self._grammar, self._tokenizer = grammar, tokenizer
        self._known: dict[str, list[int]] = {}

    def nats(self, text: str, ids: Sequence[int]) -> np.ndarray:
        """(tokens,) float64: -ln of the probability of each of `ids`, given those before it.

        `ids` are the tokens of a story's text, with the end token. They sum to the `nats` of the story.
        """
        cuts = self._cuts(text, ids)
        masses = np.zeros(len(ids) + 1)
        for branch in branches(self._grammar, text, lambda instead: last_break(instead) > 0):
            masses[self._shared_tokens(branch, text, ids, cuts)] += math.exp(-branch.nats)
        reached = masses[::-1].cumsum()[::-1]  # the probability of the first k tokens
        return -np.diff(np.log(reached))

    def _cuts(self, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
        """(character, number of its token) at 0 and wherever the text before encodes on its own."""
        ends = np.cumsum([0, *(self._tokenizer.byte_lengths[token] for token in ids)]).tolist()
        first = {end: index for index, end in reversed(list(enumerate(ends)))}
        return [(0, 0), *((cut, first[len(text[:cut].encode())]) for cut in breaks(text))]

    def _shared_tokens(self, branch: Branch, text: str, ids: Sequence[int], cuts: list[tuple[int, int]]) -> int:
        """How many of the first `ids` the stories of a branch have, too."""
        start, place = cuts[max(bisect_left(cuts, (branch.shared, 0)) - 1, 0)]
        end = len(branch.instead) if branch.ended else last_break(branch.instead)
        theirs = self._encoded(text[start : branch.shared] + branch.instead[:end])
        end_id = self._tokenizer.end_id
        theirs = [*theirs, end_id] if branch.ended and end_id is not None else theirs
        return place + _common(theirs, ids[place : place + len(theirs)])

    def _encoded(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text)
        return self._known[text]


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
