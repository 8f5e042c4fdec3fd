"""The words of the built-in stories: who is in them, where they happen, and with what.

Short, common words, so that a small tokenizer has a token for most of them. Within a table no word begins with another
one ("cap", "cape"): a reader who goes from left to right never has to guess (`grammar_proofs.overlaps` watches that).
"""

from llamita.corpus.grammar import Word

Table = tuple[Word, ...]


def words(kind: str, listed: str) -> Table:
    """Words of one kind, separated by bars where the list has any (for phrases of several words), else by spaces."""
    parts = listed.split("|") if "|" in listed else listed.split()
    return tuple(Word(kind, " ".join(part.split())) for part in parts)


# --- Words that agree with others -------------------------------------------------------------------------------------


def people(kind: str, she: str, he: str) -> Table:
    """Those who are "she", then those who are "he"; `child` is what the opening of a story calls them."""
    girls = (Word(kind, name, child="girl", he="she", him="her", his="her") for name in she.split())
    boys = (Word(kind, name, child="boy", he="he", him="him", his="his") for name in he.split())
    return (*girls, *boys)


NAMES = people(
    "name",
    she="Mia Lily Anna Rosa Zoe Ella Ruby Ivy Nora Lucy Emma Sara Amy Tess Dora Kate Hazel Clara",
    he="Tom Ben Max Sam Leo Tim Jack Finn Otto Noah Hugo Luke Adam Paul Theo Fred Dan Nick",
)
CHILDREN = tuple(
    Word("person", child, {"names": tuple(name for name in NAMES if name.forms["child"] == child)})
    for child in ("girl", "boy")
)

SOUNDS = """
    duck Quack, squirrel Chip, sparrow Tweet, crab Click, seal Arf, gull Squawk, owl Hoo, fox Yip, bear Grr, hen Cluck,
    cow Moo, pig Oink, cat Meow, mouse Squeak, dog Woof, frog Croak, otter Splash, beaver Chomp, swan Honk, turtle Hum,
    goat Maa, sheep Baa, donkey Hee-haw, monkey Ooh, penguin Peep, elephant Toot, bee Buzz, rabbit Sniff, snail Hush,
    hedgehog Snuffle, crow Caw, dragon Roar, bat Eek, horse Neigh
"""
ANIMALS = {animal: Word("animal", animal, sound=sound) for animal, sound in map(str.split, SOUNDS.split(","))}


def place(name: str, at: str, animals: str, spots: str) -> Word:
    """A place to go to, who lives there, and where things hide there."""
    tables = {"animals": tuple(ANIMALS[animal] for animal in animals.split()), "spots": words("place", spots)}
    return Word("place", name, tables, at=f"{at} the {name}", to=f"to the {name}")


PLACES = (
    place("park", "in", "squirrel duck sparrow", "under a bench | behind the slide | near the swings"),
    place("beach", "on", "crab seal gull", "under a shell | behind a rock | in the sand"),
    place("forest", "in", "owl fox bear", "under a mushroom | behind a tree | between the roots"),
    place("farm", "on", "hen cow pig", "in the hay | behind the barn | under a wagon"),
    place("market", "at", "cat mouse dog", "under a table | behind the pumpkins | in a basket"),
    place("river", "by", "frog otter beaver", "under a bridge | behind the reeds | on a raft"),
    place("lake", "by", "swan turtle duck", "under a boat | behind the willow | in the grass"),
    place("hill", "on", "goat sheep donkey", "under a stone | behind a fence | in a ditch"),
    place("zoo", "at", "monkey penguin elephant", "behind the ticket booth | under a palm tree | in a cage"),
    place("meadow", "in", "bee rabbit sheep", "under a daisy | in the clover | behind a hedge"),
    place("garden", "in", "snail hedgehog bee", "behind the roses | under a leaf | in a flowerpot"),
    place("orchard", "in", "crow donkey rabbit", "up in a tree | under a ladder | behind the apples"),
    place("castle", "at", "dragon bat horse", "under the throne | behind a curtain | in the tower"),
    place("harbor", "at", "gull dog cat", "behind the nets | under a sail | in a barrel"),
)


def lands(at: str, listed: str) -> Table:
    """Places that are there when it rains outside."""
    return tuple(
        Word("place", name.forms["text"], at=f"{at} {name.forms['text']}", to=f"to {name.forms['text']}")
        for name in words("place", listed)
    )


# --- All tables, by the name under which templates draw from them -----------------------------------------------------

TABLES: dict[str, Table] = {
    # Who
    "names": NAMES,
    "children": CHILDREN,
    "parents": people("person", she="mother grandma aunt sister", he="father grandpa uncle brother"),
    "traits": words("trait", "brave shy cheerful curious clever sleepy dreamy noisy quiet gentle funny kind busy"),
    "animals": tuple(ANIMALS.values()),
    "sizes": words("trait", "tiny old plump wise sleepy shy grumpy clever fluffy hungry young dizzy proud friendly"),
    "sea_animals": words("animal", "whales dolphins sharks crabs jellyfish lobsters herrings walruses mermaids"),
    "pets": words("animal", "puppy kitten hamster parrot bunny pony goldfish lizard"),
    "pet_names": words(
        "name", "Biscuit Pickles Waffles Button Muffin Noodle Socks Pepper Bubbles Mittens Peanut Pumpkin"
    ),
    "people": words("person", "baker teacher doctor farmer postman painter barber singer tailor clown king neighbor"),
    "strangers": words("person", "pirate queen giant robot ghost wizard yeti princess knight troll fairy mermaid"),
    # Where
    "places": PLACES,
    "homes": words(
        "place",
        """a tall tower | an old mill | the house by the sea | a village of tiny roofs | a crooked cottage
        | a town with one tree | a street full of cats | a boat on the river | a house on a hill
        | the last house in town""",
    ),
    "house_spots": words(
        "place",
        """under the bed | in the closet | behind the door | under the stairs | in the attic | behind the stove
        | under the rug | in the cupboard | inside the clock | in the bathtub""",
    ),
    "lands": lands("on", "the moon | a candy planet | a desert island | top of the world")
    + lands("at", "the bottom of the sea | the North Pole | the end of the rainbow")
    + lands("in", "the jungle | the land of cheese | the age of dinosaurs | a city of clouds"),
    # When, and how many
    "weathers": words("time", "sunny rainy windy cold warm foggy cloudy snowy hot gray bright chilly misty icy"),
    "times": words("time", "morning afternoon day Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "nights": words("time", "night evening"),
    "numbers": words(
        "number", "two | three | four | five | six | seven | eight | nine | ten | eleven | twelve | twenty | a hundred"
    ),
    # Things
    "colours": words("colour", "red blue green yellow pink purple orange white black brown golden silver"),
    "keepsakes": words(
        "object",
        "hat scarf spoon bell drum flute ribbon button feather blanket umbrella whistle lantern pillow sock teapot",
    ),
    "toys": words(
        "object",
        "ball kite doll puzzle robot truck train puppet top wagon yo-yo rocket dinosaur tractor pinwheel marble",
    ),
    "junk": words(
        "object",
        """an old boot | a wet sandal | a rusty key | a bent fork | an empty can | a broken clock | a long string
        | a paper bag | a lost glove | a flat tire | half a broom | one wheel | a moldy cheese | a loose spring""",
    ),
    "wraps": words("object", "leaves | newspaper | tinfoil | silk | straw | cotton | moss | old socks"),
    "forts": words("object", "fort castle rocket cave ship train tent submarine"),
    "bits": words("object", "chairs boxes cushions blankets books umbrellas mattresses brooms towels"),
    "vessels": words("object", "bathtub barrel raft shoebox rowboat basket wardrobe cradle canoe walnut"),
    "goods": words("object", "eggs roses candles lemons needles shells stamps onions mushrooms peaches tulips"),
    "magics": words("object", "stone lamp ring bottle acorn mirror crystal coin pearl seed"),
    "fragiles": words("object", "vase lamp plate clock jug cup mirror window bowl globe"),
    "bigs": words("object", "house bus cow whale barn church mountain ship piano bathtub"),
    "messes": words(
        "place", "the puddle | the mud | the ditch | the bushes | the haystack | the pond | the thorns | the fountain"
    ),
    "noises": words("sound", "thump creak tap scratch drip clunk rattle swish crunch plop bonk hiss"),
    # Food
    "foods": words(
        "food",
        """soup bread cheese honey jam cookies pancakes noodles rice plums pears grapes berries carrots pudding toast
        nuts popcorn pizza salad beans cherries dumplings waffles""",
    ),
    "ingredients": words(
        "food",
        "flour butter sugar milk cocoa raisins lemons bananas cinnamon pepper mustard coconut apples pickles eggs",
    ),
    "crops": words("food", "pumpkin carrot melon turnip tomato cabbage radish potato onion cucumber"),
    # What happens
    "moves": words("deed", "went walked skipped ran hopped marched hurried danced wandered strolled"),
    "aims": words(
        "deed",
        """play | look around | count clouds | eat a sandwich | practice yodeling | think big thoughts
        | say hello to everyone | do nothing at all | look for treasure | sing""",
    ),
    "skills": words(
        "deed",
        """swim | skate | juggle | ski | climb a rope | dance | surf | do a cartwheel | ride a bike | walk on stilts
        | jump rope | fly a kite | row a boat | hop backward""",
    ),
    "deeds": words(
        "deed",
        """brushing my teeth | looking for my slippers | learning to dance | baking a pie | counting my toes
        | moving the piano | writing a letter | playing chess alone | hiding from the moon | washing my ears""",
    ),
    "sea_deeds": words(
        "deed",
        """singing | playing cards | dancing in a ring | drinking tea | wearing hats | juggling fish | telling jokes
        | riding bicycles | knitting socks | reading newspapers""",
    ),
    "sights": words(
        "event",
        """a cow on roller skates | three hens in a row | a man with a very long beard | two snails in a race
        | a cloud like a sheep | a goose in a hat | a bus full of nuns | a pig asleep on a bench | a king buying socks
        | a duck with an umbrella | a tree full of kites | a dog walking a cat""",
    ),
    "fun": words(
        "event",
        """a puppet show | a merry-go-round | a brass band | a sword eater | a dancing bear | a kite race
        | a pie contest | a snowball fight | a talking parrot | a water slide""",
    ),
    "tricks": words(
        "deed",
        """stood on one leg | sang a song backward | made a fish face | hopped like a frog | talked to a lamppost
        | danced with a broom | saluted a sheep | walked like a king | wiggled both ears | bowed to a bush""",
    ),
    # How it feels
    "lows": words("feeling", "sad worried upset gloomy glum unhappy grumpy miserable"),
    "fears": words("feeling", "scared afraid nervous frightened alarmed"),
    "glads": words("feeling", "happy glad proud cheerful merry jolly pleased delighted"),
}
