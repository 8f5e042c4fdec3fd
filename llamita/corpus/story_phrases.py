"""The sentences that all shapes of the built-in stories share: how stories open and close, how people feel and help.

The more a sentence is shared, the sooner a small model knows it. Whoever is in every story is bound by the opening:
`hero` with a `trait`, and the `colour` and kind of a keepsake, `keep`, to which the ending comes back.
"""

from llamita.corpus.grammar import Rule

OPENING = {
    "opening": Rule(
        "opening",
        ("Once upon a time, there was {trait.a=traits} {child=children} named {hero=child.names}.", 2),
        "Once there was {trait.a=traits} {child=children} called {hero=child.names}.",
        "Long ago, {trait.a=traits} {child=children} named {hero=child.names} lived in {home=homes}.",
        "Far away, in {home=homes}, lived {trait.a=traits} {child=children} called {hero=child.names}.",
        "This is the story of {hero=names}, {trait.a=traits} {hero.child} from {home=homes}.",
        "Do you know {hero=names}? {hero.He} was {trait.a=traits} {hero.child}, the only one in {home=homes}.",
        "Everyone liked {hero=names}, for {hero.he} was {trait.a=traits} {hero.child}.",
    ),
    "keepsake": Rule(
        "opening",
        "{hero} had {colour.a=colours} {keep=keepsakes}, and {hero.he} took the {keep} everywhere.",
        "{hero} had {colour.a=colours} {keep=keepsakes}. It was the only {colour} {keep} in town.",
        "Wherever {hero} went, {colour.a=colours} {keep=keepsakes} went too, for {hero} loved that {keep}.",
        "Day and night, {hero} carried {colour.a=colours} {keep=keepsakes}. {colour.A} {keep} brings luck.",
        "The best thing {hero} had was {colour.a=colours} {keep=keepsakes}. Oh, how {hero} loved that {keep}!",
        "{hero} never went out without {colour.a=colours} {keep=keepsakes}. Even in the bath, {hero} held the {keep}.",
    ),
    "day": Rule(
        "opening",
        "One {weather=weathers} {time=times},",
        "On {weather.a=weathers} {time=times},",
        "It was {weather.a=weathers} {time=times} when",
    ),
    "outing": Rule(
        "opening",
        "<day> {hero} {move=moves} {place.to=places}.",
        "<day> {hero} {move=moves} {place.to=places} to {aim=aims}.",
        "<day> {hero} and {hero.his} {parent=parents} {move=moves} {place.to=places}.",
    ),
}

FEELING = {
    "low": Rule(
        "feeling",
        "{who} felt very {low=lows}.",
        "{who} was {low=lows}.",
        "Poor {who} felt so {low=lows}.",
        "This made {who} {low=lows}.",
        "{who} sat down and felt {low=lows}.",
    ),
    "happy": Rule(
        "feeling",
        "{who} jumped for joy.",
        "{who} was so {glad=glads} that {who.he} did a little dance.",
        "{who} laughed until {who.his} belly hurt.",
        "{who} smiled from ear to ear.",
        "{who} clapped {who.his} hands.",
        "{who} had never been so {glad=glads}.",
    ),
    "said": Rule("filler", ("said {who}", 2), "cried {who}", "called {who}", "laughed {who}", "whispered {who}"),
}

HELPING = {
    "helper": Rule(
        "meeting",
        "Just then, {size.a=sizes} {helper=place.animals} came by.",
        "Soon {hero.he} met {size.a=sizes} {helper=place.animals}.",
        "{size.A=sizes} {helper=place.animals} was watching {hero.him}.",
        "Out of nowhere came {size.a=sizes} {helper=place.animals}.",
        "Along came {size.a=sizes} {helper=place.animals}.",
    ),
    "helper asks": Rule(
        "dialog",
        '"{helper.sound}! What is wrong?" asked the {helper}.',
        '"{helper.sound}! Can I help?" said the {helper}.',
        'The {helper} looked at {hero.him}. "{helper.sound}! Why so {low}?"',
        '"{helper.sound}! You look {low}," said the {helper}.',
    ),
    "search": Rule(
        "filler",
        "{hero.He} looked {spot=place.spots} and found only {junk=junk}.",
        "{hero.He} looked {spot=place.spots}, but there was only {junk=junk}.",
        "{hero.He} searched {spot=place.spots}. What did {hero.he} find? Just {junk=junk}!",
        "There was nothing {spot=place.spots} but {junk=junk}.",
    ),
    "thanks": Rule(
        "filler",
        '"Thank you, {helper}!" <said: who=hero>.',
        '"You are the best {helper} in the world," <said: who=hero>.',
        "{hero} gave the {helper} some {food=foods} and a hug.",
        "The {helper} was allowed to hold the {colour} {keep} for a while.",
    ),
    "visitor": Rule(
        "meeting",
        "{size.A=sizes} {helper=animals} came by.",
        "Along came {size.a=sizes} {helper=animals}.",
        "Out of nowhere came {size.a=sizes} {helper=animals}.",
    ),
}

MORAL = {
    "learned": Rule(
        "moral",
        "{hero} learned that",
        "And so {hero} found out that",
        "From then on, {hero} knew that",
        "At last {hero} understood that",
    ),
}

ENDING = {
    "ending": Rule(
        "ending",
        "That night, {hero} fell asleep with the {colour} {keep} in {hero.his} arms.",
        "And the {colour} {keep}? It tells the story to this day.",
        "{hero} hugged the {colour} {keep} and smiled all the way to bed.",
        "At bedtime, {hero} told the whole story to the {colour} {keep}.",
        "Good night, {hero}. Good night, {colour} {keep}.",
        "If the {colour} {keep} could talk, it would say the same.",
        "Then {hero} and the {colour} {keep} had {supper=foods} for supper.",
        "Sleep well, {hero}, and do not forget the {colour} {keep}.",
        "It was the best story of {hero.his} life, and the {colour} {keep} thought so too.",
        "The {colour} {keep} said nothing, but it looked {glad=glads}.",
    ),
}

PHRASES = OPENING | FEELING | HELPING | MORAL | ENDING
