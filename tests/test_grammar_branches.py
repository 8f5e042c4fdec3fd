"""The exact probability of every token of a story, against all stories of a grammar that is small enough to count."""

import math

import numpy as np
import pytest
from test_grammar import TINY, grammar

from llamita.corpus.grammar import Grammar, Rule
from llamita.corpus.grammar_branches import ExactLoss, branches
from llamita.corpus.stories import GRAMMAR, validation_stories
from llamita.tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, Tokenizer, train_bpe

LONG = grammar(
    "{hero=names} has {pet.a=pets}.\n\n<then: who=hero>",
    then=Rule("sentence", "{who}'s pet", "{who}s everywhere: {a=names}, {b=names}", ("{who}  smiles at 12 moons.", 3)),
)
"""Words that begin alike, punctuation before line breaks, a contraction, two spaces, a number, no end of sentence."""


def tokenizer_of(grammar: Grammar, kind: str) -> Tokenizer:
    texts = [story.text for story in grammar.enumerate()]
    if kind == "characters":
        return CharTokenizer("".join(texts))
    vocab, merges = train_bpe(texts, vocab_size=330, special_tokens=[END_OF_TEXT], pattern=kind)
    return BPETokenizer(vocab, merges, [END_OF_TEXT], kind)


def ids_of(text: str, tokenizer: Tokenizer) -> list[int]:
    assert tokenizer.end_id is not None
    return [*tokenizer.encode(text), tokenizer.end_id]


@pytest.mark.parametrize("kind", ["gpt2", "cl100k", "llama3", "characters"])
@pytest.mark.parametrize("counted", [TINY, LONG], ids=["tiny", "long"])
def test_the_probability_of_each_token_is_that_of_counting_all_stories(counted, kind):
    tokenizer = tokenizer_of(counted, kind)
    weights = {tuple(ids_of(story.text, tokenizer)): math.exp(-story.nats) for story in counted.enumerate()}
    exact = ExactLoss(counted, tokenizer)
    for story in counted.enumerate():
        ids = ids_of(story.text, tokenizer)
        begun = [
            sum(weight for tokens, weight in weights.items() if list(tokens[:k]) == ids[:k])
            for k in range(len(ids) + 1)
        ]
        np.testing.assert_allclose(exact.nats(story.text, ids), -np.diff(np.log(begun)), atol=1e-9)


TEXTS = ["", "Mia met Tom. Tom wa", "Mia met nobody", "In the yard lived a dog. A dog says woof."]


@pytest.mark.parametrize("length", [1, 4, 30])
@pytest.mark.parametrize("text", TEXTS)
def test_every_story_is_in_exactly_one_branch(text, length):
    found: dict[str, float] = {}
    for branch in branches(TINY, text, lambda instead: len(instead) >= length):
        begun = text[: branch.shared] + branch.instead
        found[begun] = found.get(begun, 0.0) + math.exp(-branch.nats)
        assert branch.ended == (begun in [story.text for story in TINY.enumerate()])
        assert branch.instead[:1] != text[branch.shared : branch.shared + 1] or begun == text
    assert math.fsum(found.values()) == pytest.approx(1.0, abs=1e-12)
    for begun, share in found.items():
        longer = [other for other in found if other != begun and other.startswith(begun)]
        stories = [story for story in TINY.enumerate() if story.text.startswith(begun)]
        rest = [story for story in stories if not story.text.startswith(tuple(longer))]
        assert share == pytest.approx(sum(math.exp(-story.nats) for story in rest))


def test_the_exact_losses_of_the_tokens_of_a_built_in_story_sum_to_its_own():
    stories = validation_stories(0, 5)
    vocab, merges = train_bpe([story.text for story in stories], vocab_size=600, special_tokens=[END_OF_TEXT])
    tokenizer = BPETokenizer(vocab, merges, [END_OF_TEXT])
    exact = ExactLoss(GRAMMAR, tokenizer)
    for story in stories:
        nats = exact.nats(story.text, ids_of(story.text, tokenizer))
        assert nats.sum() == pytest.approx(story.nats, rel=1e-9)
        assert nats.min() > -1e-9
