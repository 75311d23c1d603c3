"""The next tokens of the sequences of one decode call, and of each what would come if its draft holds. PURE.

Behind a sequence's own row stand those of its draft. Each is drawn as if the drafted tokens before it had been drawn: with their
place's random number, with them in what penalties look back on, and with the form moved on by them. So what is drawn up to the
first token that differs from the draft, that token included, is what single rows would have given.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rbees.protocol.errors import RbeesError
from rbees.workerd.engine.refusals import not_finite
from rbees.workerd.engine.sampling import Draw, Drawn, sample
from rbees.workerd.engine.sequence import Sequence

Draft = tuple[int, ...]
Outcome = Drawn | RbeesError
"""A token, or why there is none."""
_Mask = NDArray[np.uint32] | RbeesError | None


def draw(logits: NDArray[np.float32], ripe: list[tuple[Sequence, Draft]], eog_ids: NDArray[np.int64]) -> list[list[Outcome]]:
    """For each sequence one outcome more than its draft has tokens.

    `logits` (rows, vocabulary) holds the rows of the first sequence, its own and those of its draft, then those of the second, and
    so on; it may be written to.
    """
    masks = [_masks(sequence, draft) for sequence, draft in ripe]
    draws = [
        _draw(sequence, draft[:place], mask)
        for (sequence, draft), along in zip(ripe, masks, strict=True)
        for place, mask in enumerate(along)
    ]
    drawn = iter(sample(logits, draws, eog_ids))
    return [[_outcome(mask, next(drawn)) for mask in along] for along in masks]


def _outcome(mask: _Mask, drawn: Drawn | None) -> Outcome:
    return mask if isinstance(mask, RbeesError) else drawn or not_finite()


def _draw(sequence: Sequence, guessed: Draft, mask: _Mask) -> Draw:
    work = sequence.work
    allowed = None if isinstance(mask, RbeesError) else mask
    return Draw(work.sampling, sequence.choice, sequence.tokens, len(work.prompt), allowed, work.breakers, guessed)


def _masks(sequence: Sequence, draft: Draft) -> list[_Mask]:
    """What the form allows in each row, None for everything; or why a row has no next token.

    The rows of the draft are seen through a copy, because what goes wrong behind a guess has not gone wrong yet.
    """
    if sequence.constraint is None:
        return [None] * (1 + len(draft))
    masks: list[_Mask] = []
    form = sequence.constraint.fork() if draft else sequence.constraint
    for place in range(1 + len(draft)):
        try:
            if place:
                form.accept(draft[place - 1])
            masks.append(form.mask())
        except RbeesError as error:
            masks += [error] * (1 + len(draft) - place)
            break
    return masks
