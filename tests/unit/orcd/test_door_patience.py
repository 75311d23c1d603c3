"""How long a client waits, and what it is told when that was not enough."""

from __future__ import annotations

import pytest

from rbees.orcd.door.patience import LONGEST_S, Pace, not_started, wait_of
from rbees.protocol.errors import ErrorCode
from rbees.protocol.events import Event, Metrics, Queued

QUEUED = Queued(queue_position=1, created_at_ms=1)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("", None),
        ("wait=10", 10),
        ("respond-async, Wait = 5; x=y", 5),
        ('wait="0"', 0),
        ("wait", None),
        ("wait=soon", None),
        ("wait=-1", None),
        ("wait=1.5", 1.5),
        ("wait=1e3", None),
        ("await=3", None),
        ("wait=999999", LONGEST_S),
    ],
)
def test_a_preference_is_read_among_others(header: str | None, wait_s: float | None) -> None:
    assert wait_of(header) == wait_s


@pytest.mark.parametrize(
    ("seen", "code", "said", "retry_after_s"),
    [
        ((), ErrorCode.QUEUE_FULL, "was given up.", 5.0),
        ((QUEUED,), ErrorCode.QUEUE_FULL, "was given up.", 5.0),
        ((QUEUED, Metrics(stage="waiting", reason="All slots are in use.")), ErrorCode.QUEUE_FULL, "All slots are in use.", 5.0),
        ((QUEUED, Metrics(stage="loading", progress=0.25)), ErrorCode.MODEL_LOADING, "25% loaded", 6.0),
        ((QUEUED, Metrics(stage="loading")), ErrorCode.MODEL_LOADING, "0% loaded", 5.0),
        ((QUEUED, Metrics(stage="loading", progress=0.001)), ErrorCode.MODEL_LOADING, "0% loaded", 60.0),
        ((QUEUED, Metrics(stage="loading", progress=1.0)), ErrorCode.MODEL_LOADING, "100% loaded", 1.0),
    ],
)
def test_what_is_told_says_what_the_job_waits_for(
    seen: tuple[Event, ...], code: ErrorCode, said: str, retry_after_s: float
) -> None:
    error = not_started(seen, 2.0)
    assert (error.code, error.details["retry_after_s"]) == (code, retry_after_s)
    assert "within 2 s" in error.message
    assert said in error.message


@pytest.mark.parametrize(
    ("heard", "now_s", "left_s"),
    [
        ([], 9.0, None),
        ([(1.0, 0.0)], 9.0, None),
        ([(1.0, 0.1), (1.0, 0.2)], 9.0, None),
        ([(1.0, 0.1), (2.0, 0.1)], 9.0, None),
        ([(8.0, 0.0), (10.0, 0.5)], 10.0, 2.0),
        ([(8.0, 0.0), (10.0, 0.5)], 11.5, 0.5),
        ([(8.0, 0.0), (10.0, 0.5)], 20.0, 0.0),
        ([(0.0, 0.0), (1.0, 0.9), (5.0, 0.0), (7.0, 0.5)], 7.0, 2.0),
    ],
)
def test_how_long_a_model_loads_is_told_from_its_own_pace(
    heard: list[tuple[float, float]], now_s: float, left_s: float | None
) -> None:
    pace = Pace()
    for at_s, progress in heard:
        pace.take([QUEUED, Metrics(stage="loading", progress=progress)], at_s)
    left = pace.left_s(now_s)
    assert left == (None if left_s is None else pytest.approx(left_s))
    if left_s:
        assert not_started([Metrics(stage="loading", progress=0.5)], 60.0, left_s).details["retry_after_s"] == max(left_s, 1.0)
