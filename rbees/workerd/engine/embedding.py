"""Vectors of many inputs, a call at a time, between the decode steps of running streams. PURE: durations come in.

Works take turns, an input at a time, so a short one does not wait for a long one. A call gets as many tokens as fit the
wished time, which is learned as for prompts. Where each token sees only those before it, a long input is computed in spans over
several calls, and its vector is put together from theirs; else it is computed in one call, however long it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from rbees.workerd.engine.backend import DecodeFailed, Embedder, Ids, Interrupted, Span, Vectors
from rbees.workerd.engine.outputs import Embedded, Failed
from rbees.workerd.engine.pace import Pace
from rbees.workerd.engine.refusals import no_memory_for_vectors, not_computed, not_finite
from rbees.workerd.engine.shortage import Shortage

FAILURES_TO_GIVE_UP: Final = 3
"""Failed calls in a row after which the backend itself must be broken, and not what it was asked to compute."""


@dataclass(frozen=True, slots=True)
class EmbedWork:
    """What is to be computed for one request. Each input has at least one token and fits the context."""

    key: str
    inputs: tuple[Ids, ...] = field(repr=False)


@dataclass(slots=True, eq=False)
class _Progress:
    """A work that is not complete."""

    work: EmbedWork
    arrived_s: float
    vectors: Vectors = field(repr=False)
    next: int = 0
    """The first input of which nothing is computed."""
    done: int = 0
    """Inputs whose vectors are complete."""
    began_s: float | None = None


@dataclass(slots=True, eq=False)
class _Open:
    """An input that is being computed."""

    of: _Progress
    index: int
    sequence: int
    computed: int = 0

    @property
    def tokens(self) -> Ids:
        return self.of.work.inputs[self.index]

    @property
    def left(self) -> int:
        return len(self.tokens) - self.computed


class EmbeddingEngine:
    """Computes works with one embedder. `now` reads a clock, in seconds."""

    def __init__(self, embedder: Embedder, *, now: Callable[[], float]) -> None:
        self._embedder = embedder
        self._facts = embedder.facts
        self._now = now
        self._pace = Pace(self._facts.max_rows)
        self._turns: deque[_Progress] = deque()
        self._open: _Open | None = None
        """The one input that some calls have computed a part of."""
        self._failures = 0
        self._out: list[Embedded | Failed] = []
        self.computing: frozenset[str] = frozenset()
        """Keys of the works in the call that runs; other threads may read it."""

    def submit(self, work: EmbedWork) -> None:
        """Take a work up."""
        assert work.inputs
        vectors = np.zeros((len(work.inputs), self._facts.dimensions), dtype=np.float32)
        self._turns.append(_Progress(work, self._now(), vectors))

    def cancel(self, key: str) -> None:
        """Forget a work without a word; unknown keys have ended already."""
        for progress in [p for p in self._turns if p.work.key == key]:
            self._drop(progress)

    def step(self, *, beside_streams: bool) -> bool:
        """One call; False if there was nothing to compute. What came of it waits in `take_outputs`.

        Raises:
            DecodeFailed: again and again; this embedder is of no more use.
        """
        batch = self._batch(self._pace.prefill_budget(1 if beside_streams else 0, 0))
        if not batch:
            return False
        self.computing = frozenset(part.of.work.key for part, _ in batch)
        began = self._now()
        try:
            vectors = self._embedder.compute([_span(part, count) for part, count in batch])
        except Interrupted:
            self._put_back(batch)
        except DecodeFailed as failure:
            if failure.shortage is None:
                self._give_up(batch)
            else:
                self._give_up_largest(batch, failure.shortage)
        else:
            self._failures = 0
            self._pace.observe(decoding=0, prefilled=sum(count for _, count in batch), seconds=self._now() - began)
            for (part, count), vector in zip(batch, vectors, strict=True):
                self._take(part, count, vector, began)
        finally:
            self.computing = frozenset()
        return True

    def take_outputs(self) -> list[Embedded | Failed]:
        """What came out since the last call, in order."""
        taken, self._out = self._out, []
        return taken

    # --- batch ---

    def _batch(self, budget: int) -> list[tuple[_Open, int]]:
        """The inputs of the next call, each with how many of its tokens."""
        left = min(budget, self._facts.good_rows)
        batch: list[tuple[_Open, int]] = []
        if self._open is not None:
            count = min(self._open.left, left)
            batch.append((self._open, count))
            left -= count
        numbers = [n for n in range(self._facts.max_sequences) if self._open is None or n != self._open.sequence]
        passed = 0
        while left > 0 and numbers and passed < len(self._turns):
            progress = self._turns[0]
            if progress.next == len(progress.work.inputs):
                passed += 1
                self._turns.rotate(-1)
                continue
            count = self._count_next(progress, left, alone=not batch)
            if not count:
                # It stays the first in turn, or shorter ones could overtake it for ever.
                break
            passed = 0
            self._turns.rotate(-1)
            batch.append((_Open(progress, progress.next, numbers.pop()), count))
            progress.next += 1
            left -= count
        return batch

    def _count_next(self, progress: _Progress, left: int, *, alone: bool) -> int:
        """How many tokens of a work's next input the call may have; 0 for none."""
        length = len(progress.work.inputs[progress.next])
        if length <= left or not self._facts.whole:
            return min(length, left)
        return length if alone else 0

    # --- what came of it ---

    def _take(self, part: _Open, count: int, vector: Vectors, began_s: float) -> None:
        progress = part.of
        if progress.began_s is None:
            progress.began_s = began_s
        self._pool(part, count, vector)
        part.computed += count
        if part.left:
            self._open = part
            return
        self._embedder.forget(part.sequence)
        if self._open is part:
            self._open = None
        progress.done += 1
        if progress.done == len(progress.work.inputs):
            self._finish(progress)

    def _pool(self, part: _Open, count: int, vector: Vectors) -> None:
        """Add a span's vector to that of its input."""
        into = part.of.vectors[part.index]
        match self._facts.pooling:
            case "mean":
                into += vector * np.float32(count / len(part.tokens))
            case "cls":
                if part.computed == 0:
                    into[:] = vector
            case "last" | "rank":
                into[:] = vector

    def _finish(self, progress: _Progress) -> None:
        self._turns.remove(progress)
        if not np.isfinite(progress.vectors).all():
            self._out.append(Failed(progress.work.key, not_finite().body()))
            return
        now, began = self._now(), progress.began_s if progress.began_s is not None else progress.arrived_s
        queued_ms, compute_ms = round((began - progress.arrived_s) * 1000, 3), round((now - began) * 1000, 3)
        self._out.append(Embedded(progress.work.key, progress.vectors, queued_ms, compute_ms))

    def _put_back(self, batch: list[tuple[_Open, int]]) -> None:
        """Nothing of the call counts, and what was open begins anew: its earlier spans are gone with the rest."""
        for part, _ in reversed(batch):
            part.of.vectors[part.index] = 0
            part.of.next = min(part.of.next, part.index)
        self._open = None

    def _give_up_largest(self, batch: list[tuple[_Open, int]], shortage: Shortage) -> None:
        """Memory was lacking, which is no defect of the backend: who asked for most of it, the youngest of those, fails; the others
        are computed again without."""
        rows = {id(part.of): sum(count for other, count in batch if other.of is part.of) for part, _ in batch}
        largest = max((part.of for part, _ in batch), key=lambda progress: (rows[id(progress)], progress.arrived_s))
        self._put_back(batch)
        self._turns.remove(largest)
        self._out.append(Failed(largest.work.key, no_memory_for_vectors(shortage).body()))

    def _give_up(self, batch: list[tuple[_Open, int]]) -> None:
        self._failures += 1
        if self._failures >= FAILURES_TO_GIVE_UP:
            raise DecodeFailed
        self._open = None
        for progress in [p for p in self._turns if any(part.of is p for part, _ in batch)]:
            self._turns.remove(progress)
            self._out.append(Failed(progress.work.key, not_computed().body()))

    def _drop(self, progress: _Progress) -> None:
        self._turns.remove(progress)
        if self._open is not None and self._open.of is progress:
            self._embedder.forget(self._open.sequence)
            self._open = None


def _span(part: _Open, count: int) -> Span:
    return Span(part.sequence, part.computed, part.tokens[part.computed : part.computed + count])
