"""How likely the model itself finds a token and its best alternatives, before anything changes its logits. PURE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbees.protocol.events import TokenLogprob, TopLogprob
from rbees.workerd.engine.largest import largest
from rbees.workerd.engine.softmax import mass

_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Rated:
    """A token with the natural logarithm of its probability, and the likeliest tokens with theirs, likeliest first."""

    token: int = field(repr=False)
    logprob: float
    top: tuple[tuple[int, float], ...] = field(repr=False)


class ModelView:
    """One row of logits as the model made it, kept while sampling writes into the row."""

    def __init__(self, row: NDArray[np.float32], top: int) -> None:
        self._row = row.copy()
        self._level = float(row.max()) + math.log(mass(row))
        self._top = largest(row[None], [0], top) if top else None

    def rate(self, token: int) -> Rated:
        """What the model thought of `token`."""
        return Rated(token, self._logprob(self._row[token]), self._alternatives())

    def _alternatives(self) -> tuple[tuple[int, float], ...]:
        if self._top is None:
            return ()
        ids, values = self._top
        return tuple((token, self._logprob(v)) for token, v in zip(ids[0].tolist(), values[0], strict=True) if v > -np.inf)

    def _logprob(self, logit: np.floating) -> float:
        return round(min(float(logit) - self._level, 0.0), _DIGITS)


def message(rated: Rated, piece_of: Callable[[int], bytes]) -> TokenLogprob:
    """`rated` with its texts, as events carry it."""
    top = tuple(_alternative(token, logprob, piece_of(token)) for token, logprob in rated.top)
    text, exact = _text(piece_of(rated.token))
    return TokenLogprob(token_id=rated.token, text=text, bytes=exact, logprob=rated.logprob, top=top)


def _alternative(token: int, logprob: float, piece: bytes) -> TopLogprob:
    text, exact = _text(piece)
    return TopLogprob(token_id=token, text=text, bytes=exact, logprob=logprob)


def _text(piece: bytes) -> tuple[str, tuple[int, ...] | msgspec.UnsetType]:
    """The piece as text, and its bytes where the text does not say them."""
    try:
        return piece.decode(), msgspec.UNSET
    except UnicodeDecodeError:
        return piece.decode("utf-8", "replace"), tuple(piece)
