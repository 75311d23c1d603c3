"""A pool that an operator drained: what runs there goes on, nothing new comes, and each who waits is told why."""

from __future__ import annotations

from rbees.orcd.scheduler.effects import Dispatch, Note
from rbees.orcd.scheduler.events import AttemptCompleted, PoolDrainChanged, PoolForgotten
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import HAIKU, Drive, kinds, spawned


def drained(*pool_ids: str, noted: bool = False) -> Drive:
    """Pools with one worker of two slots each, of which `a` is drained while it has a job."""
    drive = Drive(noted=noted)
    for pool_id in pool_ids:
        drive.report(pool_id, facts.worker(f"worker-{pool_id}", HAIKU))
    drive.job("first")
    assert drive.send(PoolDrainChanged("a", drains=True)) == []
    return drive


def places(drive: Drive, job_id: str) -> list[tuple[str, str | None]]:
    told = drive.scheduler.explain(job_id, drive.now_s)
    assert told is not None
    return [(candidate.pool_id, candidate.refusal) for candidate in told.candidates]


def test_what_runs_goes_on_and_what_comes_waits() -> None:
    drive = drained("a")
    assert kinds(drive.job("second")) == []
    assert drive.send(AttemptCompleted("first", 1)) == []
    told = drive.scheduler.explain("second", drive.now_s)
    assert told is not None
    assert "drained by an operator" in told.reason
    assert places(drive, "second") == [("a", "Its pool was drained by an operator.")]
    (resumed,) = drive.send(PoolDrainChanged("a", drains=False))
    assert isinstance(resumed, Dispatch)
    assert (resumed.job_id, resumed.worker_id) == ("second", "worker-a")


def test_watchers_are_told() -> None:
    drive = drained("a", noted=True)
    (note,) = [effect for effect in drive.job("second") if isinstance(effect, Note)]
    assert "llorch pool resume" in note.reason


def test_others_take_the_work() -> None:
    drive = drained("a", "b")
    (dispatch,) = drive.job("second")
    assert isinstance(dispatch, Dispatch)
    assert dispatch.worker_id == "worker-b"


def test_a_worker_is_started_on_another_pool_only() -> None:
    drive = Drive()
    drive.send(PoolDrainChanged("a", drains=True))
    drive.report("a")
    assert drive.job("first") == []
    assert places(drive, "first") == [("a", "The pool was drained by an operator.")]
    assert spawned(drive.report("b")).pool_id == "b"


def test_a_worker_that_loads_on_a_drained_pool_is_not_waited_for() -> None:
    drive = Drive()
    drive.report("a")
    drive.report("b")
    loading = spawned(drive.job("first"))
    (elsewhere,) = [effect.pool_id for effect in [spawned(drive.send(PoolDrainChanged(loading.pool_id, drains=True)))]]
    assert elsewhere != loading.pool_id


def test_a_pool_that_is_lost_and_returns_is_still_drained() -> None:
    drive = drained("a")
    drive.ticks(20)
    drive.report("a", facts.worker("worker-a", HAIKU), boot="2")
    assert not [effect for effect in drive.job("second") if isinstance(effect, Dispatch)]
    assert drive.scheduler.pools(drive.now_s)[0].drains


def test_a_pool_that_was_forgotten_begins_anew() -> None:
    drive = drained("a")
    drive.send(PoolForgotten("a"))
    drive.report("a", facts.worker("worker-a", HAIKU))
    assert not drive.scheduler.pools(drive.now_s)[0].drains
    assert "Dispatch" in kinds(drive.job("second"))


def test_a_worker_that_dies_there_is_not_replaced() -> None:
    drive = Drive()
    drive.report("a", *(facts.worker(name, HAIKU) for name in ("w1", "w2")))
    for number in range(4):
        drive.job(f"job-{number}")
    drive.send(PoolDrainChanged("a", drains=True))
    assert "SpawnWorker" not in kinds(drive.died("a", "w1"))
