"""The shapes of the built-in stories: what happens between the opening and the ending.

To add a shape, add an entry to `SHAPES`: the course of the story, a paragraph a line, and the sentences that only this
story has, each in a few ways. In the course, `<gone>` means the shape's own sentence of that name, else a shared one of
`story_phrases.py`. The opening has bound `hero`, `trait`, `colour` and `keep`.
What is introduced early should be needed again at the end. The tests tell whether two ways of saying something can't
be told apart, whether a word is recalled that was never drawn, and how long the stories are.
"""

import re
from collections.abc import Mapping

from llamita.corpus.grammar import Rule
from llamita.corpus.story_shapes_more import MORE_SHAPES

Shape = dict[str, tuple[str, ...]]

SHAPES: dict[str, Shape] = {
    "lost toy": {
        "course": (
            "<outing> <brought> <gone> <low: who=hero> <search>",
            "<helper> <helper asks> <answer> <found> <happy: who=hero> <thanks>",
            "<learned> <lesson>",
        ),
        "brought": (
            "{hero.He} took along {tint.a=colours} {toy=toys}.",
            "{hero.He} had a new toy with {hero.him}, {tint.a=colours} {toy=toys}.",
            "{hero.He} wanted to try out {tint.a=colours} {toy=toys}.",
        ),
        "gone": (
            "But suddenly the {toy} was gone!",
            "But soon the {toy} was nowhere to be seen.",
            "Then {hero.he} blinked, and the {toy} was gone.",
            "Oh no! Somewhere on the way, {hero.he} lost the {toy}.",
        ),
        "answer": (
            '"I lost my {tint} {toy}," said {hero}.',
            '"My {tint} {toy} ran away," said {hero}.',
            '"Have you seen {tint.a} {toy}?" asked {hero}.',
        ),
        "found": (
            "The {helper} looked {nook=place.spots}, and there was the {tint} {toy}!",
            "Together they looked {nook=place.spots}, and there it was, the {tint} {toy}!",
            "There, {nook=place.spots}, lay the {tint} {toy}! The {helper} had smelled it.",
            "The {helper} ran off and found the {tint} {toy} {nook=place.spots}.",
        ),
        "lesson": (
            "it costs nothing to be kind.",
            "even a small friend can be a big help.",
            "it is fine to ask for help.",
            "two noses find more than one.",
        ),
    },
    "a gift": {
        "course": (
            "<day> {hero} remembered that it was the birthday of {friend=names}. <no money> <junk> <made> <wrapped>",
            "<party> <opened> <reason> <happy: who=friend>",
            "<learned> <lesson>",
        ),
        "no money": (
            "{hero.He} had no money at all.",
            "{hero.He} had no money, only {number=numbers} beans.",
            "But the shops were closed.",
            "But what do you give someone who has everything?",
        ),
        "junk": (
            "{hero.He} found {junk=junk} and {part=junk}.",
            "In the shed there was {junk=junk}, and also {part=junk}.",
            "{hero.He} looked around and saw {junk=junk} and {part=junk}.",
        ),
        "made": (
            "With some glue and some luck, {hero.he} made {tint.a=colours} {toy=toys}.",
            "{hero.He} worked for {hours=numbers} hours and made {tint.a=colours} {toy=toys}.",
            "Bang, bang, bang! {hero.He} built {tint.a=colours} {toy=toys}.",
        ),
        "wrapped": (
            "{hero.He} wrapped it in {wrap=wraps}.",
            "For paper {hero.he} used {wrap=wraps}.",
            "There was no box, so {hero.he} took {wrap=wraps}.",
        ),
        "party": (
            "At the party there was {food=foods} for everyone.",
            "All the guests ate {food=foods} and sang.",
            "At the party, {friend} blew into the {food=foods} instead of the candles.",
        ),
        "opened": (
            "Then {friend} opened the {wrap} and found the {tint} {toy}.",
            'Out of the {wrap} came the {tint} {toy}. "Oh!" said {friend}.',
            '"What can it be?" asked {friend}. It was the {tint} {toy}!',
        ),
        "reason": (
            "It was made of {junk} and {part}, but {friend.he} loved it more than all the rest.",
            '"I made it from {junk} and {part}," said {hero}.',
            "Nobody could see that it was only {junk} and {part}.",
        ),
        "lesson": (
            "the best presents cannot be bought.",
            "giving is as much fun as getting.",
            "junk is treasure with some glue on it.",
            "a present is mostly love and a little string.",
        ),
    },
    "a rainy day": {
        "course": (
            "<rain> {hero} and {friend=names} were stuck inside. <low: who=friend> <idea> <build>",
            "<away> <meet> <eat> <sun>",
            "<learned> <lesson>",
        ),
        "rain": (
            "It rained and rained all {time=times}.",
            "All {time=times} long, rain fell on the roof.",
            "The rain did not stop all {time=times}.",
        ),
        "idea": (
            '"Let us build {fort.a=forts}!" <said: who=hero>.',
            '"I know a game," said {hero}. "We need {fort.a=forts}."',
            'But {hero} had an idea. "We will make {fort.a=forts}!"',
        ),
        "build": (
            "They took {bit=bits} and {top=bits}.",
            "They piled {bit=bits} on {top=bits}.",
            "All they needed was {bit=bits}, {top=bits} and the {colour} {keep}.",
        ),
        "away": (
            "Whoosh! The {fort} took them {land.to=lands}.",
            "They shut their eyes, and the {fort} flew {land.to=lands}.",
            "After {number=numbers} minutes, they had come {land.to=lands}.",
        ),
        "meet": (
            "There they met {stranger.a=strangers} with {tint.a=colours} beard.",
            "{stranger.A=strangers} in {tint.a=colours} coat opened the door.",
            "There lived {stranger.a=strangers} who had {tint.a=colours} nose.",
        ),
        "eat": (
            "The {stranger} was hungry, so they shared some {food=foods}.",
            '"Do you have {food=foods}?" asked the {stranger}. They did.',
            "The {stranger} cooked {food=foods} for all three of them.",
        ),
        "sun": (
            "When the sun came out, nobody saw it. They were still {land.at} with the {stranger}.",
            "Then the sun came out, but nobody wanted to leave the {stranger}.",
            "At last the rain stopped, and the {fort} was only {bit} and {top} again.",
        ),
        "lesson": (
            "rain is only weather, and a friend is the sun.",
            "everything is funnier with a friend.",
            "the best trips need no shoes.",
            "you can go far with {bit} and {top}.",
        ),
    },
    "a race": {
        "course": (
            "<outing> {friend=names} was there too. <boast> <prize> <start> <fall>",
            "<help> <together> <judge> They shared the {food} and laughed about {mess}.",
            "<learned> <lesson>",
        ),
        "boast": (
            '"I am faster than you," <said: who=friend>.',
            '"Nobody runs as fast as I do," <said: who=friend>.',
            '"Let us race," <said: who=friend>.',
        ),
        "prize": (
            "The winner would get all the {food=foods}.",
            '"And the winner gets the {food=foods}!"',
            "They put some {food=foods} on a stone for the winner.",
        ),
        "start": (
            "One, two, three, go!",
            "Off they went, like the wind.",
            '{size.A=sizes} {helper=place.animals} cried "{helper.sound}!" and off they ran.',
        ),
        "fall": (
            "But {friend} tripped and fell into {mess=messes}.",
            "Then, splat! {friend} landed in {mess=messes}.",
            "Halfway there, {friend} flew head first into {mess=messes}.",
        ),
        "help": (
            "{hero} was winning, but {hero.he} turned around and pulled {friend.him} out.",
            "{hero} could have won, but {hero.he} went back and helped {friend.him} up.",
            "{hero} stopped at once, and pulled {friend.him} out with the {colour} {keep}.",
        ),
        "together": (
            "Hand in hand they crossed the line.",
            "They walked to the end together, and {friend} dripped a little.",
            "Side by side they came in last, for even a snail was faster.",
        ),
        "judge": (
            '"Who won?" asked everyone {place.at}. "We both did," said {friend}.',
            '"You won," said {friend}. "No, you," said {hero}.',
            '"Next time I will fall, and you help," <said: who=hero>.',
        ),
        "lesson": (
            "it is no fun to win alone.",
            "a friend is the best prize of all.",
            "the last ones have the best stories.",
            "there is enough {food} for two winners.",
        ),
    },
    "a sad friend": {
        "course": (
            "<outing> <sits> <ask> <trouble> <joke> <trick> <keepsake trick>",
            "<laugh> <again>",
            "<learned> <lesson>",
        ),
        "sits": (
            "There sat {friend=names}, looking {low=lows}.",
            "There was {friend=names}, who was {low=lows} that day.",
            "Under a tree sat {friend=names}, all alone and {low=lows}.",
        ),
        "ask": (
            '"What is wrong?" asked {hero}.',
            '"Why are you so {low}?" asked {hero}.',
            "{hero} sat down beside {friend.him}.",
        ),
        "trouble": (
            '"My {tint=colours} {toy=toys} broke," said {friend}.',
            '"I lost my {tint=colours} {toy=toys}," said {friend}.',
            '"Nobody wants to play with my {tint=colours} {toy=toys}," said {friend}.',
        ),
        "joke": (
            "So {hero} told a joke about {animal.a=animals}. {friend} did not laugh.",
            "{hero} told {friend.him} a joke about {animal.a=animals}. It did not help.",
            "First {hero} tried a joke about {animal.a=animals}. Nothing.",
        ),
        "trick": (
            "Then {hero.he} {trick=tricks}. {friend} almost smiled.",
            "Then {hero.he} {trick=tricks}. {friend} only sniffed.",
            "Next {hero.he} {trick=tricks}. Still nothing.",
        ),
        "keepsake trick": (
            "At last {hero} put the {colour} {keep} on {hero.his} nose, and it stayed there.",
            "In the end {hero} balanced the {colour} {keep} on one toe.",
            "Then {hero} threw the {colour} {keep} into the air, and it landed on {hero.his} head.",
        ),
        "laugh": (
            "{friend} laughed so hard that {friend.he} forgot the {tint} {toy}.",
            "{friend} laughed and laughed. {friend.He} let {hero} hold the {tint} {toy}.",
            "Then {friend} laughed until even the {tint} {toy} shook.",
        ),
        "again": (
            '"Now tell me the one about the {animal} again," said {friend}.',
            '"And what did the {animal} say?" asked {friend}.',
            '"I just got the joke about the {animal}!" <said: who=friend>.',
        ),
        "lesson": (
            "some jokes need a little time.",
            "it is hard to be {low} with two.",
            "a silly friend is a good friend.",
            "kind words come back, and so do jokes.",
        ),
    },
    "a cake": {
        "course": (
            "<day> {hero} wanted to bake a cake for {friend=names}. <found> <bowl> <oven>",
            "<guest> <what> <taste> <happy: who=friend>",
            "<learned> <lesson>",
        ),
        "found": (
            "In the kitchen {hero.he} found {first=ingredients}, {second=ingredients}, and {third=ingredients}.",
            "All {hero.he} could find was {first=ingredients}, {second=ingredients}, and {third=ingredients}.",
            '"You need {first=ingredients}, {second=ingredients}, and {third=ingredients}," said the cookbook.',
        ),
        "bowl": (
            "In went the {first}, then the {second}, and then the {third}.",
            "{hero.He} mixed the {first} with the {second}, and the {colour} {keep} fell in too.",
            "{hero.He} stirred the {first} and the {second}, and put the {third} on top.",
        ),
        "oven": (
            "The cake grew as big as a {big=bigs}.",
            "In the oven it began to hum.",
            "It came out as flat as a plate.",
            "Soon the whole street smelled of {third}.",
        ),
        "guest": (
            "At noon, {friend} knocked on the door.",
            "{friend} came in with {size.a=sizes} {helper=animals}.",
            "Then {friend} looked in at the window.",
        ),
        "what": (
            '"What is in it?" asked {friend}. "Just {first}, {second}, and {third}," said {hero}.',
            '"I smell {first}, {second}, and {third}," said {friend}.',
            '"Who puts {first}, {second}, and {third} in one cake?" asked {friend}.',
        ),
        "taste": (
            "{friend.He} took a small bite, and then a big one.",
            "{friend.He} ate {number=numbers} slices.",
            "They ate it all up, down to the last crumb.",
        ),
        "lesson": (
            "things taste better when you share them.",
            "there is always room for one more.",
            "half a cake with a friend beats a whole one alone.",
            "you should never say no to {third}.",
        ),
    },
    "a garden": {
        "course": (
            "<day> {hero} put a seed into the ground. <care> <wait> <grew>",
            "<pull> <visitor> <friend comes> <pop> <feast>",
            "<learned> <lesson>",
        ),
        "care": (
            "Every day {hero.he} gave it water and sang to it.",
            "Every day {hero.he} read it a story.",
            "{hero.He} covered it with the {colour} {keep} to keep it warm.",
        ),
        "wait": (
            "For {number=numbers} days, nothing happened.",
            "{hero.He} waited {number=numbers} days.",
            "It slept for {number=numbers} days.",
        ),
        "grew": (
            "Then {crop.a=crops} came up, as big as a {big=bigs}.",
            "Then it grew and grew into {crop.a=crops} the size of a {big=bigs}.",
            "And what came up? {crop.A=crops} as big as a {big=bigs}!",
        ),
        "pull": (
            "{hero} pulled, but the {crop} did not move.",
            "{hero} pulled and pulled. The {crop} stayed where it was.",
            '"Come out, {crop}!" <said: who=hero>. It would not.',
        ),
        "friend comes": (
            "{friend=names} came too, and they all pulled.",
            "{hero} pulled, {friend=names} pulled, and the {helper} pulled.",
            "The {helper} pulled {hero}, and {friend=names} pulled the {helper}.",
        ),
        "pop": (
            "Pop! Out came the {crop}, and they all fell over.",
            "Plop! The {crop} flew over the roof.",
            "With a loud bang, the {crop} rolled into the street.",
        ),
        "feast": (
            "{hero}, {friend} and the {helper} ate {crop} for {number} days.",
            "There was {crop} soup for the whole street, for {number} days.",
            "After {number} days of waiting, they had {number} days of {crop} pie.",
        ),
        "lesson": (
            "good things take time.",
            "a small seed can hold a big surprise.",
            "many hands make light work.",
            "you cannot hurry {crop.a}.",
        ),
    },
}
SHAPES |= MORE_SHAPES


def shape_rules(shapes: Mapping[str, Shape]) -> dict[str, Rule]:
    """The rules of all shapes: `shape` chooses one, and each sentence becomes the rule "<shape>/<sentence>"."""
    rules = {"shape": Rule("shape", *(f"<{shape}/course>" for shape in shapes))}
    for shape, sentences in shapes.items():
        for sentence, ways in sentences.items():
            templates = ("\n\n".join(ways),) if sentence == "course" else ways
            rules[f"{shape}/{sentence}"] = Rule("sentence", *(_own_sentences(shape, sentences, t) for t in templates))
    return rules


def _own_sentences(shape: str, own: Shape, template: str) -> str:
    """The template with `<gone>` spelled `<lost toy/gone>` where the shape has a sentence of that name."""
    return re.sub(r"<([\w ]+)>", lambda call: f"<{shape}/{call[1]}>" if call[1] in own else call[0], template)
