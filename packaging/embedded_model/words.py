"""Words to ask for: the minute words, English words, invented words, and the 200 that training must never show.

Owns the split between what training sees and what evaluation tests. Invented words come from a small grammar of
syllables that looks like English spelling. Everything here is written for this project or generated; no word list of
others is used.
"""

from __future__ import annotations

import random
from functools import cache

from .lexicon import THEMES


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_UNITS = _list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = _list("twenty thirty forty fifty")

HELD_OUT_SEED = 20_260_401

# Real English words that only evaluation uses.
HELD_OUT_ENGLISH: tuple[str, ...] = _list("""
honey guitar dragon coffee bicycle umbrella galaxy chocolate penguin library tomato diamond sunflower whale cinnamon
parachute hammer velvet banana rocket elephant lemonade compass butterfly notebook pepper violin satellite pancake
squirrel marble telescope jasmine avocado tractor pirate blanket sandwich volcano keyboard rhubarb hedgehog accordion
waffle magnet pumpkin dolphin teapot bamboo cathedral ginger hummingbird scarf ladder walnut piano kangaroo envelope
zeppelin quartz yogurt island emerald algorithm database electricity gratitude courage freedom laughter curiosity
patience wisdom hope joy sorrow wonder dancing running jumping swimming translate purple silver turquoise enormous
gentle brave python kernel router protocol ox ivy yak zebra vanilla oxygen rhythm saxophone
""")

# Real English words for training, beside the invented ones.
TRAIN_ENGLISH: tuple[str, ...] = _list("""
cat dog bird tree house car book chair table door water earth sky cake milk cheese butter sugar salt rice bean corn
potato carrot onion garlic grape lemon orange cherry melon peach plum mango papaya biscuit cookie pasta soup salad
pizza burger engine wheel motor airplane helicopter submarine bus truck wagon carriage canoe tunnel tower castle temple
palace museum theater school college hospital office factory market bakery kitchen bedroom bathroom balcony carpet
pillow mirror curtain bottle glass plate spoon fork knife bowl basket bucket shovel needle thread button ribbon jacket
trousers shirt sweater glove shoe boot hat helmet crown necklace bracelet ring pencil paper letter stamp newspaper
magazine camera radio television computer laptop printer monitor server network internet software hardware memory
processor program function variable compiler terminal browser cluster container orchestrator scheduler token model
prompt worker inference graphics tensor matrix vector gradient language grammar sentence story poem song melody
trumpet drum flute cello orchestra concert ballet opera painting sculpture drawing sketch canvas brush color yellow
black brown violet scarlet crimson indigo amber copper bronze iron steel nickel carbon helium neon lion tiger bear
wolf rabbit mouse horse donkey cow pig sheep chicken duck goose turkey eagle falcon raven swan parrot ostrich shark
octopus lobster crab oyster turtle snake crocodile spider ant butter wasp mosquito planet asteroid eclipse rainbow
hurricane tornado avalanche glacier jungle prairie canyon waterfall peninsula continent country city village empire
republic justice liberty equality peace war victory defeat fear anger love hatred envy pride shame guilt trust doubt
faith truth honesty beauty silence kindness mercy sadness happiness friendship loneliness memory dream nightmare sleep
walking singing reading writing cooking baking fishing sailing climbing teaching learning thinking speaking football
tennis cricket hockey chess poker puzzle riddle magic wizard witch knight princess king queen emperor soldier sailor
doctor nurse teacher farmer baker butcher tailor carpenter plumber engineer scientist astronaut detective banker
mathematics geometry algebra physics chemistry biology history geography philosophy psychology economics democracy
anniversary birthday wedding holiday vacation journey adventure treasure secret mystery shadow echo mississippi
programming engineering refrigerator encyclopedia responsibility extraordinary international communication
information development understanding imagination celebration transportation
""")

# fmt: off
_ONSETS = _list("b c d f g h j k l m n p r s t v w y z bl br ch cl cr dr fl fr gl gr kn ph pl pr qu sc sh sk sl sm sn sp st "
                "str sw th tr tw wh") + ("",) * 6
# fmt: on
_NUCLEI = _list("a e i o u a e i o ai ea ee oa oo ou ie y au oi")
_CODAS = _list("b d g k l m n p r s t x ck ct ft ld lk lm lt mp nd ng nk nt pt rd rk rm rn rt sh sk st th") + ("",) * 32
_ENDINGS = _list("e y er le ing ed ness ly tion ment al ous ful able or ant ism ist s es") + ("",) * 30


@cache
def minute_words() -> tuple[str, ...]:
    """The sixty minutes of an hour, spelled out in English, "zero" to "fifty-nine"."""
    tens = [tens if unit == 0 else f"{tens}-{_UNITS[unit]}" for tens in _TENS for unit in range(10)]
    return (*_UNITS, *tens)


def invented_word(draw: random.Random) -> str:
    """A word that looks like English: one to four syllables and perhaps an ending, 2 to 14 letters."""
    while True:
        count = draw.choices((1, 2, 3, 4), (4, 5, 2, 1))[0]
        parts = [draw.choice(_ONSETS) + draw.choice(_NUCLEI) + draw.choice(_CODAS) for _ in range(count)]
        word = "".join(parts) + draw.choice(_ENDINGS)
        if 2 <= len(word) <= 14:
            return word


@cache
def held_out_words() -> tuple[str, ...]:
    """The 200 words of the evaluation that training never shows: 100 English ones, then 100 invented ones."""
    draw = random.Random(HELD_OUT_SEED)
    known = set(TRAIN_ENGLISH) | set(minute_words())
    words = list(HELD_OUT_ENGLISH)
    assert len(set(words)) == 100, len(set(words))
    assert known.isdisjoint(words), known.intersection(words)
    while len(words) < 200:
        word = invented_word(draw)
        if len(word) > 2 and word not in words and word not in known:
            words.append(word)
    return tuple(words)


@cache
def _poem_words() -> tuple[str, ...]:
    """The words that poems are made of anyway: people ask for those too."""
    return tuple(sorted({word for theme in THEMES for word in (*theme.n1, *theme.n2, *theme.a1)}))


@cache
def _banned() -> frozenset[str]:
    return frozenset(held_out_words())


def shows_held_out_word(text: str) -> bool:
    """Whether any held-out word stands in `text`, alone or as a part between hyphens, in any letter case."""
    cleaned = "".join(char if char.isalpha() else " " for char in text.lower())
    return not _banned().isdisjoint(cleaned.split())


def _letters(draw: random.Random, alphabet: str) -> str:
    return "".join(draw.choice(alphabet) for _ in range(draw.randint(2, 9)))


def _doubled(draw: random.Random) -> str:
    """A word that repeats a part of itself: the hard case for copying, since the last letters do not tell the place."""
    part = invented_word(draw)[:4]
    return part + part + draw.choice(("", "a", part[0], "s"))


def _foreign_word(draw: random.Random) -> str:
    """Letters beyond a to z: an accent in an English-looking word, or a short word of another script."""
    if draw.random() < 0.4:
        word = invented_word(draw)
        place = draw.randrange(len(word))
        return word[:place] + draw.choice("äöüßéèêàáíóúñçåøæ") + word[place + 1 :]
    first, last = draw.choice(
        (
            (0x3B1, 0x3C9),
            (0x430, 0x44F),
            (0x5D0, 0x5EA),
            (0x3041, 0x3096),
            (0x30A1, 0x30FA),
            (0x4E00, 0x9FFF),
            (0xAC00, 0xD7A3),
            (0x1F300, 0x1F5FF),
        )
    )
    return "".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 5)))


def training_word(draw: random.Random) -> str:
    """One word to ask for, of any kind but the held-out ones."""
    while True:
        kind = draw.random()
        if kind < 0.55:
            word = invented_word(draw)
        elif kind < 0.60:
            word = draw.choice(_poem_words())
        elif kind < 0.71:
            word = draw.choice(TRAIN_ENGLISH)
        elif kind < 0.77:
            word = draw.choice(minute_words())
            word = word.replace("-", " ") if draw.random() < 0.15 else word
        elif kind < 0.81:
            word = f"{invented_word(draw)}-{invented_word(draw)}"
        elif kind < 0.85:
            word = f"{invented_word(draw)} {invented_word(draw)}"
        elif kind < 0.90:
            word = _doubled(draw)
        elif kind < 0.95:
            word = _letters(draw, "abcdefghijklmnopqrstuvwxyz")
        elif kind < 0.965:
            word = str(draw.randint(0, 9999))
        else:
            word = _foreign_word(draw)
        if not shows_held_out_word(word):
            return word
