"""The engine, on grammars small enough to count all that they can write."""

import math
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from llamita.corpus.grammar import Grammar, Rule, Story, Word, with_article
from llamita.corpus.grammar_proofs import least_nats, overlaps, unbound

CAT = Word("animal", "cat", sound="meow")
OWL = Word("animal", "owl", sound="hoo")
PETS = (CAT, OWL, Word("animal", "dog", sound="woof"))
BARN = Word("place", "barn", {"animals": (OWL,)})
YARD = Word("place", "yard", {"animals": PETS})
MIA = Word("name", "Mia", he="she")
TOM = Word("name", "Tom", he="he")
TABLES = {"pets": PETS, "places": (BARN, YARD), "names": (MIA, TOM, Word("name", "Zoe", he="she"))}

TINY = Grammar(
    {
        "story": Rule(
            "shape",
            ("{hero=names} met {friend=names}. <greet: who=hero> <greet: who=friend>", 3),
            "In the {place=places} lived {pet.a=place.animals}. {pet.A} says {pet.sound}.",
            "{hero=names} saw {pet.a=pets} and {other.a=pets}. {hero.He} fed the {other}.",
        ),
        "greet": Rule("dialog", "{who} waved.", ("{who} said hello.", 2)),
    },
    TABLES,
)


def grammar(*templates: str, **rules: Rule) -> Grammar:
    return Grammar({"story": Rule("shape", *templates), **rules}, TABLES)


def probability(story: Story) -> float:
    return math.exp(-story.nats)


def test_the_probabilities_of_all_stories_sum_to_one():
    stories = list(TINY.enumerate())
    assert len(stories) == 3 * 2 * 2 * 2 + (1 + 3) + 3 * 3 * 2
    assert math.fsum(map(probability, stories)) == pytest.approx(1.0, abs=1e-12)


def test_every_text_of_the_tiny_grammar_has_one_derivation_and_parses_back_to_it():
    stories = list(TINY.enumerate())
    assert len({story.text for story in stories}) == len(stories)
    assert all(TINY.parse(story.text) == [story] for story in stories)


def test_a_sampled_word_is_never_one_that_is_remembered():
    assert not any(text in story.text for story in TINY.enumerate() for text in ("Mia met Mia", "a cat and a cat"))


def test_samples_come_as_often_as_their_probability_says():
    random, count = Random(3).random, 20_000
    seen = Counter(TINY.sample(random).text for _ in range(count))
    stories = list(TINY.enumerate())
    chi_square = sum((seen[s.text] - count * probability(s)) ** 2 / (count * probability(s)) for s in stories)
    degrees = len(stories) - 1
    assert seen.keys() == {story.text for story in stories}
    assert abs(chi_square - degrees) < 4 * math.sqrt(2 * degrees)


def test_the_mean_loss_is_the_entropy_and_no_other_model_has_less():
    stories = list(TINY.enumerate())
    entropy = math.fsum(probability(story) * story.nats for story in stories)
    random = Random(0).random
    samples = [TINY.sample(random).nats for _ in range(20_000)]
    assert sum(samples) / len(samples) == pytest.approx(entropy, abs=0.02)
    for seed in range(20):  # models that are wrong in all ways: the cross entropy is at least the entropy (Gibbs)
        wrong = [probability(story) * Random(f"{seed} {story.text}").uniform(0.5, 2) for story in stories]
        losses = [-math.log(w / sum(wrong)) for w in wrong]
        assert math.fsum(probability(s) * loss for s, loss in zip(stories, losses, strict=True)) > entropy


def test_the_bound_on_the_likeliest_story_is_a_bound_and_not_far_off():
    assert 0 < least_nats(TINY) <= min(story.nats for story in TINY.enumerate()) < least_nats(TINY) + 1


def test_choices_cover_what_they_chose():
    story = next(s for s in TINY.enumerate() if s.text == "In the barn lived an owl. An owl says hoo.")
    shown = [(story.text[c.start : c.end], c.kind, round(math.exp(-c.nats), 6)) for c in story.choices]
    assert shown == [
        (story.text, "shape", 0.2),
        ("barn", "place", 0.5),
        ("an owl", "animal", 1.0),
        ("An owl", "animal recalled", 1.0),
        ("hoo", "animal recalled", 1.0),
    ]


def test_pronouns_are_a_kind_of_their_own():
    story = TINY.parse("Tom saw a cat and an owl. He fed the owl.")[0]
    assert [(story.text[c.start : c.end], c.nats) for c in story.choices if c.kind == "pronoun"] == [("He", 0.0)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Tom",
        "Tom saw a cat and an owl. She fed the owl.",
        "Tom saw a cat and an owl. He fed the cat.",
        "Tom saw a cat and an owl. He fed the owl. ",
        "Tom met Tom. Tom waved. Tom waved.",
        "In the barn lived a cat. A cat says meow.",
    ],
)
def test_other_texts_have_no_derivation(text):
    assert TINY.parse(text) == []


def test_articles_fit_the_sound_of_the_word():
    assert with_article("apple") == "an apple"
    assert Word("thing", "hour", a="an hour").forms["A"] == "An hour"


def test_the_tiny_grammar_is_proved_to_be_a_prefix_code():
    assert overlaps(TINY) == []
    assert unbound(TINY) == set()


@pytest.mark.parametrize(
    ("templates", "rules"),
    [
        (("Good night.", "Good night. Sleep well."), {}),
        (("{hero=names} ran.", "Tom ran."), {}),
        (("{hero=names} <end>", "{hero=names} ran far."), {"end": Rule("ending", "ran", "sat")}),
        (("{a=pets} and {b=pets} met. {a}", "{b=pets} and {a=pets} met. {b}"), {}),
    ],
)
def test_a_grammar_with_two_derivations_of_one_text_is_found(templates, rules):
    """The oracle is enumeration: some text begins another one, and `overlaps` must not miss that."""
    suspect = grammar(*templates, **rules)
    texts = sorted(story.text for story in suspect.enumerate())
    assert any(second.startswith(first) for first, second in pairwise(texts))
    assert overlaps(suspect)


def test_words_that_are_prefixes_of_others_are_found():
    cart = (Word("thing", "car"), Word("thing", "cart"))
    assert overlaps(Grammar({"story": Rule("shape", "a {thing=things}")}, {"things": cart}))


def test_random_grammars_that_pass_the_proof_are_prefix_codes():
    pieces = ["a", "b", "ab", "{x=names} ", "{x=names}b", "<tail>", "<tail: who=x>", "{x.he}"]
    passed = 0
    for seed in range(400):
        random = Random(seed)
        template = lambda r=random: "{x=pets}" + "".join(r.choice(pieces) for _ in range(r.randint(1, 3)))  # noqa: E731
        tail = Rule("tail", *("".join(random.choice(["a", "b", "ba", "c"]) for _ in range(2)) for _ in range(2)))
        try:
            suspect = grammar(template(), template(), template(), tail=tail)
        except ValueError:  # asks an animal for its pronoun
            continue
        if not overlaps(suspect):
            passed += 1
            texts = sorted(story.text for story in suspect.enumerate())
            assert not any(second.startswith(first) for first, second in pairwise(texts))
    assert passed > 20


def test_a_recall_of_what_was_never_sampled_is_found():
    assert unbound(grammar("{hero.he} ran.", "{hero=names} ran.")) == {"hero in story"}


def test_templates_that_make_no_sense_are_refused_when_the_grammar_is_made():
    with pytest.raises(ValueError, match="no such form"):
        grammar("{hero=names} {hero.size}")
    with pytest.raises(ValueError, match="can't be read"):
        grammar("{hero=names ran.")


def test_a_text_deeper_than_pythons_stack_parses():
    long = grammar("<part>" * 5000, part=Rule("part", "a", "b"))
    text = "ab" * 2500
    assert len(long.parse(text)) == 1
    assert long.parse(text[:-1]) == []
