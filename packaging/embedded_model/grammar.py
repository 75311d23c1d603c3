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
_VOWELS = re.compile(r"[aeiouy]+")
_SLOT = re.compile(r"\{(n1|n2|a1|v1|v2|p3|t2)\}")


def syllables(word: str) -> int:
    """Estimate of the syllables of `word`: groups of vowels, a silent final e not counted, digits one each."""
    total = 0
    for part in re.split(r"[\s\-]+", word.lower()):
        groups = len(_VOWELS.findall(part))
        if groups > 1 and part.endswith("e") and not part.endswith(("le", "ee", "ie", "oe", "ye")):
            groups -= 1
        groups += sum(char.isdigit() for char in part)
        total += max(1, groups) if part else 0
    return max(1, total)


def letter_index(char: str) -> int:
    """0 to 25 for a letter of the English alphabet, some number in that range for any other character."""
    return (ord(char) - ord("a")) % 26


def letter_keys(word: str) -> tuple[int, int, int]:
    """The first, the second and the last letter of `word` as numbers; all that a canonical poem depends on, beside length."""
    letters = [char for char in word.lower() if char.isalnum()] or ["a"]
    return letter_index(letters[0]), letter_index(letters[min(1, len(letters) - 1)]), letter_index(letters[-1])


def _fill(pattern: str, theme: Theme, pick: random.Random) -> str:
    """Fill the slots of `pattern` from `theme`, no word twice in a line; `{w}` is left alone."""
    used: set[str] = set()

    def choose(match: re.Match[str]) -> str:
        slot = match.group(1)
        choices = TIMES2 if slot == "t2" else getattr(theme, slot)
        fresh = [choice for choice in choices if choice not in used] or list(choices)
        choice = pick.choice(fresh)
        used.add(choice)
        return str(choice)

    return _SLOT.sub(choose, pattern)


@cache
def free_lines(theme_index: int, length: int) -> tuple[str, ...]:
    """The canonical lines of a theme without a wanted word; `length` is 5 or 7 syllables. No two are equal."""
    pick = random.Random(1000 * theme_index + length)
    patterns = FREE5 if length == 5 else FREE7
    lines: list[str] = []
    while len(lines) < LINES_PER_THEME:
        line = _fill(patterns[len(lines) % len(patterns)], THEMES[theme_index], pick)
        if line not in lines:
            lines.append(line)
    return tuple(lines)


@cache
def word_lines(theme_index: int, rest: int) -> tuple[str, ...]:
    """The canonical lines of a theme around `{w}`, with `rest` syllables beside the word; one for each pattern."""
    pick = random.Random(7000 + 1000 * theme_index + rest)
    return tuple(_fill(pattern, THEMES[theme_index], pick) for pattern in WORD_LINES[rest])


def _free_line(theme_index: int, length: int, key: int, draw: random.Random, noise: float) -> str:
    if draw.random() < noise:
        return _fill(draw.choice(FREE5 if length == 5 else FREE7), THEMES[theme_index], draw)
    return free_lines(theme_index, length)[key % LINES_PER_THEME]


def _word_line(theme_index: int, rest: int, key: int, draw: random.Random, noise: float) -> str:
    if draw.random() < noise:
        return _fill(draw.choice(WORD_LINES[rest]), THEMES[theme_index], draw)
    lines = word_lines(theme_index, rest)
    return lines[key % len(lines)]


def poem(word: str | None, draw: random.Random, noise: float = 0.0) -> str:
    """A haiku that holds `word` as it is written, or any haiku where `word` is None; three lines joined by newlines.

    The first letter chooses the theme, the last letter the line that holds the word and the long line, the second
    letter the short lines. A word of six syllables or more goes into the long line. `noise` is the probability, for
    each line, of leaving the canonical choice.
    """
    if word is None:
        first, second, last, place = draw.randrange(26), draw.randrange(26), draw.randrange(26), -1
    else:
        first, second, last = letter_keys(word)
        place = last % 3
        if syllables(word) > 5:
            place = 1
    theme_index = first % len(THEMES)
    lines: list[str] = []
    for number, length in enumerate((5, 7, 5)):
        if word is not None and number == place:
            rest = min(6, max(0, length - syllables(word)))
            lines.append(_word_line(theme_index, rest, last // 3, draw, noise).replace("{w}", word))
        else:
            key = last if length == 7 else second + (4 if number == 2 else 0)
            lines.append(_free_line(theme_index, length, key, draw, noise))
    return "\n".join(lines)
