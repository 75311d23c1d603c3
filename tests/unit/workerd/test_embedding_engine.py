"""Batches of embeddings over an embedder that adds its tokens up, so that each span's part of a vector shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rbees.protocol.vectors import Pooling
from rbees.workerd.engine.backend import DecodeFailed, EmbedderFacts, Interrupted, Span, Vectors
from rbees.workerd.engine.embedding import EmbeddingEngine, EmbedWork
from rbees.workerd.engine.outputs import Embedded, Failed
from rbees.workerd.engine.shortage import Shortage


class AddingEmbedder:
    """The vector of a token is (its id, its position); pooled as llama.cpp pools within one call. A token costs 1 ms."""

    def __init__(self, pooling: Pooling, *, whole: bool, rows: int = 64, sequences: int = 8) -> None:
        self.facts = EmbedderFacts(
            pooling=pooling, dimensions=2, ctx=64, max_rows=rows, good_rows=rows, max_sequences=sequences, whole=whole
        )
        self.calls: list[list[Span]] = []
        self.computed: dict[int, int] = {}
        self.fail: list[type[Exception] | Exception] = []
        self.now_s = 0.0

    def compute(self, spans: list[Span]) -> Vectors:
        assert 0 < sum(len(span.tokens) for span in spans) <= self.facts.max_rows
        assert len({span.sequence for span in spans}) == len(spans) <= self.facts.max_sequences
        self.calls.append(spans)
        self.now_s += 0.001 * sum(len(span.tokens) for span in spans)
        if self.fail:
            self.computed.clear()
            raise self.fail.pop(0)
        for span in spans:
            assert span.start == self.computed.get(span.sequence, 0), "each span follows the one before"
            assert span.start == 0 or not self.facts.whole
            self.computed[span.sequence] = span.start + len(span.tokens)
        return np.array([self._pool(span) for span in spans], dtype=np.float32)

    def forget(self, sequence: int) -> None:
        self.computed.pop(sequence, None)

    def _pool(self, span: Span) -> Any:
        rows = np.stack([span.tokens, span.start + np.arange(len(span.tokens))], axis=1)
        return {"mean": rows.mean(axis=0), "cls": rows[0]}.get(self.facts.pooling, rows[-1])


def inputs(*lengths: int) -> tuple[Any, ...]:
    return tuple(np.arange(1, length + 1, dtype=np.int32) * (i + 1) for i, length in enumerate(lengths))


def expected(pooling: Pooling, given: Any) -> Any:
    rows = np.stack([given, np.arange(len(given))], axis=1)
    return {"mean": rows.mean(axis=0), "cls": rows[0]}.get(pooling, rows[-1])


def run(engine: EmbeddingEngine, limit: int = 1_000) -> list[Embedded | Failed]:
    made: list[Embedded | Failed] = []
    for _ in range(limit):
        worked = engine.step(beside_streams=True)
        made += engine.take_outputs()
        if not worked:
            return made
    raise AssertionError("it does not come to rest")


def engine_over(embedder: AddingEmbedder) -> EmbeddingEngine:
    return EmbeddingEngine(embedder, now=lambda: embedder.now_s)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "rank"])
@pytest.mark.parametrize("whole", [True, False])
def test_every_input_gets_its_own_vector_however_it_is_batched(pooling: Pooling, whole: bool) -> None:
    embedder = AddingEmbedder(pooling, whole=whole, sequences=3)
    engine = engine_over(embedder)
    works = {name: inputs(*lengths) for name, lengths in (("a", (3, 64, 1, 40, 64)), ("b", (64,)), ("c", (1,) * 20))}
    for key, given in works.items():
        engine.submit(EmbedWork(key, given))
    made = {one.key: one for one in run(engine)}
    assert made.keys() == works.keys()
    for key, given in works.items():
        one = made[key]
        assert isinstance(one, Embedded)
        np.testing.assert_allclose(one.vectors, [expected(pooling, each) for each in given], rtol=1e-5)
        assert one.compute_ms > 0
    assert not embedder.computed, "nothing is left of any sequence"
    assert whole or any(span.start for call in embedder.calls for span in call), "long ones came in spans"


def test_a_call_beside_streams_is_as_long_as_its_time_allows() -> None:
    embedder = AddingEmbedder("mean", whole=True, rows=1_000)
    engine = engine_over(embedder)
    engine.submit(EmbedWork("a", inputs(*[10] * 100)))
    run(engine)
    sizes = [sum(len(span.tokens) for span in call) for call in embedder.calls]
    assert max(sizes[1:]) <= 150, "a token costs a millisecond, and a step may take 150"
    assert max(len(call) for call in embedder.calls) > 1


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    embedder = AddingEmbedder("mean", whole=True)
    engine = engine_over(embedder)
    engine.submit(EmbedWork("long", inputs(*[30] * 50)))
    engine.step(beside_streams=True)
    engine.submit(EmbedWork("short", inputs(30)))
    assert [one.key for one in run(engine)] == ["short", "long"]
    assert len(embedder.calls) > 20


def test_a_long_input_is_not_overtaken_for_ever_by_short_ones() -> None:
    embedder = AddingEmbedder("mean", whole=True)
    engine = engine_over(embedder)
    engine.submit(EmbedWork("long", inputs(64)))
    for turn in range(30):
        engine.submit(EmbedWork(f"short{turn}", inputs(5)))
        engine.submit(EmbedWork(f"more{turn}", inputs(5)))
        engine.step(beside_streams=True)
    assert "long" in [one.key for one in engine.take_outputs()]


@pytest.mark.parametrize("whole", [True, False])
def test_a_call_that_was_broken_off_is_made_again(whole: bool) -> None:
    embedder = AddingEmbedder("mean", whole=whole)
    engine = engine_over(embedder)
    given = inputs(64, 50, 3, 64, 9)
    engine.submit(EmbedWork("a", given))
    engine.step(beside_streams=True)
    for _ in range(3):
        embedder.fail = [Interrupted]
        engine.step(beside_streams=True)
        engine.step(beside_streams=True)
    (one,) = run(engine)
    assert isinstance(one, Embedded)
    np.testing.assert_allclose(one.vectors, [expected("mean", each) for each in given], rtol=1e-5)


def test_a_cancelled_request_is_forgotten_and_the_others_go_on() -> None:
    embedder = AddingEmbedder("last", whole=False, rows=32)
    engine = engine_over(embedder)
    engine.submit(EmbedWork("gone", inputs(64, 64)))
    engine.submit(EmbedWork("stays", inputs(20, 40)))
    engine.step(beside_streams=True)
    assert embedder.computed, "it is in the middle of an input"
    engine.cancel("gone")
    engine.cancel("never was")
    (one,) = run(engine)
    assert one.key == "stays"
    assert isinstance(one, Embedded)
    np.testing.assert_allclose(one.vectors, [expected("last", each) for each in inputs(20, 40)])
    assert not embedder.computed


def test_a_failed_call_fails_its_requests_and_three_in_a_row_are_the_end() -> None:
    embedder = AddingEmbedder("mean", whole=True, rows=64)
    engine = engine_over(embedder)
    embedder.fail = [DecodeFailed]
    engine.submit(EmbedWork("a", inputs(64, 3)))
    engine.submit(EmbedWork("b", inputs(64)))
    first, second = run(engine)
    assert (first.key, type(first)) == ("a", Failed)
    assert (second.key, type(second)) == ("b", Embedded)
    embedder.fail = [DecodeFailed] * 3
    for key in "cde":
        engine.submit(EmbedWork(key, inputs(64)))
    with pytest.raises(DecodeFailed):
        run(engine)


@pytest.mark.parametrize("whole", [True, False])
def test_a_lack_of_memory_fails_who_asked_for_most_and_is_no_failure_of_the_backend(whole: bool) -> None:
    embedder = AddingEmbedder("mean", whole=whole)
    engine = engine_over(embedder)
    given = {"small": inputs(5, 3), "large": inputs(40, 64), "other": inputs(6)}
    for key, texts in given.items():
        engine.submit(EmbedWork(key, texts))
    embedder.fail = [DecodeFailed(Shortage(1 << 30, "CUDA0", 1 << 20))]
    made = {one.key: one for one in run(engine)}
    refused = made.pop("large")
    assert isinstance(refused, Failed)
    assert refused.error.code == "INSUFFICIENT_VRAM"
    assert refused.error.details == {"wanted_bytes": 1 << 30, "available_bytes": 1 << 20}
    for key, one in made.items():
        assert isinstance(one, Embedded)
        np.testing.assert_allclose(one.vectors, [expected("mean", each) for each in given[key]], rtol=1e-5)
    assert not embedder.computed
    embedder.fail = [DecodeFailed(Shortage())] * 5
    for number in range(6):
        engine.submit(EmbedWork(f"later{number}", inputs(64)))
    assert [type(one) for one in run(engine)] == [Failed] * 5 + [Embedded]


def test_vectors_that_are_not_finite_are_refused() -> None:
    embedder = AddingEmbedder("mean", whole=True)
    compute = embedder.compute
    embedder.compute = lambda spans: compute(spans) * np.float32(np.nan)  # type: ignore[method-assign]
    engine = engine_over(embedder)
    engine.submit(EmbedWork("a", inputs(3)))
    (one,) = run(engine)
    assert isinstance(one, Failed)
    assert one.error.code == "MODEL_INCOMPATIBLE"
