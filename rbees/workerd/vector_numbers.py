"""Vectors as numbers in JSON: scaled to length 1 where that is asked for, and written short without losing a bit. PURE."""

from __future__ import annotations

import base64
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rbees.protocol.vectors import Encoding

_DIGITS: Final = 9
"""Significant digits that say any 32-bit float exactly."""
_EXACT_POWERS: Final = 22
"""Powers of ten up to this one are 64-bit floats exactly, so that a quotient by them is the nearest to its decimal."""


def scaled(vectors: NDArray[np.float32], *, normalize: bool) -> NDArray[np.float32]:
    """Each row of float32 (n, dimensions) with Euclidean length 1; one that is all zeros stays so."""
    if not normalize:
        return vectors
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    scaled_rows: NDArray[np.float32] = (vectors / np.where(lengths == 0, 1.0, lengths)).astype(np.float32)
    return scaled_rows


def numbers(vectors: NDArray[np.float32], encoding: Encoding) -> list[tuple[float, ...] | str]:
    """Each row as its request asks for it."""
    if encoding == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    # Row by row, because numpy makes a list without letting other threads run.
    return [tuple(row.tolist()) for row in short(vectors)]


def short(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same numbers as 64-bit floats that are written with nine digits and read back as the same 32-bit ones."""
    wide = values.astype(np.float64)
    size = np.abs(wide, where=wide != 0, out=np.ones_like(wide))
    powers = _DIGITS - 1 - np.floor(np.log10(size)).astype(np.int64)
    exact = (powers >= 0) & (powers <= _EXACT_POWERS)
    scale = 10.0 ** np.where(exact, powers, 0)
    rounded: NDArray[np.float64] = np.where(exact, np.rint(wide * scale) / scale, wide)
    for place in zip(*np.nonzero(~exact), strict=True):
        rounded[place] = float(f"{wide[place]:.{_DIGITS}g}")
    return rounded
