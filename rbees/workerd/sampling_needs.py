"""What a job's sampling needs of the vocabulary before it can begin: biases of tokens that exist, DRY's breakers as tokens.

Finding breakers looks at every piece of the vocabulary, a fraction of a second for a large one. It happens off the event loop, and
the answers for the last few sets of breakers are kept.
"""

from __future__ import annotations

import asyncio
from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.backend import Backend
from rbees.workerd.engine.dry import NO_BREAKERS, Breakers, find_breakers

_KEPT: Final = 8


class SamplingNeeds:
    """Checks and breakers for the jobs of one model."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._tables: dict[tuple[str, ...], Breakers] = {}

    async def prepared(self, sampling: Sampling) -> Breakers:
        """The breakers that `sampling` needs; none where DRY is off.

        Raises:
            RbeesError: INVALID_REQUEST for biases of tokens that the model does not have.
        """
        _check_bias(sampling, self._backend.facts.vocabulary_size)
        texts = sampling.dry_sequence_breakers
        if not texts or sampling.dry_multiplier == 0.0:
            return NO_BREAKERS
        table = self._tables.pop(texts, None)
        if table is None:
            table = await asyncio.to_thread(self._find, texts)
        self._tables[texts] = table
        if len(self._tables) > _KEPT:
            del self._tables[next(iter(self._tables))]
        return table

    def _find(self, texts: tuple[str, ...]) -> Breakers:
        def tokenize(text: str) -> list[int]:
            return self._backend.tokenize(text, add_special=False, parse_special=False)

        return find_breakers(texts, self._backend.facts.vocabulary_size, self._backend.piece, tokenize)


def _check_bias(sampling: Sampling, vocabulary_size: int) -> None:
    unknown = sorted(token for token in sampling.logit_bias if token >= vocabulary_size)
    if unknown:
        raise RbeesError(
            ErrorCode.INVALID_REQUEST,
            f"`logit_bias` names token {unknown[0]}, but the model's tokens are 0 to {vocabulary_size - 1}.",
            field="logit_bias",
            token_id=unknown[0],
            vocabulary_size=vocabulary_size,
        )
