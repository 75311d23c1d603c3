"""How much came lately."""

from __future__ import annotations

import pytest

from rbees.orcd.throughput import WINDOW_S, Lately


class Moment:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_steady_stream_shows_as_what_it_is_at_every_moment() -> None:
    moment = Moment()
    lately = Lately(moment)
    for tenth in range(200):
        moment.now_s = 100.0 + tenth / 10
        lately.add("worker", 3)
        if tenth >= 50:
            assert lately.per_s("worker") == pytest.approx(30.0, abs=1.0)
            assert lately.total_per_s() == lately.per_s("worker")
    assert lately.per_s("other") == 0.0


def test_what_is_over_is_forgotten() -> None:
    moment = Moment()
    lately = Lately(moment)
    lately.add("worker", 50)
    assert lately.per_s("worker") == 50 / WINDOW_S
    moment.now_s += WINDOW_S
    assert lately.per_s("worker") == 50 / WINDOW_S
    moment.now_s += WINDOW_S / 2
    assert lately.per_s("worker") == 25 / WINDOW_S
    moment.now_s += WINDOW_S
    assert lately.per_s("worker") == 0.0
    lately.add("worker", 5)
    moment.now_s += 1_000 * WINDOW_S
    assert lately.total_per_s() == 0.0
