"""The rows of a decode call, from what each sequence shall compute. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many

import numpy as np
from numpy.typing import NDArray

from rbees.workerd.engine.backend import Rows
from rbees.workerd.engine.batcher import Share
from rbees.workerd.engine.sequence import Sequence


def rows_of(shares: Many[Share], running: Mapping[str, Sequence]) -> Rows:
    """The shares' tokens in their order. Logits are wanted of a sequence's last token and of everything that was guessed."""
    slots: list[int] = []
    positions: list[int] = []
    tokens: list[int] = []
    wants: list[bool] = []
    for share in shares:
        sequence = running[share.key]
        assert sequence.slot is not None
        start, end = sequence.computed, sequence.computed + share.count
        slots += [sequence.slot] * share.rows
        positions += range(start, start + share.rows)
        tokens += [*sequence.tokens[start:end], *share.draft]
        wants += [False] * (share.count - 1) + [end == len(sequence.tokens)] + [True] * len(share.draft)
    return Rows(_ids(slots), _ids(positions), _ids(tokens), np.array(wants, dtype=np.bool_))


def _ids(values: list[int]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)
