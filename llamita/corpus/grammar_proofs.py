"""What can be proved of a grammar without writing a single story.

- `overlaps`: no alternative writes a text that begins another one's text. Then the grammar is a prefix code: two
  derivations that part at some choice write texts that part there too, so every text has at most one derivation.
- `least_nats`: −ln P of the likeliest story, or less.
- `unbound`: whatever is recalled was drawn before.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise, product

from llamita.corpus.grammar import Draw, Expand, Grammar, Item, Literal, Pending, Recall, Word, chain

_Names = frozenset[str]
_Side = tuple[str, Pending]  # text that the other side has not matched yet, and the items after it


def least_nats(grammar: Grammar) -> float:
    """A lower bound on −ln P of every story: each choice is taken as its likeliest, whatever was remembered.

    A draw counts with as few words as can be left: the smallest table it may meet, less one word for each rival.
    """
    return _least_nats(grammar, grammar.start, {})


def _least_nats(grammar: Grammar, item: Item, known: dict[str, float]) -> float:
    if isinstance(item, Draw):
        return math.log(max(1, min(map(len, grammar.tables_of(item))) - len(item.rivals)))
    if not isinstance(item, Expand):
        return 0.0
    if item.rule not in known:
        known[item.rule] = min(
            nats + sum(_least_nats(grammar, inner, known) for inner in items)
            for nats, items in zip(item.nats, item.alternatives, strict=True)
        )
    return known[item.rule]


def unbound(grammar: Grammar) -> set[str]:
    """The names that some derivation recalls before it has drawn them, each with the rule where that happens."""
    faults: set[str] = set()
    _bound_after(grammar.start, frozenset(), faults)
    return faults


def _bound_after(expand: Expand, bound: _Names, faults: set[str]) -> _Names:
    """The names that are certainly bound after `expand`."""
    faults |= {f"{outside} in <{expand.rule}: …>" for _, outside in expand.aliases if outside not in bound}
    bound |= {inside for inside, _ in expand.aliases}
    return frozenset.intersection(*(_bound_in(items, expand.rule, bound, faults) for items in expand.alternatives))


def _bound_in(items: Iterable[Item], rule: str, bound: _Names, faults: set[str]) -> _Names:
    for item in items:
        if isinstance(item, Expand):
            bound = _bound_after(item, bound, faults)
        elif isinstance(item, Draw):
            faults |= {f"{item.owner} in {rule}"} if item.owner and item.owner not in bound else set()
            bound |= {item.name}
        elif isinstance(item, Recall) and item.name not in bound:
            faults.add(f"{item.name} in {rule}")
    return bound


def overlaps(grammar: Grammar) -> list[str]:
    """What prevents the grammar from being a prefix code; empty for a grammar whose every text has one derivation.

    Tables are looked at in the forms in which they are drawn, rules pair by pair of their templates. It is a sound
    test, not a complete one: it may complain of a grammar that is fine, never the other way round.
    """
    faults = []
    for draw in grammar.items(Draw):
        faults += [fault for table in grammar.tables_of(draw) for fault in _begins(draw, table)]
    for name, alternatives in grammar.alternatives.items():
        for left, right in combinations(range(len(alternatives)), 2):
            if (seen := _common_text(grammar, alternatives[left], alternatives[right])) is not None:
                first, second = grammar.rules[name].templates[left], grammar.rules[name].templates[right]
                faults.append(f"rule {name!r}: {first!r} and {second!r} may both begin {seen!r}")
    return faults


def _begins(draw: Draw, table: Iterable[Word]) -> Iterator[str]:
    shown = sorted(word.forms[draw.form] for word in table)
    for first, second in pairwise(shown):  # in sorted order, a prefix comes right before a text that it begins
        if second.startswith(first):
            yield f"{{{draw.name}.{draw.form}={draw.source}}}: {first!r} begins {second!r}"


def _common_text(grammar: Grammar, left: tuple[Item, ...], right: tuple[Item, ...]) -> str | None:
    """The end of a text which `left` may write and with which a text of `right` may begin, or the other way round.

    Both sides are walked in step, along all texts on which they agree. `apart` holds the names that the two sides have
    bound each in its own way: for those, nothing is assumed about what they hold.
    """
    start = (("", chain(left)), ("", chain(right)), frozenset())
    seen, todo = {start}, [start]
    while todo:
        (text, pending), (other_text, other_pending), apart = todo.pop()
        if (not text and pending is None) or (not other_text and other_pending is None):
            return text or other_text or "(the same text)"
        for a, b, now_apart in _steps(grammar, (text, pending), (other_text, other_pending), apart):
            shared = min(len(a[0]), len(b[0]))
            state = ((a[0][shared:], a[1]), (b[0][shared:], b[1]), now_apart)
            if a[0][:shared] == b[0][:shared] and state not in seen:
                seen.add(state)
                todo.append(state)
    return None


def _steps(grammar: Grammar, a: _Side, b: _Side, apart: _Names) -> Iterator[tuple[_Side, _Side, _Names]]:
    """Where the two sides may be after the next item of one of them, or after the same item of both."""
    (text, pending), (other_text, other_pending) = a, b
    heads = (pending[0], other_pending[0]) if pending and other_pending and not text + other_text else None
    if pending and other_pending and heads and _are_one(*heads, apart):
        yield ("", pending[1]), ("", other_pending[1]), apart
    elif pending and other_pending and heads and (pairs := _different_words(grammar, *heads, apart)):
        yield from (((mine, pending[1]), (yours, other_pending[1]), apart) for mine, yours in pairs)
    elif not text:
        yield from ((side, b, apart | names) for side, names in _expanded(grammar, pending))
    else:
        yield from ((a, side, apart | names) for side, names in _expanded(grammar, other_pending))


def _are_one(item: Item, other: Item, apart: _Names) -> bool:
    """Whether two items at the same place in the text, with the same memory, write the same or part for good."""
    if isinstance(item, Recall) and isinstance(other, Recall):
        return (item.name, item.form) == (other.name, other.form) and item.name not in apart
    if isinstance(item, Draw) and isinstance(other, Draw):
        alike = (item.name, item.form, item.source) == (other.name, other.form, other.source)
        return alike and not ({item.owner, *item.rivals} & apart)
    if isinstance(item, Expand) and isinstance(other, Expand):  # a rule is a prefix code when it is in this list
        return (item.rule, item.aliases) == (other.rule, other.aliases) and not apart
    return False


def _different_words(grammar: Grammar, item: Item, other: Item, apart: _Names) -> list[tuple[str, str]]:
    """What two recalled names may both show when they never hold the same word; empty if nothing is known of them.

    Two names that were drawn differ, because a draw never repeats what is remembered. But if each side has bound one of
    them in its own way, either side's memory may hold what the other's has under the other name.
    """
    if not (isinstance(item, Recall) and isinstance(other, Recall)) or item.name == other.name:
        return []
    aliases = {inside for expand in grammar.items(Expand) for inside, _ in expand.aliases}
    if {item.name, other.name} & aliases or {item.name, other.name} <= apart:
        return []
    pairs = product(grammar.possible[item.name], grammar.possible[other.name])
    return [(mine.forms[item.form], yours.forms[other.form]) for mine, yours in pairs if mine is not yours]


def _expanded(grammar: Grammar, pending: Pending) -> Iterator[tuple[_Side, _Names]]:
    """What the first pending item may write, and the names that it binds on its own."""
    assert pending is not None
    item, rest = pending
    if isinstance(item, Literal):
        yield (item.text, rest), frozenset()
    elif isinstance(item, Expand):
        names = frozenset(inside for inside, _ in item.aliases)
        yield from ((("", chain(items, rest)), names) for items in item.alternatives)
    elif isinstance(item, Recall):
        yield from (((word.forms[item.form], rest), frozenset()) for word in grammar.possible[item.name])
    else:
        words = {word: None for table in grammar.tables_of(item) for word in table}
        yield from (((word.forms[item.form], rest), frozenset({item.name})) for word in words)
