"""More shapes of the built-in stories, written as `story_shapes.py` explains."""

MORE_SHAPES: dict[str, dict[str, tuple[str, ...]]] = {
    "a noise in the night": {
        "course": (
            "<night> {hero} could not sleep. <noise> <scared> <count> <look>",
            "<excuse> <snack> <after>",
            "<learned> <lesson>",
        ),
        "night": (
            "One {weather=weathers} {time=nights},",
            "On {weather.a=weathers} {time=nights},",
        ),
        "noise": (
            "Something {spot=house_spots} went {noise=noises}, {noise}.",
            "There was a noise {spot=house_spots}: {noise=noises}, {noise}.",
            "What was that {spot=house_spots}? It went {noise=noises}, {noise}.",
        ),
        "scared": (
            "{hero} was {fear=fears}.",
            "{hero} had never been so {fear=fears}.",
            "Even brave children would be {fear=fears}.",
        ),
        "count": (
            "{hero.He} held the {colour} {keep} tight and counted to {number=numbers}.",
            "{hero.He} hid under the covers with the {colour} {keep}.",
            "{hero.His} knees shook, and so did the {colour} {keep}.",
        ),
        "look": (
            "Then {hero.he} looked {spot}. There sat {size.a=sizes} {helper=animals}!",
            "Then {hero.he} took a lamp and looked {spot}. It was {size.a=sizes} {helper=animals}!",
            '"Who is there?" <said: who=hero>. Out came {size.a=sizes} {helper=animals}.',
        ),
        "excuse": (
            '"{helper.sound}! I was only {deed=deeds}," said the {helper}.',
            '"Did I wake you?" asked the {helper}. "I was {deed=deeds}."',
            'The {helper} turned red. "I was just {deed=deeds}," it said.',
        ),
        "snack": (
            "They ate some {food=foods} and talked until late.",
            "{hero} laughed and gave the {helper} some {food=foods}.",
            "Then they went to the kitchen for {food=foods}.",
        ),
        "after": (
            "Now, when something goes {noise} {spot}, {hero} only says, good night.",
            "The {helper} still lives {spot}, and it still goes {noise}, {noise}.",
            "When {hero} hears it now, {hero.he} says {noise}, {noise} right back.",
        ),
        "lesson": (
            "most monsters only want company.",
            "the dark is only the day with its eyes closed.",
            "being brave is being {fear} and looking anyway.",
            "a noise is often just {helper.a}.",
        ),
    },
    "a boat trip": {
        "course": (
            "<day> {hero} went to sea in {vessel.a=vessels}. <captain> <sea> <storm> <saved>",
            "<told> <doubt> <proof>",
            "<learned> <lesson>",
        ),
        "captain": (
            '"I am the captain," <said: who=hero>.',
            "The {vessel} had a crew of one.",
            "{hero.He} packed some {food=foods} and said goodbye.",
        ),
        "sea": (
            "Far out, {hero.he} saw {number=numbers} {sea=sea_animals} {deed=sea_deeds}.",
            "What did {hero.he} see? There were {number=numbers} {sea=sea_animals} {deed=sea_deeds}!",
            "There, in the waves, were {number=numbers} {sea=sea_animals} {deed=sea_deeds}.",
        ),
        "storm": (
            "Then a storm came, and the {vessel} spun around.",
            "Then a big wave hit the {vessel}.",
            "But the {vessel} had a hole in it.",
        ),
        "saved": (
            "{hero} was not afraid. {hero.He} used the {colour} {keep} as a sail.",
            "{hero} used the {colour} {keep} as a paddle and came home safely.",
            "Quickly {hero} held up the {colour} {keep}, and the {sea} pulled {hero.him} home.",
        ),
        "told": (
            '"I saw {number} {sea}," {hero} told {friend=names}.',
            'At home {hero} met {friend=names}. "I saw {number} {sea} {deed}!"',
            "{friend=names} was waiting on the beach. {hero} told {friend.him} about the {number} {sea}.",
        ),
        "doubt": (
            "{friend} did not believe a word.",
            '"In {vessel.a}? Never," said {friend}.',
            '"You made that up," <said: who=friend>.',
        ),
        "proof": (
            "Then they heard a splash. There were {number} {sea}, {deed}.",
            "Just then {number} {sea} came by, {deed}, and {friend} fell into the sea.",
            "But the next day a card came, from {number} {sea}.",
        ),
        "lesson": (
            "small people can have big adventures.",
            "a true story can sound like a fib.",
            "the sea is full of friends.",
            "every captain needs {colour.a} {keep}.",
        ),
    },
    "a lost pet": {
        "course": (
            "{hero} also had {tint.a=colours} {pet=pets} named {pet_name=pet_names}. <day> the {pet} was gone. <low: "
            "who=hero> <ask>",
            "<clue> <trail> <found> <happy: who=hero>",
            "<learned> <lesson>",
        ),
        "ask": (
            '"Have you seen {tint.a} {pet}?" {hero.he} asked the {person=people}.',
            '{hero.He} ran to the {person=people}. "My {tint} {pet} is lost!"',
            "{hero.He} called and called, until the {person=people} came out.",
        ),
        "clue": (
            '"No," said the {person}, "but someone ate my {food=foods}."',
            'The {person} was angry. "Something {tint} stole my {food=foods}!"',
            '"Follow the {food=foods}," said the {person}.',
        ),
        "trail": (
            "A trail of {food} led {hero.him} {place.to=places}.",
            "{hero} followed the {food}, all the way {place.to=places}.",
            "Bit by bit, the {food} showed the way {place.to=places}.",
        ),
        "found": (
            "And there, {nook=place.spots}, sat {pet_name}, full of {food}.",
            "There was {pet_name}, asleep {nook=place.spots}.",
            'Something {nook=place.spots} went burp. "{pet_name}!" cried {hero}.',
        ),
        "lesson": (
            "home is where somebody looks for you.",
            "if you want to find a friend, you follow the {food}.",
            "nobody gets lost on a full belly.",
            "{pet.a} always knows what it wants.",
        ),
    },
    "a new child": {
        "course": (
            "<day> a new child named {friend=names} came to school. <alone> <low: who=friend> <lunch> <likes>",
            "<secret> <show> <all> <happy: who=friend>",
            "<learned> <lesson>",
        ),
        "alone": (
            "{friend.He} sat in the corner with {friend.his} {tint=colours} {toy=toys}.",
            "{friend.He} did not say a word, and held on to {tint.a=colours} {toy=toys}.",
            "Only {tint.a=colours} {toy=toys} kept {friend.him} company.",
        ),
        "lunch": (
            "At lunch {hero} sat down beside {friend.him} with some {food=foods}.",
            "{hero} gave {friend.him} half of {hero.his} {food=foods}.",
            '"Do you want some {food=foods}?" asked {hero}.',
        ),
        "likes": (
            '"I love {food}," said {friend}.',
            '"My {parent=parents} and I eat {food} every day," said {friend}.',
            "{friend.He} looked at the {food} and smiled.",
        ),
        "secret": (
            "Then {friend} told {hero.him} a secret: {friend.he} could {skill=skills}.",
            '"What can you do?" asked {hero}. "I can {skill=skills}," said {friend}.',
            "And then it came out that {friend} could {skill=skills}.",
        ),
        "show": (
            "After lunch {friend} showed it to all, with the {tint} {toy} on {friend.his} head.",
            "{friend.He} showed it at once, and the teacher dropped the {food}.",
            "{friend.He} did it twice, once with the {colour} {keep} and once with the {tint} {toy}.",
        ),
        "all": (
            "Now the whole school wants to {skill}.",
            "By {later=times}, everyone could {skill}, even the teacher.",
            "{hero} tried to {skill} too, and broke a chair.",
        ),
        "lesson": (
            "a new friend is only one hello away.",
            "quiet people have the best secrets.",
            "friends make every day a holiday.",
            "it all begins with some {food}.",
        ),
    },
    "a promise": {
        "course": (
            "<day> the {parent=parents} of {hero} needed {number=numbers} {goods=goods}. <promise> <way>",
            "<tempted> <but> <back> <thanked> <hug>",
            "<learned> <lesson>",
        ),
        "promise": (
            '"I will get them before dark, I promise," <said: who=hero>.',
            '"I promise to bring them," <said: who=hero>.',
            '"I will bring {number} {goods}, I promise," <said: who=hero>.',
        ),
        "way": (
            "{hero.He} {move=moves} {place.to=places}, where there were plenty of them.",
            "{hero.He} {move=moves} {place.to=places}, for the best {goods} were there.",
            "So {hero.he} {move=moves} {place.to=places} with the {colour} {keep}.",
        ),
        "tempted": (
            "But {place.at} there was {fun=fun}!",
            "But what was that? It was {fun=fun}!",
            '"Stay," called {friend=names}. "There is {fun=fun} today!"',
        ),
        "but": (
            "{hero} wanted to stay so much. But then {hero.he} thought of {hero.his} {parent}.",
            "{hero} took one look, then another, and then shut {hero.his} eyes and walked on.",
            "{hero.His} feet stood still. But {hero.he} had given {hero.his} word.",
        ),
        "back": (
            "{hero.He} ran home with {number} {goods}.",
            "{hero.He} counted {number} {goods}, not one more, and went home.",
            "With {number} {goods} and the {colour} {keep}, {hero.he} hurried home.",
        ),
        "thanked": (
            '"Here are your {number} {goods}," said {hero}.',
            "The {parent} counted the {goods}. There were {number}.",
        ),
        "hug": (
            "The {parent} gave {hero.him} a hug, and {parent.he} had tickets for {fun}!",
            '"You kept your word," said the {parent}, and {parent.he} kissed {hero.him}.',
            '"Now we can go and see {fun}," said the {parent}.',
            "Nobody knows what the {parent} did with {parent.his} {goods}.",
        ),
        "lesson": (
            "a promise is a promise.",
            "keeping your word is better than {fun}.",
            "honest feet find the way home.",
            "{number} {goods} can make somebody very happy.",
        ),
    },
    "a magic wish": {
        "course": (
            "<outing> <find> <speaks> <wish> <whoosh>",
            "<where> <too much> <helper> <eats> <put back>",
            "<learned> <lesson>",
        ),
        "find": (
            "{hero.He} looked {spot=place.spots} and found {tint.a=colours} {magic=magics}.",
            "There, {spot=place.spots}, lay {tint.a=colours} {magic=magics}.",
            "{tint.A=colours} {magic=magics} was hidden {spot=place.spots}.",
        ),
        "speaks": (
            '"You have one wish," said the {magic}.',
            'The {magic} began to talk. "Make a wish, {hero}!"',
            '{hero} rubbed it. "One wish, and no more," it said.',
        ),
        "wish": (
            '"I wish for {food=foods}, as much as I can see," <said: who=hero>.',
            '"I want a mountain of {food=foods}," <said: who=hero>.',
            '"Could it rain {food=foods}?" asked {hero}.',
        ),
        "whoosh": ("Whoosh!", "Boom!", "Bing!", "Zap!"),
        "where": (
            "The roofs were full of {food}, and the beds were full of {food}.",
            "For {number=numbers} hours, {food} fell from the sky.",
            "The {colour} {keep} was full of {food}.",
        ),
        "too much": (
            '"Help, that is too much," <said: who=hero>.',
            "{hero} ate and ate, but there was more and more.",
            "Soon {hero} could not look at {food} any more.",
        ),
        "eats": (
            '"{helper.sound}! Is this for all of us?" asked the {helper}. It was.',
            "The {helper} called all its cousins, and they ate the {food}.",
            "{hero} called the whole town, and the {helper} ate the most.",
        ),
        "put back": (
            "In the end, {hero} put the {tint} {magic} back {spot}.",
            "The {tint} {magic} is {spot} again, so be careful.",
            '"Next time, wish for less," said the {tint} {magic}.',
        ),
        "lesson": (
            "enough is better than too much.",
            "there is no such thing as a small mountain of {food}.",
            "it is wise to wish for less.",
            "a wish is best when you share it.",
        ),
    },
    "a broken thing": {
        "course": (
            "<day> {hero} played in the house with {tint.a=colours} {toy=toys}. <crash> <hid>",
            "<dinner> <low: who=hero> <confess> <forgiven> <glue>",
            "<learned> <lesson>",
        ),
        "crash": (
            "Crash! The {fragile=fragiles} of {hero.his} {parent=parents} fell down.",
            "Crash! The {toy} hit the {fragile=fragiles} of {hero.his} {parent=parents}.",
            "Oh no! {hero.He} broke the {fragile=fragiles} of {hero.his} {parent=parents}.",
        ),
        "hid": (
            "It was in {number=numbers} pieces, and {hero.he} hid them {spot=house_spots}.",
            "{hero.He} put the {number=numbers} pieces {spot=house_spots}.",
            "Quickly, {hero.he} hid the {number=numbers} pieces {spot=house_spots}.",
        ),
        "dinner": (
            "At dinner they had {food=foods}, but {hero} could not eat.",
            '"Where is my {fragile}?" asked the {parent}. {hero} looked at {hero.his} {food=foods}.',
            '"Who took my {fragile}?" asked the {parent}. "Maybe {size.a=sizes} {helper=animals}," said {hero}.',
        ),
        "confess": (
            'Then {hero.he} said, "It was me. The pieces are {spot}."',
            "At last {hero.he} told the truth about the {fragile} and the {toy}.",
            '"I broke your {fragile} with my {tint} {toy}," said {hero}.',
        ),
        "forgiven": (
            '"Thank you for telling me," said the {parent}.',
            'The {parent} hugged {hero.him}. "I never liked it," {parent.he} said.',
            '"I know," said the {parent}. "I sat on piece number {number}."',
        ),
        "glue": (
            "They glued the {number} pieces. Now it looks like {animal.a=animals}.",
            "With glue, the {number} pieces became {thing.a=fragiles}.",
            "They glued the {fragile} together, and only the {colour} {keep} got stuck.",
        ),
        "lesson": (
            "the truth is lighter to carry than a lie.",
            "honest words make a happy home.",
            "it is never too late to say sorry.",
            "a bad day can be glued, just like {fragile.a}.",
        ),
    },
    "an errand": {
        "course": (
            "<day> {hero.his} {parent=parents} sent {hero} {place.to=places} for {first=foods}, {second=foods}, and "
            "{third=foods}. <sang> <sight> <forgot>",
            "<was it> <remember> <asked for> <home>",
            "<learned> <lesson>",
        ),
        "sang": (
            'All the way {hero.he} sang: "I need {first}, {second}, and {third}!"',
            '{hero.He} said it again and again: "Get {first}, {second}, and {third}!"',
            "To remember it, {hero.he} hopped once for {first}, once for {second}, and once for {third}.",
        ),
        "sight": (
            "But then {hero.he} saw {sight=sights}.",
            "But on the road there was {sight=sights}.",
            "And then, would you believe it, {sight=sights} came by.",
        ),
        "forgot": (
            "Now {hero.his} head was empty.",
            "{hero.He} looked so long that {hero.he} forgot it all.",
            "What was it that {hero.he} had to buy?",
        ),
        "was it": (
            "Was it {junk=junk}? No.",
            '"I think I need {junk=junk}," said {hero}.',
            "The {person=people} offered {hero.him} {junk=junk}.",
        ),
        "remember": (
            "Then {hero.he} scratched {hero.his} head with the {colour} {keep}, and it came back.",
            'Luckily {size.a=sizes} {helper=place.animals} had heard {hero.him}. "{helper.sound}! It was {first}!"',
            "Then {hero} thought of {sight}, and suddenly {hero.he} knew.",
        ),
        "asked for": (
            '"I need {first}, {second}, and {third}, please," <said: who=hero>.',
            "{hero.He} got the {first}, the {second}, and the {third}.",
            "Yes, {first}, {second}, and {third}! {hero} got it all.",
        ),
        "home": (
            "At home {hero.he} told of {sight}. The {parent} laughed, and {parent.he} ate the {third}.",
            "The {parent} cooked it all in one pot, and it tasted of {first}.",
            '"Well done," said the {parent}. "And you also saw {sight}?"',
        ),
        "lesson": (
            "a song helps you to remember.",
            "two ears hear more than one head can hold.",
            "it is fine to forget if you try again.",
            "you should not look at {sight} when you go shopping.",
        ),
    },
    "a hard thing": {
        "course": (
            "<day> {hero} wanted to {skill=skills}. <fell> <again> <low: who=hero>",
            "<friend says> <practice> <at last> <happy: who=hero> <race>",
            "<learned> <lesson>",
        ),
        "fell": (
            "{hero.He} tried once and fell into {mess=messes}.",
            "It looked easy. Splat! {hero.He} sat in {mess=messes}.",
            "The first time, {hero.he} ended up in {mess=messes}.",
        ),
        "again": (
            "{hero.He} tried again and landed on {size.a=sizes} {helper=animals}.",
            "The next time, {hero.he} fell over {hero.his} {colour} {keep}.",
            "The second time, {mess} was already waiting.",
        ),
        "friend says": (
            '"I fell {number=numbers} times before I could {skill}," said {friend=names}.',
            '"Try it {number=numbers} times," said {friend=names}.',
            '{friend=names} helped {hero.him} up. "You need {number=numbers} tries to {skill}."',
        ),
        "practice": (
            "So {hero} tried and tried, {number} times.",
            "{hero} did it {number} times, with the {colour} {keep} for luck.",
            "So {hero.he} fell {number} times, a little better each time.",
        ),
        "at last": (
            "And then {hero.he} could {skill}!",
            '"Look at me, {friend}! I can {skill}!"',
            "At last {hero.he} could {skill}, all the way {place.to=places}.",
        ),
        "race": (
            "{friend} was so surprised that {friend.he} fell into {mess}.",
            "Even {mess} looked {glad=glads}.",
            "Now {hero} and {friend} {skill} together every {later=times}.",
        ),
        "lesson": (
            "nobody is good at everything on the first day.",
            "falling down is half of learning.",
            "slow feet get there too.",
            "{mess} is softer than it looks.",
        ),
    },
}
