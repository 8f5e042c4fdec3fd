"""The built-in stories: deterministic, rich, agreeing, recalled, and worth exactly what they say."""

import hashlib
import math
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from llamita.config import DataConfig
from llamita.corpus import Judge, join_documents, open_source
from llamita.corpus.grammar import Draw, Expand, Story
from llamita.corpus.grammar_proofs import least_nats, overlaps, unbound
from llamita.corpus.stories import (
    GRAMMAR,
    accepts,
    parse_story,
    stories,
    validation_stories,
)
from llamita.corpus.story_shapes import SHAPES
from llamita.corpus.story_words import TABLES

SAMPLE = Path(__file__).parent.parent / "data" / "input.txt"
FUNCTION_WORDS = """
    a about above after again all along also an and another any are as asked at away back be because been but by can
    could did do does even every everyone for from had has have he her hers him his how i if in into is it its just last
    let like made me mine more most much my never next no nobody not nothing now of off oh on once one only or other our
    out over said she so some someone something somewhere soon still than that the their them then there these they this
    those to together too until up us very was we were what when where wherever which who whole why will with without
    would yes you your
"""


@pytest.fixture(scope="module")
def told() -> list[Story]:
    return list(stories(0, 2000))


def words_of(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+(?:-[a-z]+)*", text)


# --- One derivation, one probability ----------------------------------------------------------------------------------


def test_the_grammar_is_proved_to_give_every_text_at_most_one_derivation():
    assert overlaps(GRAMMAR) == []
    assert unbound(GRAMMAR) == set()


def test_samples_parse_back_to_themselves_and_to_nothing_else(told):
    for story in told:
        assert GRAMMAR.parse(story.text) == [story]


def test_no_story_has_a_probability_above_one_in_a_billion(told):
    assert math.exp(-least_nats(GRAMMAR)) <= 1e-9
    assert least_nats(GRAMMAR) <= min(story.nats for story in told)


def test_choices_nest_and_show_where_they_say(told):
    for story in told[:300]:
        assert story.choices[0] == (0, len(story.text), "story", 0.0)
        starts = [choice.start for choice in story.choices]
        assert starts == sorted(starts)
        for choice in story.choices:
            assert choice.start < choice.end <= len(story.text)
            assert choice.nats >= 0.0
            assert "recalled" not in choice.kind or choice.nats == 0.0
        names = {word.forms["text"] for word in TABLES["names"] + TABLES["pet_names"]}
        assert all(story.text[c.start : c.end] in names for c in story.choices if c.kind == "name")


@pytest.mark.parametrize(
    ("kind", "table"),
    [("object", "keepsakes"), ("time", "weathers"), ("trait", "traits"), ("animal", "animals"), ("colour", "colours")],
)
def test_words_are_sampled_as_often_as_their_choice_says(kind, table):
    """Chi-square of the first draw of a kind in a story, against the probability that each such draw states."""
    seen, expected = Counter(), Counter()
    for story in stories(11, 4000):
        choice = next((choice for choice in story.choices if choice.kind == kind), None)
        if choice and choice.nats == pytest.approx(math.log(size := len(TABLES[table]))):  # the whole table
            seen[story.text[choice.start : choice.end].split()[-1].lower()] += 1
            expected[size] += 1
    (size, total), *rest = expected.items()
    assert not rest
    assert len(seen) == size
    chi_square = sum((count - total / size) ** 2 * size / total for count in seen.values())
    assert abs(chi_square - (size - 1)) < 4 * math.sqrt(2 * (size - 1))


def test_the_kinds_of_choices_are_those_that_are_documented(told):
    documented = set(
        re.findall(r"[a-z]+", (sys.modules[parse_story.__module__].__doc__ or "").split("Each choice has a kind.")[1])
    )
    kinds = {choice.kind.removesuffix(" recalled") for story in told for choice in story.choices}
    assert kinds <= documented


# --- Deterministic, and disjoint --------------------------------------------------------------------------------------


def test_the_first_story_is_the_same_in_another_process():
    program = "from llamita.corpus.stories import stories; print(next(stories(0, 1)).text, end='')"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == next(stories(0, 1)).text


def test_a_story_depends_on_its_number_not_on_how_many_are_asked_for():
    assert list(stories(5, 20))[:7] == list(stories(5, 7))
    assert next(stories(5, 1)) != next(stories(6, 1))


def test_training_and_validation_share_no_story(told):
    held_out = {story.text for story in validation_stories(0, 500)}
    assert len(held_out) == 500
    assert held_out.isdisjoint(story.text for story in told)


def test_an_excluded_story_is_replaced_and_the_others_stay(told):
    banned = {told[0].text, told[3].text}
    others = list(stories(0, 6, exclude=banned))
    assert banned.isdisjoint(story.text for story in others)
    assert [others[i] == told[i] for i in range(6)] == [False, True, True, False, True, True]


# --- What a reader meets ----------------------------------------------------------------------------------------------


def test_there_are_a_dozen_shapes_and_several_hundred_content_words(told):
    content = {word.lower() for story in told for word in words_of(story.text)} - set(words_of(FUNCTION_WORDS))
    assert len(SHAPES) >= 12
    assert len(content) >= 350


def test_stories_are_short_plain_text(told):
    for story in told:
        assert 80 <= len(story.text.split()) <= 170
        assert story.text.isascii()
        assert story.text == story.text.strip()
        assert "<|endoftext|>" not in story.text
        assert not re.search(r"  |[{}<>]|\ba [aeiou]|\bA [aeiou]|\ban [^aeiou]|\.\.|\b(\w+) \1\b(?! \1)", story.text), (
            story.text
        )
        assert story.text.count('"') % 2 == 0
    assert 45 <= sum(story.nats for story in told) / len(told) <= 90


def test_sentences_begin_with_a_capital(told):
    for story in told[:500]:
        for sentence in re.split(r"(?<=[.!?])[ \n]+", story.text):
            assert sentence.lstrip('"')[0].isupper(), sentence


def test_every_sentence_frame_is_common_enough_to_be_learned():
    """Each template is used in at least 0.5 % of stories, by the exact expectation, not by counting."""
    uses = Counter({"story": 1.0})
    for rule in ("story", *(name for name in _outside_in())):
        for nats, items in zip(_nats(rule), GRAMMAR.alternatives[rule], strict=True):
            assert uses[rule] * math.exp(-nats) >= 0.005, (rule, items)
            for item in items:
                if isinstance(item, Expand):
                    uses[item.rule] += uses[rule] * math.exp(-nats)


def _nats(rule: str) -> list[float]:
    weights = GRAMMAR.rules[rule].weights
    return [-math.log(weight / sum(weights)) for weight in weights]


def _outside_in() -> list[str]:
    """The rules below the start, each after all that call it."""
    order: list[str] = []

    def visit(rule: str) -> None:
        for items in GRAMMAR.alternatives[rule]:
            for item in items:
                if isinstance(item, Expand) and item.rule not in order:
                    visit(item.rule)
        order.append(rule)

    visit("story")
    return order[-2::-1]


def test_every_word_and_every_rule_is_used():
    reached = set(_outside_in()) | {"story"}
    assert reached == set(GRAMMAR.rules)
    assert set(TABLES) == {draw.source for draw in GRAMMAR.items(Draw) if not draw.owner}


# --- Agreement and recall, seen from outside the grammar --------------------------------------------------------------


def test_the_pronoun_after_the_introduction_agrees_with_the_name(told):
    gender = {word.forms["text"]: word.forms["he"] for word in TABLES["names"]}
    agreed = 0
    for story in told:
        opening = story.text.split("\n\n")[0]
        name = next(word for word in words_of(opening) if word in gender)
        pronouns = {word.lower() for word in words_of(opening)} & {"he", "him", "his", "she", "her"}
        assert pronouns <= ({"he", "him", "his"} if gender[name] == "he" else {"she", "her"})
        agreed += bool(pronouns)
        child = {"girl", "boy"} & set(words_of(opening))
        assert child == {"boy" if gender[name] == "he" else "girl"}
    assert agreed > len(told) / 4


def test_the_keepsake_with_its_colour_comes_back_at_the_end(told):
    for story in told:
        colour, keep = (next(c for c in story.choices if c.kind == kind) for kind in ("colour", "object"))
        phrase = f"{story.text[colour.start : colour.end].split()[1]} {story.text[keep.start : keep.end]}"
        assert phrase in story.text.split("\n\n")[0]
        assert phrase in story.text.split("\n\n")[-1]


def test_most_of_what_is_introduced_is_needed_again(told):
    recalled = sum("recalled" in choice.kind for story in told for choice in story.choices)
    assert recalled / len(told) > 10
    assert all(any(c.kind == "name recalled" for c in story.choices) for story in told)


def test_another_word_in_place_of_a_recalled_one_is_rejected(told):
    """A swapped pronoun, another object at the end, another name: all are found out."""
    swaps = {"he": "she", "she": "he", "his": "her", "him": "her", "He": "She", "She": "He", "His": "Her", "Her": "His"}
    for story in told[:200]:
        for choice in [c for c in story.choices if c.nats == 0.0 and ("recalled" in c.kind or c.kind == "pronoun")]:
            shown = story.text[choice.start : choice.end]
            other = swaps.get(shown, "his" if shown == "her" else "xylophone")
            assert not accepts(story.text[: choice.start] + other + story.text[choice.end :]), (shown, story.text)


def test_broken_stories_are_rejected_quickly(told):
    begin, tried = time.perf_counter(), 0
    for story, other in zip(told[:100], told[100:200], strict=True):
        sentences = story.text.split(". ")
        broken = [
            story.text[: len(story.text) // 2],
            story.text[:-1],
            story.text + " The end.",
            ". ".join(sentences[1:]),
            ". ".join([*sentences[:2], *reversed(sentences[2:])]),
            story.text.split("\n\n")[0] + "\n\n" + other.text.split("\n\n", 1)[1],
            story.text + "\n\n" + other.text,
            story.text.lower(),
            story.text.replace("\n\n", " "),
        ]
        assert not any(map(accepts, broken))
        tried += len(broken)
    assert not any(map(accepts, ["", "\n", '"' * 10_000, "Once upon a time, " * 1000, "\x00", "Sleep well."]))
    assert (time.perf_counter() - begin) / tried < 0.02


def test_white_space_around_a_story_does_not_count_and_inside_it_does(told):
    assert parse_story(f"\n {told[0].text}\n") == told[0]
    assert parse_story(told[0].text.replace(" ", "  ", 1)) is None


def test_acceptance_is_a_share(told):
    judge = Judge("grammar", accepts)
    assert judge.acceptance([told[0].text, "No.", told[1].text, ""]) == 0.5
    assert judge.acceptance([]) == 0.0


# --- The floor --------------------------------------------------------------------------------------------------------


def test_the_floor_is_the_loss_of_a_perfect_model_on_all_validation_stories():
    source = open_source(DataConfig(), seed=3)
    assert source.validation
    held_out = [parse_story(text) for text in join_documents(source.validation.pieces())]
    assert len(held_out) == 500
    assert source.floor_nats == pytest.approx(sum(story.nats for story in held_out if story))


def test_no_model_of_characters_gets_below_the_floor(told):
    """A real model, counted from 1,000 stories: far above the floor, and its end tokens are targets too."""
    order, counts = 12, defaultdict(Counter)
    for story in told[:1000]:
        text = "\0" * order + story.text + "\1"
        for i in range(order, len(text)):
            for length in range(0, order + 1, 2):
                counts[text[i - length : i]][text[i]] += 1
    held_out = validation_stories(0, 30)
    losses = [_character_loss(counts, "\0" * order + story.text + "\1", order) for story in held_out]
    targets = sum(len(story.text) + 1 for story in held_out)
    assert sum(losses) / targets > sum(story.nats for story in held_out) / targets
    assert all(loss > story.nats - 5 for loss, story in zip(losses, held_out, strict=True))


def _character_loss(counts: dict[str, Counter[str]], text: str, order: int) -> float:
    """−ln P(text); contexts of several lengths, each blended with the next shorter one (Witten and Bell, 1991)."""
    loss = 0.0
    for i in range(order, len(text)):
        probability = 1 / 128
        for length in range(0, order + 1, 2):
            seen = counts.get(text[i - length : i])
            if seen:
                probability = (seen[text[i]] + len(seen) * probability) / (seen.total() + len(seen))
        loss -= math.log(probability)
    return loss


# --- The sample text that ships ---------------------------------------------------------------------------------------


def test_the_sample_text_is_300_kilobytes_of_stories_that_the_grammar_accepts():
    content = SAMPLE.read_bytes().decode("ascii")
    shipped = content.removesuffix("\n<|endoftext|>\n").split("\n<|endoftext|>\n")
    assert 290_000 <= len(content) <= 310_000
    assert all(map(accepts, shipped[:100]))
    assert len(set(shipped)) == len(shipped)
    held_out = {story.text for story in validation_stories(0, 500)}
    assert held_out.isdisjoint(shipped)


def test_the_first_story_of_the_sample_text_has_not_changed():
    digest = hashlib.sha256(SAMPLE.read_bytes().split(b"\n<|endoftext|>\n")[0]).hexdigest()
    assert digest == hashlib.sha256(next(stories(0, 1)).text.encode()).hexdigest()
