"""What keeps an answer in its form: the engine's view of it. PURE; `grammar` has the one that llguidance computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """The state of one answer: a function of the tokens accepted so far and of nothing else, so that replaying them restores it."""

    def mask(self) -> NDArray[np.uint32]:
        """The tokens that may follow: bit i of word i // 32 is set where token i may. End-of-generation tokens count as such.

        Raises:
            RbeesError: INVALID_REQUEST where the form turns out to be too complex, or nothing can follow though it is incomplete.
        """

    def accept(self, token: int) -> bool:
        """Append a token that does not end the generation; True if nothing may follow: the answer is complete.

        Raises:
            RbeesError: INVALID_REQUEST where the token may not follow, or as in `mask`.
        """

    def admits(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, from the first on, may follow; no end-of-generation tokens among them. Changes nothing."""

    def forced(self) -> Sequence[int]:
        """Tokens, from the next one on, beside which no others are allowed; none where there is a choice. Changes nothing."""

    def fork(self) -> Constraint:
        """A copy in the same state that goes its own way."""
