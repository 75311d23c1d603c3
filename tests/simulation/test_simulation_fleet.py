"""In a mixed fleet jobs are done sooner under rbees' rules than under simpler ones."""

from __future__ import annotations

import statistics

import pytest

from rbees.orcd.scheduler import placement
from tests.simulation import rivals
from tests.simulation.fleet import MODELS, Fleet, orders

SEEDS = range(4)
MINUTES = 15.0


@pytest.mark.parametrize("name", sorted(rivals.RIVALS))
def test_jobs_are_done_sooner_than_under_a_rival(name: str) -> None:
    ours = sorted(second for seed in SEEDS for second in Fleet(seed, minutes=MINUTES).run())
    with rivals.in_force(rivals.RIVALS[name]()):
        theirs = sorted(second for seed in SEEDS for second in Fleet(seed, minutes=MINUTES).run())
    assert len(ours) == len(theirs)
    assert statistics.mean(ours) < statistics.mean(theirs)
    assert ours[len(ours) * 95 // 100] < theirs[len(theirs) * 95 // 100]


def test_the_same_seed_gives_the_same_figures_and_no_rule_stays_in_force() -> None:
    before = Fleet(3, minutes=MINUTES).run()
    own = placement._best_open
    with rivals.in_force(rivals.LeastBusy()):
        other = Fleet(3, minutes=MINUTES).run()
    assert placement._best_open is own
    assert Fleet(3, minutes=MINUTES).run() == before != other


def test_both_models_are_asked_for_and_do_not_fit_together() -> None:
    jobs = orders(0, MINUTES)
    assert {job.spec.model for job in jobs} == {model.ref for model in MODELS}
    assert sum(model.size_bytes for model in MODELS) > 10 << 30
