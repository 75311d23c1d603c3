"""An answer that keeps to one of several constraints: it shows on the way to which. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from rbees.workerd.engine.constraint import Constraint


class Either:
    """Implements `Constraint`. Grammars could be one with alternatives, but a lexer that follows two at once confuses them."""

    def __init__(self, alternatives: Sequence[Constraint]) -> None:
        """`alternatives` belong to this alone; at least one."""
        self._left = tuple(alternatives)
        """Those that the answer so far keeps to."""

    def mask(self) -> NDArray[np.uint32]:
        """As `Constraint.mask`."""
        return reduce(np.bitwise_or, [one.mask() for one in self._left])

    def accept(self, token: int) -> bool:
        """As `Constraint.accept`."""
        if len(self._left) > 1:
            # Where it may follow nowhere, the first says so.
            self._left = tuple(one for one in self._left if one.admits([token])) or self._left[:1]
        ends = [one.accept(token) for one in self._left]
        return all(ends)

    def admits(self, tokens: Sequence[int]) -> int:
        """As `Constraint.admits`."""
        return max(one.admits(tokens) for one in self._left)

    def forced(self) -> Sequence[int]:
        """As `Constraint.forced`."""
        return self._left[0].forced() if len(self._left) == 1 else ()

    def fork(self) -> Either:
        """As `Constraint.fork`."""
        return Either([one.fork() for one in self._left])
