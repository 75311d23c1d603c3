"""The real scheduler among simulated hosts that crash, hang and fall silent: no accepted job is lost, no token is wrong."""

from __future__ import annotations

import pytest

from rbees.orcd.scheduler import eviction, explain, growth
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.state import State
from tests.simulation import runner
from tests.simulation.shrink import Size
from tests.simulation.world import World

SEEDS = 500


@pytest.mark.timeout(600)
def test_500_seeds_of_10_virtual_minutes_on_5_hosts() -> None:
    campaign = runner.run_seeds(range(SEEDS))
    print(*runner.rows(campaign), sep="\n")
    assert not campaign.failures, runner.explain(campaign.failures[:3], Size())
    assert sum(outcome.faults for outcome in campaign.outcomes) > 10 * SEEDS
    assert sum(outcome.retries for outcome in campaign.outcomes) > SEEDS
    assert sum(outcome.jobs for outcome in campaign.outcomes) > 50 * SEEDS


def test_the_same_seed_gives_the_same_world() -> None:
    assert World(11).run() == World(11).run()


def test_a_scheduler_that_trusts_silent_pools_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(State, "is_sound", lambda _self, worker: worker.state == "ready" and worker.stop_asked_at_s is None)
    assert "dispatched to a silent pool" in _first_failure().report


def test_a_scheduler_that_stops_busy_workers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "is_idle", lambda worker: worker.state == "ready" and worker.stop_asked_at_s is None)
    assert "a busy worker is pushed out" in _first_failure().report


def test_a_failing_world_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "is_idle", lambda worker: worker.state == "ready" and worker.stop_asked_at_s is None)
    failure = _first_failure()
    seed, size, report = runner.smallest(failure.seed, Size(), within_s=20.0)
    assert "a busy worker is pushed out" in report
    assert size.hosts <= 2
    assert size.minutes <= 5.0
    assert size.jobs is not None
    assert size.jobs <= 20
    assert size.faults is not None
    assert size.faults <= 3
    print(runner.command(seed, size))


def test_a_scheduler_that_places_jobs_during_a_drain_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(State, "draining", property(lambda _: False, lambda _state, _to: None), raising=False)
    assert "by a process that is about to end" in _first_failure().report


def test_a_scheduler_that_gives_jobs_up_is_caught() -> None:
    with pytest.raises(AssertionError, match="ended for no good reason"):
        World(3, policy=Policy(retries=0)).run()


def _first_failure() -> runner.Failure:
    runs = (runner.run_seed(seed, Size()) for seed in range(60))
    return next(run for run in runs if isinstance(run, runner.Failure))


def test_a_scheduler_that_forgets_to_start_workers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "grow", lambda _turn, _model: explain.TURN)
    with pytest.raises(AssertionError, match="jobs are stuck"):
        World(3).run()
