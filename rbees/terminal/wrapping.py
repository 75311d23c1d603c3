"""Text that comes in pieces, broken between its words where a line of the terminal ends. Does no input or output.

Only what is shown is broken. The lines of a code block stay as they are, since a break would be part of what is copied, and so does
a word that is longer than a line, such as an address: the terminal goes on with them at its own edge, and copies them whole.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_FENCES: Final = ("```", "~~~")
_LONGEST_INDENT: Final = 8
_TAB: Final = 8
_JOINER: Final = "\u200d"
_NOT_FIRST: Final = frozenset({"Mn", "Me", "Mc", "Cf", "Sk", "Po", "Pe", "Pf"})
"""Categories of signs that begin no line behind a wide one: marks, and punctuation that closes."""
_NOT_LAST: Final = frozenset({"Ps", "Pi"})
"""And of those that end none before a wide one."""


class Wrapping:
    """`take` gives what can be shown of a piece; the beginning of a word that may have to move to the next line is held back."""

    def __init__(self) -> None:
        self._column = 0
        self._gap = ""
        """Blanks before the word; where it moves they are lost."""
        self._word = ""
        self._shown = ""
        """Of the word, where its beginning is shown already, the last sign that was: the rest goes where that is."""
        self._head = ""
        """How the line begins, for the marks of a code block."""
        self._is_code = False

    def take(self, text: str, width: int) -> str:
        """What is to be shown now, on a terminal of `width` cells."""
        shown = []
        for sign in text:
            if sign == "\n":
                shown += [self.rest(width), sign]
                self._end_line()
                continue
            if len(self._head) < _LONGEST_INDENT:
                self._head += sign
            if self._is_code:
                shown.append(sign)
            elif sign in " \t":
                shown.append(self._end_word(width))
                self._gap += sign
            else:
                if self._begins_a_word(sign):
                    shown.append(self._end_word(width))
                self._word += sign
        if self._word and (self._shown or not self._column or not self._fits(width)):
            # Where it goes is known before it is whole.
            last = self._word[-1]
            shown.append(self._end_word(width))
            self._shown = last
        return "".join(shown)

    def rest(self, width: int) -> str:
        """What was held back, without blanks for which there is no room."""
        word = self._end_word(width)
        gap, self._gap = self._gap, ""
        return word + gap if self._column + _cells(gap, self._column) <= width else word

    def _end_word(self, width: int) -> str:
        """The word where it belongs."""
        gap, word, is_begun = self._gap, self._word, bool(self._shown)
        moves = not is_begun and not self._fits(width)
        self._word = self._shown = ""
        if not word:
            return ""
        self._gap = ""
        if moves:
            self._column, gap = 0, "\n"
        else:
            self._column += _cells(gap, self._column)
        end = self._column + _cells(word, self._column)
        # What is longer than a line goes on at the edge.
        self._column = end if end <= width else (end - 1) % width + 1
        return gap + word

    def _fits(self, width: int) -> bool:
        """At the beginning of a line everything does, for there is no better place."""
        begin = self._column + _cells(self._gap, self._column)
        return not self._column or begin + _cells(self._word, begin) <= width

    def _begins_a_word(self, sign: str) -> bool:
        """Scripts with wide signs have no blanks: a line may end before and behind each."""
        last = self._word[-1:] or self._shown
        if not last or last == _JOINER or not (_is_wide(sign) or _is_wide(last)):
            return False
        return unicodedata.category(sign) not in _NOT_FIRST and unicodedata.category(last) not in _NOT_LAST

    def _end_line(self) -> None:
        if self._head.lstrip(" ").startswith(_FENCES):
            self._is_code = not self._is_code
        self._column, self._head = 0, ""


def _is_wide(sign: str) -> bool:
    return unicodedata.east_asian_width(sign) in "WF"


def _cells(text: str, column: int) -> int:
    """How many cells `text` takes that begins in this column."""
    if text.isascii() and "\t" not in text:
        return len(text)
    # Not before it is needed: plain text is shown without the weight of that library.
    from rbees.terminal.rich_views import cell_len

    end = column
    for number, part in enumerate(text.split("\t")):
        end += (_TAB - end % _TAB if number else 0) + cell_len(part)
    return end - column
