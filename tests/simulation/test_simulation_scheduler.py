"""The real scheduler among simulated hosts that crash, hang and fall silent: no accepted job is lost, no token is wrong."""

from __future__ import annotations

import pytest

from rbees.orcd.scheduler import explain, growth
from rbees.orcd.scheduler.state import State
from tests.simulation import runner
from tests.simulation.world import World

SEEDS = 500


@pytest.mark.timeout(600)
def test_500_seeds_of_10_virtual_minutes_on_5_hosts() -> None:
    campaign = runner.run_seeds(range(SEEDS))
    print(*runner.rows(campaign), sep="\n")
    assert not campaign.failures, runner.explain(campaign.failures[:3], 5, 10.0)
    assert sum(outcome.faults for outcome in campaign.outcomes) > 10 * SEEDS
    assert sum(outcome.retries for outcome in campaign.outcomes) > SEEDS
    assert sum(outcome.completed for outcome in campaign.outcomes) > 0.9 * sum(outcome.jobs for outcome in campaign.outcomes)


def test_the_same_seed_gives_the_same_world() -> None:
    assert World(11).run() == World(11).run()


def test_a_scheduler_that_trusts_silent_pools_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(State, "is_sound", lambda _self, worker: worker.state == "ready" and worker.stop_asked_at_s is None)
    assert any(isinstance(runner.run_seed(seed, 5, 10.0), runner.Failure) for seed in range(60))


def test_a_scheduler_that_forgets_to_start_workers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "grow", lambda _turn, _model: explain.TURN)
    with pytest.raises(AssertionError, match="jobs are stuck"):
        World(3).run()
