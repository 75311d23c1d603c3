"""Vectors without a model, for tests: each is drawn from a hash of all tokens of its sequence, so that a wrong one shows."""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

import numpy as np

from rbees.protocol.vectors import Pooling
from rbees.workerd.engine.backend import EmbedderFacts, Ids, Interrupted, Span, Vectors

_GOOD_ROWS: Final = 512
_MOST_SEQUENCES: Final = 64


class Body(Protocol):
    """The scripted backend, as far as it also computes vectors."""

    def interrupted_within(self, seconds: float) -> bool:
        """Take so long; True at once where an interrupt comes."""

    def misbehave_on(self, text: bytes) -> None:
        """Die, fail or hang if the script names something that `text` holds."""


class ScriptedEmbedder:
    """Implements `Embedder`."""

    def __init__(self, body: Body, pooling: Pooling, *, dimensions: int, ctx: int, tokens_per_second: float | None) -> None:
        self._body = body
        self._rate = tokens_per_second
        self._facts = EmbedderFacts(
            pooling=pooling,
            dimensions=1 if pooling == "rank" else dimensions,
            ctx=ctx,
            max_rows=max(_GOOD_ROWS, ctx),
            good_rows=_GOOD_ROWS,
            max_sequences=_MOST_SEQUENCES,
            whole=True,
        )

    @property
    def facts(self) -> EmbedderFacts:
        """As `Embedder.facts`."""
        return self._facts

    def compute(self, spans: list[Span]) -> Vectors:
        """As `Embedder.compute`."""
        rows = sum(len(span.tokens) for span in spans)
        assert 0 < rows <= self._facts.max_rows
        assert len({span.sequence for span in spans}) == len(spans) <= self._facts.max_sequences
        assert all(span.start == 0 for span in spans), "sequences are whole"
        if self._body.interrupted_within(rows / self._rate if self._rate else 0.0):
            raise Interrupted
        for span in spans:
            self._body.misbehave_on(bytes(token for token in span.tokens.tolist() if token < 256))
        return np.stack([self._vector(span.tokens) for span in spans])

    def forget(self, sequence: int) -> None:
        """Nothing is held."""

    def _vector(self, tokens: Ids) -> Vectors:
        digest = hashlib.blake2b(tokens.astype("<i4").tobytes(), digest_size=8).digest()
        drawn = np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(self._facts.dimensions)
        return drawn.astype(np.float32)
