"""An unlimited supply of children's stories: no data file, no download, and the loss of a perfect model is known.

    >>> story = next(stories(seed=0, count=1))
    >>> accepts(story.text), parse_story(story.text) == story
    (True, True)

A seeded probabilistic grammar writes them (`grammar.py` is the engine, `story_shapes.py` the place to read first). Each
story has exactly one derivation, so −ln P(story) is `story.nats`. A model that scores stories from their own start, in
a context that holds them, with one end token a story, cannot get below, on average,

    loss floor = Σ −ln P(story) / number of targets

and the gap between a model and that floor is what it has yet to learn: agreement, recall, order. The same grammar
parses texts, so that what a model writes can be accepted or rejected.

Each choice has a kind. Words that are sampled: name, person, animal, place, object, food, colour, trait, number, time,
sound, deed, event, feeling. The same with " recalled" where a word comes back, and "pronoun" where only its pronoun
does: 0 nats. Ways to say something: story, shape, opening, sentence, feeling, meeting, dialog, filler, moral, ending.
"""

from collections.abc import Collection, Iterator
from random import Random

from llamita.corpus.grammar import Choice, Grammar, Rule, Story
from llamita.corpus.story_phrases import PHRASES
from llamita.corpus.story_shapes import SHAPES, shape_rules
from llamita.corpus.story_words import TABLES
from llamita.randomness import key

__all__ = ["GRAMMAR", "Choice", "Story", "accepts", "parse_story", "stories", "validation_stories"]

RULES = {"story": Rule("story", "<opening> <keepsake>\n\n<shape> <ending>"), **PHRASES, **shape_rules(SHAPES)}
GRAMMAR = Grammar(RULES, TABLES)
"""The grammar of the built-in stories."""


def stories(seed: int, count: int, *, split: str = "train", exclude: Collection[str] | None = None) -> Iterator[Story]:
    """`count` stories; number i is a function of (seed, split, i) alone.

    A story whose text is in `exclude` is sampled again, so that training never sees a validation story:

        held_out = validation_stories(seed, 200)
        training = stories(seed, 30_000, exclude={story.text for story in held_out})
    """
    for number in range(count):
        yield _story(seed, split, number, exclude or ())


def _story(seed: int, split: str, number: int, exclude: Collection[str]) -> Story:
    random = Random(key(seed, "stories", split, number)).random
    while (story := GRAMMAR.sample(random)).text in exclude:
        pass
    return story


def validation_stories(seed: int, count: int) -> list[Story]:
    """The stories to evaluate on; pass their texts as `exclude` when training stories are made."""
    return list(stories(seed, count, split="validation"))


def parse_story(text: str) -> Story | None:
    """The story that this text is, with every choice that was made, or None if the grammar can't have written it.

    White space around the text doesn't count, as a sample may come with a newline. Everything inside does.
    """
    derivations = GRAMMAR.parse(text.strip())
    return derivations[0] if derivations else None


def accepts(text: str) -> bool:
    """Whether the grammar can have written this text."""
    return parse_story(text) is not None
