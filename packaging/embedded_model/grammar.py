"""The haiku grammar: from a wanted word to a poem of three lines with 5, 7 and 5 syllables that holds the word.

Owns the choice of lines. Which poem a word gets is a fixed function of its letters (the *canonical* poem), so that a
model can learn to answer different words differently without any randomness; `noise` replaces single choices by a
draw from the same theme, which is what sampling at a temperature above zero then shows. Knows nothing of tokens or prompts.
"""

from __future__ import annotations

import random
import re
from functools import cache

from .lexicon import FREE5, FREE7, THEMES, TIMES2, WORD_LINES, Theme

LINES_PER_THEME = 8
LENGTHS = (5, 7, 5)
FREE = {5: FREE5, 7: FREE7}
_VOWELS = re.compile(r"[aeiouy]+")
_SILENT_E = re.compile(
    r"[aeiouy].*(?:(?<![^aeiouy]l)(?<![aeiouy])e|(?<![szxcg])(?<![cs]h)(?<![^aeiouy]l)(?<![aeiouy])es|"
    r"(?<![td])(?<![aeiouy])ed)$"
)
_SLOT = re.compile(r"\{(n1|n2|a1|v1|v2|p3|t2)\}")


def syllables(word: str) -> int:
    """Estimate of the syllables of `word`: groups of vowels without a silent e at the end; a digit counts as one."""
    total = 0
    for part in re.findall(r"[^\s\-]+", word.lower()):
        groups = len(_VOWELS.findall(part)) - (_SILENT_E.search(part) is not None) + sum(char.isdigit() for char in part)
        total += max(1, groups)
    return max(1, total)


def _letter(char: str) -> int:
    """0 to 25, different for each letter of the English alphabet; by the last UTF-8 byte for any other character."""
    return char.encode()[-1] % 26


def letter_keys(word: str) -> tuple[int, int, int, int, int]:
    """The first, second, third last, last but one and last letter of `word` as numbers: what its canonical poem hangs on."""
    letters = [char for char in word.lower() if char.isalnum()] or ["a"]
    size = len(letters)
    places = (0, min(1, size - 1), max(0, size - 3), max(0, size - 2), size - 1)
    first, second, third_last, last_but_one, last = (_letter(letters[place]) for place in places)
    return first, second, third_last, last_but_one, last


def _fill(pattern: str, theme: Theme, number: int, pick: random.Random) -> str:
    """Fill the slots of `pattern` for line `number` (0 to 2) from that line's part of `theme`; `{w}` is left alone."""

    def choose(match: re.Match[str]) -> str:
        slot = match.group(1)
        choices: tuple[str, ...] = TIMES2 if slot == "t2" else getattr(theme, slot)
        return pick.choice(choices[number::3])

    return _SLOT.sub(choose, pattern)


@cache
def free_lines(theme_index: int, number: int) -> tuple[str, ...]:
    """The canonical lines of a theme without a wanted word, for line `number` (0 to 2) of a poem. No two are equal."""
    pick = random.Random(1000 * theme_index + number)
    lines: list[str] = []
    while len(lines) < LINES_PER_THEME:
        patterns = FREE[LENGTHS[number]]
        line = _fill(patterns[(len(lines) + 2 * number) % len(patterns)], THEMES[theme_index], number, pick)
        if line not in lines:
            lines.append(line)
    return tuple(lines)


@cache
def word_lines(theme_index: int, number: int, rest: int) -> tuple[str, ...]:
    """The canonical lines around `{w}` for line `number`, with `rest` syllables beside the word; one for each pattern."""
    pick = random.Random(7000 + 1000 * theme_index + 10 * rest + number)
    return tuple(_fill(pattern, THEMES[theme_index], number, pick) for pattern in WORD_LINES[rest])


def _free_line(theme_index: int, number: int, key: int, draw: random.Random, noise: float) -> str:
    if draw.random() < noise:
        return _fill(draw.choice(FREE[LENGTHS[number]]), THEMES[theme_index], number, draw)
    return free_lines(theme_index, number)[key % LINES_PER_THEME]


def _word_line(theme_index: int, number: int, word: str, key: int, draw: random.Random, noise: float) -> str:
    rest = min(6, max(0, LENGTHS[number] - syllables(word)))
    if draw.random() < noise:
        line = _fill(draw.choice(WORD_LINES[rest]), THEMES[theme_index], number, draw)
    else:
        lines = word_lines(theme_index, number, rest)
        line = lines[key % len(lines)]
    return line.replace("{w}", word)


def poem(word: str | None, draw: random.Random, noise: float = 0.0) -> str:
    """A haiku that holds `word` as it is written, or any haiku where `word` is None; three lines joined by newlines.

    The first letter chooses the theme, the last one which line holds the word and the last but one how that line goes; the
    second and the third last letter choose the other two lines. A word of six syllables or more goes into the long
    line. `noise` is the probability, for each line, of leaving the canonical choice.
    """
    if word is None:
        first, second, third_last, last_but_one, place = (*(draw.randrange(26) for _ in range(4)), -1)
    else:
        first, second, third_last, last_but_one, last = letter_keys(word)
        place = 1 if syllables(word) > 5 else last % 3
    theme_index = first % len(THEMES)
    keys = [second, third_last, last_but_one]
    lines: list[str] = []
    for number in range(3):
        if word is not None and number == place:
            lines.append(_word_line(theme_index, number, word, last_but_one, draw, noise))
        else:
            lines.append(_free_line(theme_index, number, keys.pop(0), draw, noise))
    return "\n".join(lines)
