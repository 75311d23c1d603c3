"""Through the whole scheduler nobody waits longer than the stated bound, and a planned siege comes as close to it as can be."""

from __future__ import annotations

import pytest

from rbees.orcd.scheduler.lane import Lane
from rbees.protocol.jobs import Priority
from tests.simulation.siege import SHAPES, Wait, at_random, planned

SEEDS = 12


def youngest(waits: list[Wait]) -> Wait:
    return max(waits, key=lambda wait: wait.order)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_random_siege_lets_anybody_wait_longer_than_the_bound(seed: int) -> None:
    waits = at_random(seed).finish()
    assert len(waits) > 20
    assert max(wait.share for wait in waits) <= 1 + 1e-9
    assert max(wait.share_of_time for wait in waits) <= 1 + 1e-9


@pytest.mark.parametrize("priority", ["interactive", "batch"])
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize(("sessions", "backlog"), SHAPES[:-4])
def test_a_planned_siege_reaches_more_than_half_of_the_bound(sessions: int, backlog: int, slots: int, priority: Priority) -> None:
    waits = planned(sessions, backlog, slots, priority).finish()
    victim = youngest(waits)
    assert 0.5 <= victim.share <= 1 + 1e-9
    assert 0.5 <= victim.share_of_time <= 1 + 1e-9
    assert max(wait.share_of_time for wait in waits) <= 1 + 1e-9


def test_the_bound_is_the_one_that_explain_tells() -> None:
    siege = planned(8, 5)
    told = siege.stated_bound()
    victim = youngest(siege.finish())
    assert told.sessions * told.own_work + 2 * (told.sessions - 1) * told.largest_work == victim.work_bound
    assert told.slots == 1


def test_a_lane_in_order_of_acceptance_breaks_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lane, "head", lambda lane: next((key[2] for key in sorted(lane._shares[False].ranks)), None))
    monkeypatch.setattr(Lane, "check_integrity", lambda _lane: None)
    waits = planned(2, 0).finish()
    assert max(wait.share_of_time for wait in waits) > 1
