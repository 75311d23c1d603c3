"""Estimates of memory learn from what workers take."""

from __future__ import annotations

import pytest

from rbees.orcd.scheduler.estimates import MOST_SHARE, Estimates, analytic_bytes
from rbees.orcd.scheduler.events import PoolReported
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import NOVEL, Drive, spawned

GIB = facts.GIB
OTHER = facts.model("other", 2 * GIB)
DEVICE = facts.device("cpu", 32 * GIB, 30 * GIB)


def test_what_a_worker_took_is_what_the_next_is_expected_to_take() -> None:
    estimates = Estimates()
    expected = estimates.need_bytes(NOVEL, "a", "cpu")
    assert expected == analytic_bytes(NOVEL, "cpu")
    estimates.took(NOVEL, "a", "cpu", 9 * GIB, expected)
    assert estimates.need_bytes(NOVEL, "a", "cpu") == 9 * GIB
    estimates.took(NOVEL, "a", "cpu", 7 * GIB, 9 * GIB)
    assert estimates.need_bytes(NOVEL, "a", "cpu") == 8 * GIB
    assert estimates.need_bytes(NOVEL, "b", "cpu") == expected, "another pool may give another context"


def test_other_models_on_the_host_correct_it_within_bounds() -> None:
    estimates = Estimates()
    analytic = analytic_bytes(OTHER, "cpu")
    estimates.took(NOVEL, "a", "cpu", round(1.5 * analytic_bytes(NOVEL, "cpu")), analytic_bytes(NOVEL, "cpu"))
    assert estimates.need_bytes(OTHER, "a", "cpu") == pytest.approx(1.5 * analytic, rel=0.001)
    for _ in range(20):
        estimates.took(NOVEL, "a", "cpu", 100 * analytic_bytes(NOVEL, "cpu"), analytic_bytes(NOVEL, "cpu"))
    assert estimates.need_bytes(OTHER, "a", "cpu") <= MOST_SHARE * analytic + 1


def test_how_far_off_estimates_were_is_kept() -> None:
    estimates = Estimates()
    assert estimates.quantile(0.5) == 1.0
    for taken in (1, 2, 4):
        estimates.took(NOVEL, "a", "cpu", taken * GIB, 2 * GIB)
    estimates.took(NOVEL, "a", "cpu", 0, 2 * GIB)
    assert [estimates.quantile(share) for share in (0.0, 0.5, 1.0)] == [0.5, 1.0, 2.0]


def test_a_model_that_takes_more_than_its_header_says_is_placed_by_what_it_takes() -> None:
    drive = Drive()

    def report(*workers: object, free: int = 30) -> list[object]:
        device = facts.device("cpu", 32 * GIB, free * GIB)
        return list(drive.send(PoolReported("a", "1", False, (device,), (NOVEL,), workers)))  # type: ignore[arg-type]

    report()
    spawn = spawned(drive.job("job-1", NOVEL))
    report(facts.worker(spawn.worker_id, NOVEL, memory_bytes=20 * GIB), free=10)
    candidate = drive.plan(drive.spec("new", NOVEL)).candidates[0]
    assert candidate.worker_id == spawn.worker_id
    drive.report("b", models=(NOVEL,), devices=(DEVICE,))
    by_pool = {one.pool_id: one.needed_bytes for one in drive.plan(drive.spec("new", NOVEL)).candidates if one.worker_id is None}
    assert by_pool == {"b": analytic_bytes(NOVEL, "cpu")}
    drive.died("a", spawn.worker_id)
    report()
    by_pool = {one.pool_id: one.needed_bytes for one in drive.plan(drive.spec("new", NOVEL)).candidates if one.worker_id is None}
    assert by_pool["a"] == 20 * GIB
    assert drive.scheduler.estimate_quantile(0.5) == pytest.approx(analytic_bytes(NOVEL, "cpu") / (20 * GIB))
