"""When those who read streams are woken for tokens: together, and no oftener than eyes can follow.

To send one token alone costs this process, orcd and the client about as much as to send several. So of a model that makes hundreds
a second a few go in one piece; of one that takes longer for a token than `TOKENS_EVERY_S` each goes out as it is made.
"""

from __future__ import annotations

import asyncio
from typing import Final

TOKENS_EVERY_S: Final = 0.04
"""As often as a film shows a picture."""


class Waking:
    """The readers who wait for tokens that may wait a moment."""

    def __init__(self, every_s: float = TOKENS_EVERY_S) -> None:
        self._every_s = every_s
        self._due: dict[asyncio.Event, None] = {}
        self._woken_s = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def soon(self, changed: asyncio.Event) -> None:
        """Wake this reader together with the others, now or `every_s` after they were last woken."""
        self._due[changed] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            # Even where it is overdue it fires in another turn of the loop, and what one step gave is taken in within this one.
            self._timer = loop.call_at(self._woken_s + self._every_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._woken_s = asyncio.get_running_loop().time()
        due, self._due = self._due, {}
        for changed in due:
            changed.set()
