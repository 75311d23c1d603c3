"""Where a JSON object or array ends in a text that is still growing. PURE.

Follows strings and brackets only; whether what lies between is JSON is for the parser to say once the end is there.
"""

from __future__ import annotations

import re
from typing import Final

MAX_DEPTH: Final = 64

_OUTSIDE: Final = re.compile(r'["{}\[\]]')
_INSIDE: Final = re.compile(r'["\\]')


class JsonSpan:
    """The value whose opening bracket stands at `start` of a text."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.broken = False
        """It is nested too deeply to be looked at."""
        self._position = start
        self._depth = 0
        self._in_string = False

    def end(self, text: str) -> int | None:
        """The position behind the value, or None where it goes on beyond `text`. Each call may bring a longer text."""
        while not self.broken:
            found = (_INSIDE if self._in_string else _OUTSIDE).search(text, self._position)
            if found is None:
                self._position = len(text)
                return None
            if found[0] == "\\":
                if found.end() == len(text):
                    self._position = found.start()
                    return None
                self._position = found.end() + 1
                continue
            self._position = found.end()
            self._step(found[0])
            if self._depth == 0:
                return self._position
        return None

    def _step(self, character: str) -> None:
        if character == '"':
            self._in_string = not self._in_string
        elif character in "{[":
            self._depth += 1
            self.broken = self._depth > MAX_DEPTH
        else:
            self._depth -= 1
