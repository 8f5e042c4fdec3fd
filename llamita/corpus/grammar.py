"""A probabilistic grammar with a memory: it writes stories, parses them, and knows their probabilities.

A story is written by walking *templates*. A template is plain text with four kinds of placeholders in it:

    <opening>              expand the rule `opening`: pick one of its templates
    <happy: who=friend>    the same, and inside it `who` means whoever `friend` is
    {toy.a=toys}           draw a word from the table `toys`, remember it as `toy`, write its form `a` ("an orange")
    {pet=place.animals}    the same from a table that belongs to the remembered word `place`
    {hero}  {hero.he}      write a remembered word again, or another form of it; `{hero.He}` begins with a capital

A draw never repeats a word that the story already remembers: it chooses among the others, each as likely as the next.
So the probability of a derivation is a product of known factors, and a *derivation* is just the list of numbers
that were picked. Sampling picks them at random, parsing finds them in a text, and the same `write` turns them
into the story: the sampler and the parser cannot disagree about a text.

`grammar_proofs.py` proves of a grammar that no two derivations write the same text.
"""

import math
import re
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

PRONOUNS = frozenset({"he", "him", "his"})
"""The forms of a word that are pronouns; they are named after one gender because a key has to be."""


class Choice(NamedTuple):
    """One decision of a story, and where it shows: `text[start:end]`.

    A rule's span covers everything that it expanded to, so spans nest like a parse tree; the shortest span over
    a position is the kind of that position. What is recalled costs nothing (`nats` 0): it was decided before.
    """

    start: int
    end: int
    kind: str
    nats: float


class Story(NamedTuple):
    """A text and the choices that made it, in the order in which they were made."""

    text: str
    choices: tuple[Choice, ...]

    @property
    def nats(self) -> float:
        """−ln P(story): the loss of a model that knows the grammar perfectly, on the text and its end."""
        return sum(choice.nats for choice in self.choices)


class Word:
    """What a story can remember: a text, other forms of it (`a`, `he`, `his`), and tables that belong to it."""

    __slots__ = ("forms", "kind", "recalled", "tables")

    def __init__(self, kind: str, text: str, tables: Mapping[str, Sequence["Word"]] | None = None, **forms: str):
        lower = {"text": text, "a": with_article(text), **forms}
        self.forms = lower | {_capital(form): _capital(shown) for form, shown in lower.items()}
        self.kind = kind
        self.recalled = f"{kind} recalled"
        self.tables = {name: tuple(words) for name, words in (tables or {}).items()}

    def __repr__(self) -> str:
        return f"Word({self.kind!r}, {self.forms['text']!r})"


class Rule:
    """A kind of choice and its templates; one that is given as `(template, weight)` comes `weight` times as often."""

    __slots__ = ("kind", "templates", "weights")

    def __init__(self, kind: str, *templates: str | tuple[str, float]):
        pairs = [(template, 1.0) if isinstance(template, str) else template for template in templates]
        self.kind = kind
        self.templates = tuple(template for template, _ in pairs)
        self.weights = tuple(weight for _, weight in pairs)


def with_article(text: str) -> str:
    """`text` after "a" or "an"; a word that sounds unlike its spelling states its own form `a`.

    >>> with_article("owl"), with_article("bear")
    ('an owl', 'a bear')
    """
    return f"an {text}" if text[:1] in "aeiou" else f"a {text}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- The compiled grammar: each item of a template can write itself, and read itself back -----------------------------

Memory: TypeAlias = dict[str, Word]
Pick: TypeAlias = Callable[[int, Sequence[float] | None], int]
"""Picks one of `count` alternatives, equally likely, or as the bounds between them say."""

Pending: TypeAlias = "tuple[Item, Pending] | None"
"""What is still to be read, as a chain, so that states share their tails."""

Picks: TypeAlias = "tuple[int, Picks] | None"
"""The numbers picked so far, the last one first."""

State: TypeAlias = tuple[int, Pending, Memory, Picks]


class Draft:
    """A story while it is written."""

    __slots__ = ("choices", "length", "memory", "pick", "pieces")

    def __init__(self, pick: Pick):
        self.pick = pick
        self.pieces: list[str] = []
        self.length = 0
        self.memory: Memory = {}
        self.choices: list[Choice] = []

    def add(self, text: str) -> None:
        """Append text that nobody chose."""
        self.pieces.append(text)
        self.length += len(text)

    def show(self, text: str, kind: str, nats: float) -> None:
        """Append text and record the choice that it shows."""
        start = self.length
        self.pieces.append(text)
        self.length = end = start + len(text)
        self.choices.append(Choice(start, end, kind, nats))


class Literal:
    """Plain text."""

    __slots__ = ("text",)

    def __init__(self, text: str):
        self.text = text

    def write(self, draft: Draft) -> None:
        """Append the text."""
        draft.add(self.text)

    def read(self, text: str, position: int, rest: Pending, memory: Memory, picks: Picks) -> list[State]:
        """Continue after the text, if it is there."""
        if text.startswith(self.text, position):
            return [(position + len(self.text), rest, memory, picks)]
        return []


class Recall:
    """A remembered word, in one of its forms."""

    __slots__ = ("form", "is_pronoun", "name")

    def __init__(self, name: str, form: str):
        self.name = name
        self.form = form
        self.is_pronoun = form.lower() in PRONOUNS

    def write(self, draft: Draft) -> None:
        """Append the word, a choice without surprise."""
        word = draft.memory[self.name]
        draft.show(word.forms[self.form], "pronoun" if self.is_pronoun else word.recalled, 0.0)

    def read(self, text: str, position: int, rest: Pending, memory: Memory, picks: Picks) -> list[State]:
        """Continue after the word that memory requires."""
        shown = memory[self.name].forms[self.form]
        return [(position + len(shown), rest, memory, picks)] if text.startswith(shown, position) else []


class Draw:
    """A new word from a table, to be remembered. `rivals` are the names that may hold words of the same table."""

    __slots__ = ("field", "form", "name", "owner", "rivals", "source", "table")

    def __init__(self, name: str, form: str, source: str, tables: Mapping[str, Sequence[Word]]):
        self.name = name
        self.form = form
        self.source = source
        self.owner, _, self.field = source.rpartition(".")
        self.table = () if self.owner else tuple(tables[source])
        self.rivals: tuple[str, ...] = ()

    def words(self, memory: Memory) -> Sequence[Word]:
        """The words that may be drawn now, in the table's order."""
        table = memory[self.owner].tables[self.field] if self.owner else self.table
        taken = [memory[name] for name in self.rivals if name in memory]
        return [word for word in table if word not in taken] if taken else table

    def write(self, draft: Draft) -> None:
        """Draw, remember and append a word."""
        words = self.words(draft.memory)
        word = words[draft.pick(len(words), None)]
        draft.memory[self.name] = word
        draft.show(word.forms[self.form], word.kind, math.log(len(words)))

    def read(self, text: str, position: int, rest: Pending, memory: Memory, picks: Picks) -> list[State]:
        """Continue after each word that is there."""
        return [
            (position + len(word.forms[self.form]), rest, memory | {self.name: word}, (index, picks))
            for index, word in enumerate(self.words(memory))
            if text.startswith(word.forms[self.form], position)
        ]


class Expand:
    """One of a rule's alternatives; `aliases` pairs a name inside the rule with the name outside that it refers to."""

    __slots__ = ("aliases", "alternatives", "bounds", "kind", "nats", "rule")

    def __init__(self, rule: str, aliases: Sequence[tuple[str, str]]):
        self.rule = rule
        self.aliases = tuple(aliases)
        self.kind = ""
        self.alternatives: list[tuple[Item, ...]] = []
        self.nats: list[float] = []
        self.bounds: list[float] | None = None

    def resolve(self, rule: Rule, alternatives: list[tuple["Item", ...]]) -> None:
        """Point at the compiled rule, which may not have existed when the template was read."""
        total = sum(rule.weights)
        self.kind = rule.kind
        self.alternatives = alternatives
        self.nats = [math.log(total / weight) for weight in rule.weights]
        if len(set(rule.weights)) > 1:
            self.bounds = [sum(rule.weights[: i + 1]) / total for i in range(len(rule.weights) - 1)]

    def write(self, draft: Draft) -> None:
        """Pick an alternative and write its items; its span is known when they are written."""
        for inside, outside in self.aliases:
            draft.memory[inside] = draft.memory[outside]
        index = draft.pick(len(self.alternatives), self.bounds)
        start, place = draft.length, len(draft.choices)
        draft.choices.append(Choice(start, start, self.kind, self.nats[index]))
        for item in self.alternatives[index]:
            item.write(draft)
        draft.choices[place] = Choice(start, draft.length, self.kind, self.nats[index])

    def read(self, text: str, position: int, rest: Pending, memory: Memory, picks: Picks) -> list[State]:
        """Continue with each alternative that may be there."""
        if self.aliases:
            memory = memory | {inside: memory[outside] for inside, outside in self.aliases}
        return [
            (position, chain(items, rest), memory, (index, picks))
            for index, items in enumerate(self.alternatives)
            if not isinstance(items[0], Literal) or text.startswith(items[0].text, position)
        ]


Item: TypeAlias = Literal | Recall | Draw | Expand


def chain(items: Sequence[Item], rest: Pending = None) -> Pending:
    """The items as a chain in front of `rest`."""
    for item in reversed(items):
        rest = (item, rest)
    return rest


# --- The grammar ------------------------------------------------------------------------------------------------------

_PLACE = re.compile(
    r"\{(?P<name>\w+)(?:\.(?P<form>\w+))?(?:=(?P<source>[\w.]+))?\}"  # {name}, {name.form}, {name.form=table}
    r"|<(?P<rule>[\w /]+)(?:: (?P<aliases>[\w=, ]+))?>"  # <rule>, <rule: inside=outside, inside=outside>
)


class Grammar:
    """Rules and tables, compiled once. `start` is the rule that writes a complete story."""

    def __init__(self, rules: Mapping[str, Rule], tables: Mapping[str, Sequence[Word]], start: str = "story"):
        self.rules = dict(rules)
        self.tables = {name: tuple(words) for name, words in tables.items()}
        self.alternatives = {name: [self._items(t) for t in rule.templates] for name, rule in rules.items()}
        self.start = Expand(start, ())
        for item in (self.start, *self.items(Expand)):
            item.resolve(self.rules[item.rule], self.alternatives[item.rule])
        self.possible = self._possible_words()
        self._check_forms()
        for draw in self.items(Draw):
            draw.rivals = self._rivals(draw)

    def sample(self, random: Callable[[], float]) -> Story:
        """One story, written by chance: `random` gives numbers uniform in [0, 1), as `random.Random(seed).random`."""
        return self.write(lambda count, bounds: bisect(bounds, random()) if bounds else int(random() * count))

    def write(self, pick: Pick) -> Story:
        """The story that follows from what `pick` picks."""
        draft = Draft(pick)
        self.start.write(draft)
        return Story("".join(draft.pieces), tuple(draft.choices))

    def parse(self, text: str) -> list[Story]:
        """All derivations of the whole text: one for a story of this grammar, none for any other text.

        The text is matched from left to right with an explicit stack, so no text can exhaust Python's own. A wrong
        alternative is dropped at the first character that differs.
        """
        found: list[Story] = []
        states: list[State] = [(0, (self.start, None), {}, None)]
        while states:
            position, pending, memory, picks = states.pop()
            if pending is not None:
                item, rest = pending
                states += item.read(text, position, rest, memory, picks)
            elif position == len(text):
                found.append(self._retell(picks))
        return found

    def enumerate(self) -> Iterator[Story]:
        """Every derivation once. For grammars small enough to count: the built-in stories would take forever."""
        picks: list[int] | None = []
        while picks is not None:
            path, counts = iter(picks), []

            def pick(count: int, _: object, path: Iterator[int] = path, counts: list[int] = counts) -> int:
                counts.append(count)
                return next(path, 0)

            yield self.write(pick)
            picks = _successor(picks + [0] * (len(counts) - len(picks)), counts)

    def items(self, kind: type) -> Iterator:
        """All items of one class, wherever they are."""
        for alternatives in self.alternatives.values():
            yield from (item for items in alternatives for item in items if isinstance(item, kind))

    def tables_of(self, draw: Draw) -> list[Sequence[Word]]:
        """The tables that a draw may meet: one, or those of all words that its owner may be."""
        if not draw.owner:
            return [draw.table]
        return [owner.tables[draw.field] for owner in self.possible[draw.owner]]

    def _items(self, template: str) -> tuple[Item, ...]:
        items: list[Item] = []
        end = 0
        for place in _PLACE.finditer(template):
            items += [Literal(template[end : place.start()])] if place.start() > end else []
            items.append(self._item(**place.groupdict()))
            end = place.end()
        items += [Literal(template[end:])] if end < len(template) else []
        if not items or any(isinstance(item, Literal) and set(item.text) & set("{}<>") for item in items):
            raise ValueError(f"this template is empty or has a place that can't be read: {template!r}")
        return tuple(items)

    def _item(self, name: str, form: str | None, source: str | None, rule: str, aliases: str | None) -> Item:
        if rule:
            pairs = [tuple(pair.split("=")) for pair in aliases.split(", ")] if aliases else []
            return Expand(rule, [(inside, outside) for inside, outside in pairs])
        return Draw(name, form or "text", source, self.tables) if source else Recall(name, form or "text")

    def _possible_words(self) -> dict[str, dict[Word, None]]:
        """For each name all words that it may ever hold, found by going round until nothing new turns up."""
        self.possible: dict[str, dict[Word, None]] = {}
        size = -1
        while size < (size := sum(map(len, self.possible.values()))):
            for draw in self.items(Draw):
                if not draw.owner or draw.owner in self.possible:
                    for table in self.tables_of(draw):
                        self.possible.setdefault(draw.name, {}).update(dict.fromkeys(table))
            for inside, outside in (pair for item in self.items(Expand) for pair in item.aliases):
                self.possible.setdefault(inside, {}).update(self.possible.get(outside, {}))
        return self.possible

    def _check_forms(self) -> None:
        for item in (*self.items(Recall), *self.items(Draw)):
            for word in self.possible.get(item.name, {}):
                if item.form not in word.forms:
                    raise ValueError(f"{{{item.name}.{item.form}}} is asked for, but {word} has no such form")

    def _rivals(self, draw: Draw) -> tuple[str, ...]:
        """The other names that are drawn from a table which shares a word with this draw's."""
        mine = {word for table in self.tables_of(draw) for word in table}
        others = {other.name: None for other in self.items(Draw) if other.name != draw.name}
        return tuple(name for name in others if mine & self.possible[name].keys())

    def _retell(self, picks: Picks) -> Story:
        numbers: list[int] = []
        while picks is not None:
            number, picks = picks
            numbers.append(number)
        return self.write(lambda count, bounds: numbers.pop())


def _successor(picks: list[int], counts: list[int]) -> list[int] | None:
    """The next derivation in lexicographic order: the last number that can grow grows, those after it are dropped."""
    while picks and picks[-1] + 1 == counts[len(picks) - 1]:
        picks.pop()
    return [*picks[:-1], picks[-1] + 1] if picks else None
