"""How long this process stood still: told before anybody is judged by his silence.

A process that was stopped, or whose loop was kept busy, wakes with everything due at once, in any order: timers, sockets, turns. So
whoever is about to judge calls `look` first, and whichever comes first finds the stall and tells everybody of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LOOK_S: Final = 0.25
"""`awake` is called at least so often by timers, unless this process stands still."""
STALL_S: Final = 1.0
"""Coming so much later than that is a stall."""


class Stalls:
    """Tells its listeners of each stall once, with its length in seconds. Stalls count from the first `awake` on."""

    def __init__(self, monotonic: Callable[[], float], look_s: float = LOOK_S) -> None:
        self._monotonic = monotonic
        self._look_s = look_s
        self._listeners: list[Callable[[float], None]] = []
        self._awake_at_s: float | None = None

    def tell(self, listener: Callable[[float], None]) -> None:
        """Have `listener` told from now on."""
        self._listeners.append(listener)

    def look(self) -> None:
        """Tell of a stall that nobody knows of yet."""
        if self._awake_at_s is None:
            return
        late_s = self._monotonic() - self._awake_at_s - self._look_s
        if late_s < STALL_S:
            return
        # Not until now: sockets may still wait to be read, and a turn that goes on and on is found once more.
        self._awake_at_s += late_s
        for listener in self._listeners:
            listener(late_s)

    def awake(self) -> None:
        """A timer has come round: between two of them whatever has come in is read."""
        self.look()
        self._awake_at_s = self._monotonic()
