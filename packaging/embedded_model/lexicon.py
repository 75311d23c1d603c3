"""The words the haiku grammar is made of: themes, times and the patterns for lines.

Owns vocabulary only. Every entry is sorted by its number of syllables, because the grammar counts syllables by adding up
slots and never by looking at spelling. Number words are left out on purpose: a poem must not hold the current minute
by accident.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """One scene. The digit in a field's name is the number of syllables of each of its entries."""

    name: str
    n1: tuple[str, ...]
    n2: tuple[str, ...]
    a1: tuple[str, ...]
    v1: tuple[str, ...]
    v2: tuple[str, ...]
    p3: tuple[str, ...]


def _theme(name: str, n1: str, n2: str, a1: str, v1: str, v2: str, p3: str) -> Theme:
    """Split the compact form: words by blanks, places (three syllables each) by commas."""
    nouns, verbs = (tuple(n1.split()), tuple(n2.split())), (tuple(v1.split()), tuple(v2.split()))
    return Theme(name, *nouns, tuple(a1.split()), *verbs, tuple(place.strip() for place in p3.split(",")))


THEMES: tuple[Theme, ...] = (
    _theme("snow", "snow frost pine crow", "winter silence snowfall", "white cold deep hushed",
           "sleeps falls waits drifts", "settles whispers deepens", "on the hill, past the gate, in the pines"),
    _theme("spring rain", "rain bud leaf wren", "blossom puddle drizzle", "soft green new warm",
           "drips taps wakes falls", "murmurs trickles loosens", "on the roof, down the lane, in the buds"),
    _theme("night sky", "moon star owl cloud", "midnight moonlight comet", "pale high clear far",
           "climbs glows floats turns", "glimmers wanders hovers", "on the lake, through the dark, past the trees"),
    _theme("sea", "wave tide gull foam", "ocean harbor seaweed", "salt grey broad wild",
           "breaks pulls rolls swells", "thunders gathers rushes", "on the shore, by the rocks, past the cliffs"),
    _theme("harvest", "field wheat barn scythe", "harvest orchard apple", "ripe brown late full",
           "bends leans rests nods", "ripens rustles slumbers", "in the sun, by the fence, past the mill"),
    _theme("river", "stream trout stone reed", "river heron current", "swift clear smooth cool",
           "winds bends sings slips", "listens glitters carries", "by the bridge, round the bend, through the reeds"),
    _theme("summer heat", "heat bee dust vine", "summer cricket poppy", "hot slow gold dry",
           "hums burns shines sags", "simmers lingers dozes", "in the grass, on the wall, by the road"),
    _theme("garden", "rose moss snail thorn", "garden petal beetle", "small shy sweet damp",
           "blooms creeps grows hides", "opens trembles flowers", "on the path, in the shade, by the shed"),
    _theme("mountain", "peak goat ridge hawk", "mountain boulder valley", "steep bare blue thin",
           "stands soars stares looms", "echoes towers circles", "on the ridge, in the mist, past the pass"),
    _theme("autumn", "leaf wind oak smoke", "autumn maple acorn", "red gold dry stray",
           "falls spins fades flies", "flutters scatters wanders", "in the woods, through the smoke, on the lawn"),
    _theme("town at night", "street lamp cat train", "lantern window alley", "dim late wet still",
           "gleams yawns hums waits", "flickers passes lingers", "in the rain, down the street, by the stairs"),
    _theme("pond", "pond frog carp splash", "lily ripple duckling", "old round green calm",
           "leaps floats dreams sinks", "ripples glistens settles", "in the pond, by the reeds, in the mud"),
    _theme("storm", "storm gust bolt cloud", "thunder lightning tempest", "dark fierce black loud",
           "roars cracks shakes strikes", "rumbles gathers flashes", "in the east, past the hills, on the plain"),
    _theme("desert", "sand sun fox bone", "desert cactus lizard", "parched vast bleached bright",
           "glares shifts burns rests", "shimmers stretches withers", "on the dunes, in the heat, past the well"),
    _theme("dawn", "dawn dew lark light", "morning sunrise sparrow", "fresh pink young bright",
           "wakes lifts spreads sings", "brightens opens rises", "in the east, on the web, through the blinds"),
    _theme("forest", "fern fawn bark root", "forest shadow mushroom", "dense dark lush mild",
           "breathes leans hides sways", "whispers listens gathers", "in the ferns, on the trail, through the leaves"),
    _theme("fog", "fog bell boat ghost", "ferry lighthouse shoreline", "dim lost slow blurred",
           "tolls drifts fades stirs", "dissolves lingers thickens",
           "in the bay, off the coast, through the haze"),
    _theme("home", "hearth tea bread clock", "kettle candle cradle", "warm plain dear kind",
           "ticks steams purrs glows", "simmers crackles mellows", "by the fire, on the shelf, in the house"),
    _theme("meadow", "lamb breeze hill kite", "meadow clover skylark", "light green wide glad",
           "dips strays plays hums", "dances tumbles hovers",
           "in the breeze, on the slope, past the hedge"),
)

TIMES2: tuple[str, ...] = ("at dusk", "by noon", "all night", "tonight", "at last", "today")

# Every line says "the", never "a": the article then fits things and substances alike.
FREE5: tuple[str, ...] = (
    "{a1} {n1} {p3}",
    "the {n2} {v2}",
    "the {a1} {n1} {v2}",
    "{t2}, the {n1} {v1}",
    "{p3}, {n2}",
    "{a1} {n1} and {n2}",
)
FREE7: tuple[str, ...] = (
    "the {a1} {n1} {v1} {p3}",
    "the {n2} {v1} {p3}",
    "{p3}, the {a1} {n2}",
    "{t2}, the {a1} {n1} {v2}",
    "the {n2} {v2} and {v1}",
    "{t2}, {a1} {n1} {p3}",
)

# Lines that hold the wanted word, by the number of syllables left for everything else. The word is used as a name, so
# that a number, a verb or an abstract noun fits as well as a thing.
WORD_LINES: dict[int, tuple[str, ...]] = {
    0: ("{w}",),
    1: ("{w} {v1}", "still {w}", "and {w}", "here, {w}"),
    2: ("only {w}", "{w} {v2}", "{n1} and {w}", "{w} again"),
    3: ("I whisper {w}", "{w} {p3}", "the {n1} of {w}", "the {n1} named {w}", "{w} and {n2}", "{w}, {a1} {n2}"),
    4: ("the {n2} of {w}", "the {n2} named {w}", "{w} {v1} {p3}", "the {n1} calls it {w}", "{w} and the {n2}",
        "{a1} {n1} hums of {w}"),
    5: ("the {n2} dreams of {w}", "{w} {v2} {p3}", "the {a1} {n1} waits for {w}", "{t2}, {w} and {n2}",
        "{w}, {a1} {n1} {p3}", "the {n2} sings of {w}"),
    6: ("the {a1} {n2} dreams of {w}", "I whisper {w} to the {n1}", "{p3}, only {w} {v1}", "{t2}, the {n2} of {w}",
        "{w}, the {a1} {n1} {p3}", "the {n2} remembers {w}"),
}
