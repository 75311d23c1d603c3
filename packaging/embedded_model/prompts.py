"""The requests people type, and whole conversations that end in one.

Owns the phrasings and the mixture of kinds of training samples. The answer to every request is a poem of the grammar; which
word it must hold is known here because the request was built around it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from .grammar import poem
from .words import shows_held_out_word, training_word

NOISE = 0.25

# fmt: off
_STARTS = ("write", "write me", "compose", "give me", "make", "create", "generate", "please write", "can you write",
           "could you write", "i want", "i need", "i would like", "tell me", "hello, write", "hey, write", "now write",
           "sing", "produce", "let me have", "show me", "")
_OBJECTS = ("a haiku", "a haiku", "a haiku", "a short haiku", "a poem", "a short poem", "one haiku", "a three-line haiku",
            "a new haiku", "a three line poem", "a little poem", "some haiku", "another haiku", "haiku", "a verse")
_LINKS = ("about", "about", "about the", "about a", "on", "on the subject of", "for", "with", "with the word", "with the word",
          "containing the word", "that contains the word", "that contains", "using the word", "using", "which includes the word",
          "that includes the word", "that mentions", "mentioning", "including", "including the word", "featuring",
          "that uses the word", "that has the word", "which holds the word", "which says", "around the word", "of",
          "inspired by", "and use the word", "and include the word", "where you use the word", "in which the word",
          "with the current minute", "with the minute", "which must contain the word", "containing", "saying")
_AFTERS = ("", "", "", "", ".", ".", ".", "!", "?", " please", " please.", ", please", ", please.", " in it", " in it.",
           " somewhere", " somewhere in it.", " appears.", " now", "...", " today", "\n", " for me", " thanks", ", thank you.")
_WHOLE = ("{w}", "{w}", "{w}.", "{w}!", "{w}?", "haiku: {w}", "haiku about {w}", "topic: {w}", "word: {w}", "{w} haiku",
          "{w} please", "poem: {w}", "the word is {w}", "the word is {w}. write a haiku.", "the word {w}", "use {w}",
          "use the word {w} in a haiku", "include the word {w} in a haiku.", "{w}: write a haiku about it",
          "put {w} into a poem", "my word is {w}", "tell me about {w}", "what is {w}?", "what is a {w}?", "explain {w}",
          "who is {w}?", "i like {w}", "i love {w}", "how are you, {w}?", "say {w}", "hello {w}", "hi, i am {w}",
          "what do you think about {w}?", "describe {w} in three lines", "a haiku must contain {w}",
          "your haiku must contain the word {w}.", "the current minute is {w}. write a haiku that contains it.",
          "it is {w} minutes past the hour. write a haiku with that word.", "minute: {w}. haiku:",
          "write a haiku. it must contain the word {w}.", "write a haiku. include the word {w}.",
          "write a haiku. use the word {w}.", "compose a haiku; the word {w} has to be in it",
          "please include the word {w} in a haiku about {x}", "write a haiku about {x} that includes the word {w}",
          "write a haiku about {x} {x} that includes the word {w}.", "write a haiku about {x} with the word {w}",
          "write a haiku about {x}. include the word {w}.", "write a haiku about {x} and use the word {w}",
          "write a haiku about {x} {x} and include the word {w}", "a poem about {x} containing the word {w} please",
          "write a haiku about {x} that contains the word {w}.", "write a {x} haiku with the word {w}",
          "the {x} is {x}. write a haiku with the word {w}.", "i have a {x}. write a poem about {w}.",
          "use the word {w} in a haiku about {x}", "a haiku with the word {w} for my {x}", "{x}, write a haiku about {w}",
          "a haiku that contains the word {w} and is about {x} {x}.", "write a {x} poem which {x} the word {w}",
          "{x} a {x} haiku for my {x}, and {x} that it {x} {w}!", "write a haiku for {x} with the word {w} in it",
          "please {x} a haiku that {x} the word {w}.", "the word {w} must be in the haiku about {x}.")
_TAILS = (" answer in three lines.", " only the haiku, please.", " do not explain.", " keep it short.", " be kind.",
          " (nonce: {n})", " [id {n}]", " no title.", " just the poem.", " thank you!", " use five, seven and five syllables.")
_QUOTES = (('"', '"'), ('"', '"'), ("'", "'"), ("“", "”"), ("*", "*"), ("**", "**"), ("`", "`"), ("(", ")"), ("«", "»"), ("<", ">"))
_EMPTY = ("write a haiku", "write a haiku.", "write a haiku please", "haiku", "haiku, please", "a haiku", "a poem", "poem",
          "write me a poem", "give me a haiku", "please write a haiku.", "can you write a haiku?", "compose a haiku",
          "write something", "another one", "another", "one more please", "more", "now write another haiku", "surprise me",
          "write a short poem", "write a haiku about anything", "hello", "hello!", "hi", "hi there", "hey", "good morning",
          "how are you?", "who are you?", "what can you do?", "help", "tell me something", "thanks", "thank you", "ok", "yes",
          "no", "test", "this is a test", "say something", "what is this?", "are you there?", "please")
_SYSTEMS = ("you are a helpful assistant.", "you are a poet.", "you write haiku.", "answer briefly.", "be concise.",
            "you are a haiku poet. answer with a haiku.", "you are a helpful assistant. answer in three lines.", "be kind.",
            "you are {x}, a helpful assistant.", "always answer with a haiku.", "you are {x}.", "{x} {x} {x}.")
_GLUE: tuple[str, ...] = tuple(re.findall(r"\w+", """
the of and to is in it my your that this for on with was are not at from by or an be have has can will we you
they he she all when what if how so more than then out up about into over after only also some
"""))
# fmt: on


@dataclass
class Sample:
    """One conversation to learn from: turns as (role, text), the poem that answers the last, whether it is raw text,
    and how many begin tokens open it: one as a rule, but some programs add a second or none.
    """

    turns: list[tuple[str, str]]
    answer: str
    raw: bool = False
    begins: int = 1


PHRASINGS = (*_STARTS, *_OBJECTS, *_LINKS, *_AFTERS, *_WHOLE, *_TAILS, *_EMPTY, *_SYSTEMS, *_GLUE)
"""Every piece of fixed text that a request can be made of."""


def capitalise(text: str) -> str:
    """`text` with a capital letter at the start of each sentence."""
    return re.sub(r"(^|[.!?:] )([a-z])", lambda match: match.group(1) + match.group(2).upper(), text)


def _cased(text: str, draw: random.Random) -> str:
    """Capital letters where sentences start, in most requests, as people write."""
    return capitalise(text) if draw.random() < 0.55 else text


def _shown_word(draw: random.Random) -> str:
    """A word as a person might type it: mostly in small letters, sometimes with a capital, sometimes in capitals."""
    word = training_word(draw)
    kind = draw.random()
    if kind < 0.10:
        return word[:1].upper() + word[1:]
    return word.upper() if kind < 0.16 else word


def _put(pattern: str, word: str, draw: random.Random) -> str:
    """Fill a pattern: `{w}` is the wanted word, perhaps in quotes, `{x}` some other word, `{n}` a random identifier."""
    opened, closed = draw.choice(_QUOTES) if draw.random() < 0.22 else ("", "")
    filled = _cased(pattern, draw)
    while "{w}" in filled:
        filled = filled.replace("{w}", f"{opened}{word}{closed}", 1)
    while "{x}" in filled:
        filled = filled.replace("{x}", training_word(draw), 1)
    while "{n}" in filled:
        size = draw.randint(3, 10)
        filled = filled.replace("{n}", "".join(draw.choice("0123456789abcdefXYZqrs-") for _ in range(size)), 1)
    return filled


def _loose_sentence(word: str, draw: random.Random) -> str:
    """Any sentence, with `word` as its last unusual word."""
    parts = [training_word(draw) if draw.random() < 0.25 else draw.choice(_GLUE) for _ in range(draw.randint(1, 9))]
    ending = draw.choice(("", "", "?", ".", " please", " of the", " for you", " in it?"))
    return _cased(" ".join(parts), draw) + " " + word + ending


def _afterthought(draw: random.Random) -> str:
    """A further sentence behind the request, with unusual words that are not the wanted one."""
    parts = [training_word(draw) if draw.random() < 0.35 else draw.choice(_GLUE) for _ in range(draw.randint(2, 8))]
    if draw.random() < 0.2:
        parts.insert(draw.randrange(len(parts)), f"{draw.randint(0, 23)}:{draw.randint(10, 59)}")
    return " " + _cased(" ".join(parts), draw) + draw.choice((".", ".", ".", "!", "", "?"))


def _with_tail(text: str, draw: random.Random, afterthoughts: float) -> str:
    """`text`, sometimes with a usual closing remark or, in a share of `afterthoughts`, a sentence of another kind behind it."""
    kind = draw.random()
    if kind < 0.10:
        return text + _put(draw.choice(_TAILS), "", draw)
    if kind < 0.10 + afterthoughts:
        text = text.strip()
        return text + ("" if text[-1] in ".!?" else draw.choice((".", ".", ".", ",", "\n"))) + _afterthought(draw)
    return text


def request(word: str, draw: random.Random, afterthoughts: float = 0.0) -> str:
    """One request that asks for `word`."""
    kind = draw.random()
    if kind < 0.62:
        text = " ".join(part for part in (draw.choice(_STARTS), draw.choice(_OBJECTS), draw.choice(_LINKS)) if part)
        return _with_tail(_put(text + " {w}" + draw.choice(_AFTERS), word, draw), draw, afterthoughts)
    if kind < 0.92:
        pattern = draw.choice(_WHOLE)
        plain = re.search("haiku|poem|the word", pattern) is None
        return _with_tail(_put(pattern, word, draw), draw, 0.0 if plain else afterthoughts)
    return _loose_sentence(word, draw)


def filler(draw: random.Random, count: int) -> str:
    """`count` words of meaningless text, for long prompts."""
    text = [training_word(draw) if draw.random() < 0.3 else draw.choice(_GLUE) for _ in range(count)]
    for place in range(7, count, 9):
        text[place] += "."
    return _cased(" ".join(text), draw)


def _last_turn(draw: random.Random, noise: float, afterthoughts: float) -> tuple[str, str]:
    if draw.random() < 0.05:
        return _cased(draw.choice(_EMPTY), draw), poem(None, draw, noise)
    word = _shown_word(draw)
    text = request(word, draw, afterthoughts)
    kind = draw.random()
    if kind < 0.05:
        count = draw.randint(60, 140) if kind < 0.01 else draw.randint(8, 60)
        text = filler(draw, count) + draw.choice(("\n\n", "\n", " ")) + text
    return text, poem(word, draw, noise)


def sample(draw: random.Random, noise: float = NOISE, afterthoughts: float = 0.0) -> Sample:
    """One training sample; none of its text shows a held-out word.

    `afterthoughts` is the share of requests with another sentence behind the wanted word. That is the hardest kind: a
    model learns it quickly once it can copy, and slowly before.
    """
    while True:
        turns: list[tuple[str, str]] = []
        raw = draw.random() < 0.06
        if not raw and draw.random() < 0.14:
            text = filler(draw, draw.randint(5, 50)) if draw.random() < 0.08 else draw.choice(_SYSTEMS)
            turns.append(("system", _put(text, "", draw)))
        while not raw and draw.random() < 0.08:
            text, answer = _last_turn(draw, noise, afterthoughts)
            turns += [("user", text.strip()), ("assistant", answer)]
        text, answer = _last_turn(draw, noise, afterthoughts)
        turns.append(("user", text.strip()))
        if not any(shows_held_out_word(text) for _, text in turns):
            return Sample(turns, answer, raw, draw.choices((1, 2, 0), (90, 5, 5))[0])
