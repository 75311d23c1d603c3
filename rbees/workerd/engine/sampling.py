"""Drawing the next token of every sequence of a batch, in numpy, exactly. PURE.

The chain and its order are llama.cpp's (`common_params_sampling`): logit bias, mask, repetition/presence/frequency penalties, DRY,
then what cuts candidates off: top-k, typical, top-p, min-p, XTC; then temperature and one draw. Ties go to the lowest id.
Log-probabilities are the model's own, from before all of it.

The random numbers of a draw are hashes of (seed, choice, position), of a token's id for that token's, and of nothing else.
Everything else depends on the tokens so far, so a job draws the same whatever shares its batch, and another worker draws on
where this one stopped. Where a batch or another machine rounds logits otherwise, that seldom changes the token (see `chance`).
Sorting a vocabulary of 150 000 is what costs time: no path does it unless the parameters ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.chance import XTC, key_of, uniform
from rbees.workerd.engine.dry import NO_BREAKERS, Breakers, penalise_repeats
from rbees.workerd.engine.logprobs import ModelView, Rated
from rbees.workerd.engine.penalties import add_bias, penalise, penalises
from rbees.workerd.engine.truncation import Lot, draw_lots


@dataclass(frozen=True, slots=True)
class Draw:
    """What one row of logits is sampled with."""

    sampling: Sampling = field(repr=False)
    choice: int
    tokens: Sequence[int] = field(repr=False)
    """The prompt and the choice's answer so far; read, never kept."""
    prompt_length: int
    mask: NDArray[np.uint32] | None = None
    """Bit i of word i // 32 is set where token i is allowed; tokens beyond the last word are not. None allows all."""
    breakers: Breakers = NO_BREAKERS
    """DRY's sequence breakers as tokens of this vocabulary."""
    guessed: tuple[int, ...] = field(default=(), repr=False)
    """Tokens that stand behind `tokens` where this row was computed; the draw counts only if they are drawn too."""

    @property
    def position(self) -> int:
        """Index of the token within the choice's answer."""
        return len(self.tokens) + len(self.guessed) - self.prompt_length

    @property
    def history(self) -> Sequence[int]:
        """Everything before the token that is drawn."""
        return [*self.tokens, *self.guessed] if self.guessed else self.tokens


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next token of one row."""

    token: int = field(repr=False)
    logprob: Rated | None = None
    """How likely the model found it, where the sampling asks for that."""


def sample(logits: NDArray[np.float32], draws: Sequence[Draw], eog_ids: NDArray[np.int64]) -> list[Drawn | None]:
    """The next token of each row of `logits` (rows, vocabulary), which may be written to.

    None for a row without a finite maximum, because the model computed none or the mask left none; it has no next token.
    """
    views = {i: ModelView(logits[i], draw.sampling.top_logprobs) for i, draw in enumerate(draws) if draw.sampling.logprobs}
    for row, draw in zip(logits, draws, strict=True):
        _change(row, draw, eog_ids)
    tokens = np.argmax(logits, axis=1)
    usable = np.isfinite(logits[np.arange(len(draws)), tokens])
    lots = [_lot(i, draw) for i, draw in enumerate(draws) if usable[i] and not _is_greedy(draw.sampling)]
    tokens[[lot.row for lot in lots]] = draw_lots(logits, lots)
    return [
        Drawn(token, views[i].rate(token) if i in views else None) if usable[i] else None for i, token in enumerate(tokens.tolist())
    ]


def _change(row: NDArray[np.float32], draw: Draw, eog_ids: NDArray[np.int64]) -> None:
    """Everything that changes logits before candidates are cut off."""
    add_bias(row, draw.sampling)
    if draw.sampling.ignore_eos:
        row[eog_ids] = -np.inf
    if draw.mask is not None:
        _forbid(row, draw.mask)
    if penalises(draw.sampling):
        penalise(row, draw.sampling, draw.history)
    if draw.sampling.dry_multiplier > 0.0:
        penalise_repeats(row, draw.sampling, draw.history, draw.breakers)


def _forbid(row: NDArray[np.float32], mask: NDArray[np.uint32]) -> None:
    """Give every token that `mask` does not allow no chance at all."""
    allowed = np.unpackbits(mask.astype("<u4", copy=False).view(np.uint8), count=len(row), bitorder="little")
    np.putmask(row, allowed == 0, -np.inf)


def _is_greedy(sampling: Sampling) -> bool:
    """Whether the largest logit is taken whatever the other parameters are: only typical and XTC can cut it off."""
    cold = sampling.temperature == 0.0 and sampling.typical_p == 1.0 and sampling.xtc_probability == 0.0
    return cold or sampling.top_k == 1


def _lot(row: int, draw: Draw) -> Lot:
    sampling = draw.sampling
    key = key_of(sampling.seed, draw.choice, draw.position)
    return Lot(row, sampling, key, uniform(key, XTC) if sampling.xtc_probability > 0.0 else 1.0)
