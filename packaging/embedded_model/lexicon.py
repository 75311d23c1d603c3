"""The words the haiku grammar is made of: themes, times and the patterns for lines.

Owns vocabulary only. Every entry is sorted by its number of syllables, because the grammar counts syllables by adding up
slots and never by looking at spelling. Number words are left out on purpose: a poem must not hold the current minute
by accident.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """One scene. The digit in a field's name is the number of syllables of each of its entries.

    Each field has six entries: two for each line of a poem, so that no line repeats another's words.
    """

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


# fmt: off
THEMES: tuple[Theme, ...] = (
    _theme("snow", "snow crow frost hare flake ice", "winter snowfall silence snowdrift blizzard footprint",
           "white cold deep hushed thin bleak", "sleeps falls waits drifts shines melts",
           "settles whispers deepens glitters gathers hardens",
           "on the hill, past the gate, in the pines, on the roof, down the lane, by the fence"),
    _theme("spring rain", "rain bud leaf wren sprout brook", "blossom puddle drizzle sapling robin cloudburst",
           "soft green new warm brief mild", "drips taps wakes falls swells sings",
           "murmurs trickles loosens freshens patters glistens",
           "on the roof, down the lane, in the yard, through the eaves, past the well, on the sill"),
    _theme("night sky", "moon star owl cloud bat night", "midnight moonlight comet darkness stardust heaven",
           "pale high clear far black old", "climbs glows floats turns hunts sinks",
           "glimmers wanders hovers circles listens twinkles",
           "on the lake, through the dark, past the trees, on the snow, from the east, round the roofs"),
    _theme("sea", "wave tide gull foam reef surf", "ocean harbor seaweed breaker pebble driftwood",
           "salt grey broad wild bright rough", "breaks pulls rolls swells cries turns",
           "thunders gathers rushes glitters wanders dances",
           "on the shore, by the rocks, past the cliffs, in the bay, off the point, down the beach"),
    _theme("harvest", "field wheat barn scythe sheaf crow", "harvest orchard apple stubble barley haystack",
           "ripe brown late full gold plain", "bends leans rests nods waits falls",
           "ripens rustles slumbers mellows glimmers settles",
           "in the sun, by the fence, past the mill, in the dusk, on the cart, down the road"),
    _theme("river", "stream trout stone reed bank rain", "river heron current otter willow ferry",
           "swift clear smooth cool green deep", "winds bends sings slips glides turns",
           "listens glitters carries wanders hurries murmurs",
           "by the bridge, round the bend, through the ford, past the mill, in the shade, down the weir"),
    _theme("summer heat", "heat bee dust vine fig wasp", "summer cricket poppy noonday thistle swallow",
           "hot slow gold dry long bright", "hums burns shines sags rests sways",
           "simmers lingers dozes shimmers ripens withers",
           "in the grass, on the wall, by the road, at the well, on the hill, through the gate"),
    _theme("garden", "rose moss snail thorn bulb hedge", "garden petal beetle spider lilac trellis",
           "small shy sweet damp red plain", "blooms creeps grows hides climbs sleeps",
           "opens trembles flowers wakens tangles brightens",
           "on the path, in the shade, by the shed, in the pot, by the wall, through the fence"),
    _theme("mountain", "peak goat ridge hawk cliff scree", "mountain boulder valley summit eagle cavern",
           "steep bare blue thin sharp still", "stands soars stares looms climbs waits",
           "echoes towers circles darkens slumbers listens",
           "in the mist, past the pass, on the slope, in the clouds, round the tarn, by the cairn"),
    _theme("autumn", "leaf wind oak smoke crow nut", "autumn maple acorn bonfire chestnut cobweb",
           "red gold dry stray brown last", "falls spins fades flies drifts burns",
           "flutters scatters wanders crackles rustles thickens",
           "in the woods, through the park, on the lawn, down the street, by the church, past the bench"),
    _theme("town at night", "lamp cat train clock sign bus", "lantern window alley corner taxi billboard",
           "dim late wet still blue grey", "gleams yawns hums waits turns stops",
           "flickers passes lingers whistles glistens slumbers",
           "in the rain, down the street, by the stairs, past the shops, on the square, through the gate"),
    _theme("pond", "pond frog carp splash toad newt", "lily ripple duckling minnow cattail stillness",
           "old round green calm small brown", "leaps floats dreams sinks croaks rests",
           "ripples glistens settles paddles listens shivers",
           "in the mud, by the bank, in the shade, on the stone, past the dock, at the edge"),
    _theme("storm", "storm gust bolt cloud hail squall", "thunder lightning tempest downpour shutter treetop",
           "dark fierce black loud vast wild", "roars cracks shakes strikes howls breaks",
           "rumbles gathers flashes trembles rattles passes",
           "in the east, past the hills, on the plain, through the night, from the sea, by the barn"),
    _theme("desert", "sand sun fox bone dune snake", "desert cactus lizard canyon vulture mirage",
           "parched vast bleached bright bare hot", "glares shifts burns rests sleeps fades",
           "shimmers stretches withers wanders crumbles hardens",
           "in the heat, past the well, on the rocks, through the waste, by the tent, at the spring"),
    _theme("dawn", "dawn dew lark light mist rook", "morning sunrise sparrow rooster daybreak dewdrop",
           "fresh pink young bright hushed pale", "wakes lifts spreads sings glows breaks",
           "brightens opens rises quickens lightens ripples",
           "in the east, on the web, through the blinds, on the grass, past the hill, at the pane"),
    _theme("forest", "fern fawn bark root stag vine", "forest shadow mushroom thicket badger cuckoo",
           "dense dark lush mild deep shy", "breathes leans hides sways waits grows",
           "whispers listens gathers slumbers darkens rustles",
           "on the trail, in the glade, through the boughs, by the creek, past the stump, in the moss"),
    _theme("fog", "fog bell boat ghost horn pier", "ferry lighthouse headland sailor vapor mooring",
           "dim lost slow blurred grey lone", "tolls drifts fades stirs moans waits",
           "dissolves lingers thickens wanders shivers settles",
           "in the bay, off the coast, through the haze, by the quay, past the buoys, at the dock"),
    _theme("home", "hearth tea bread clock bowl broom", "kettle candle cradle teacup doorway armchair",
           "warm plain dear kind worn clean", "ticks steams purrs glows waits rests",
           "simmers crackles mellows glimmers slumbers welcomes",
           "by the fire, on the shelf, in the house, on the stove, at the door, in the hall"),
    _theme("meadow", "lamb breeze hill kite foal grass", "meadow clover skylark daisy poppy rabbit",
           "light green wide glad young soft", "dips strays plays hums runs sways",
           "dances tumbles hovers ripples wanders blossoms",
           "in the sun, on the slope, past the hedge, by the brook, down the path, through the gate"),
)
# fmt: on

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
    1: ("{w} {v1}", "still {w}", "and {w}", "here, {w}", "just {w}", "{w}, still"),
    2: ("only {w}", "{w} {v2}", "{n1} and {w}", "{w} again", "{w} once more", "listen: {w}"),
    3: ("I whisper {w}", "{w} {p3}", "the {n1} of {w}", "the {n1} named {w}", "{w} and {n2}", "{w}, {a1} {n2}"),
    4: (
        "the {n2} of {w}",
        "the {n2} named {w}",
        "{w} {v1} {p3}",
        "the {n1} calls it {w}",
        "{w} and the {n2}",
        "{a1} {n1} hums of {w}",
    ),
    5: (
        "the {n2} dreams of {w}",
        "{w} {v2} {p3}",
        "the {a1} {n1} waits for {w}",
        "{t2}, {w} and {n2}",
        "{w}, {a1} {n1} {p3}",
        "the {n2} sings of {w}",
    ),
    6: (
        "the {a1} {n2} dreams of {w}",
        "I whisper {w} to the {n1}",
        "{p3}, only {w} {v1}",
        "{t2}, the {n2} of {w}",
        "{w}, the {a1} {n1} {p3}",
        "the {n2} remembers {w}",
    ),
}
