"""What orcd says of its decisions agrees with them."""

from __future__ import annotations

import pytest

from rbees.orcd.scheduler.effects import Dispatch, SpawnWorker
from rbees.orcd.scheduler.events import AttemptCompleted, DrainBegan, PrefixesCached
from rbees.orcd.scheduler.survey import Told
from rbees.protocol.decisions import Candidate
from rbees.protocol.errors import ErrorCode
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import CPU, HAIKU, NOVEL, Drive

GIB = facts.GIB
GPU = facts.device("cuda:0", 24 * GIB, 20 * GIB)
SMALL = facts.device("cuda:1", 4 * GIB, 0)
ILL = facts.device("cuda:2", 24 * GIB, 20 * GIB, healthy=False)


def told(drive: Drive, job_id: str) -> Told:
    found = drive.scheduler.explain(job_id, drive.now_s)
    assert found is not None
    return found


def by_device(found: Told) -> dict[str, Candidate]:
    return {candidate.devices[0]: candidate for candidate in found.candidates}


def chosen(found: Told) -> Candidate:
    (one,) = [candidate for candidate in found.candidates if candidate.chosen]
    return one


def test_every_place_is_told_with_what_is_expected_of_it_or_why_it_will_not_do() -> None:
    drive = Drive()
    drive.report("a", models=(NOVEL,), devices=(CPU, GPU, SMALL, ILL))
    plan = drive.plan(drive.spec("new", NOVEL))
    places = by_device(plan)
    assert (plan.outlook, chosen(plan).devices) == ("starts_worker", ("cuda:0",))
    assert places["cuda:0"].done_in_s is not None
    assert places["cpu"].done_in_s is not None
    assert places["cuda:0"].done_in_s < places["cpu"].done_in_s
    assert places["cuda:0"].needed_bytes is not None
    assert places["cuda:1"].refusal == f"The model needs more than the {4 * GIB} bytes that the device has in all."
    assert places["cuda:2"].refusal == "The device is unhealthy: It does not answer."
    (spawn,) = drive.job("job-1", NOVEL)
    assert isinstance(spawn, SpawnWorker)
    assert spawn.devices == ("cuda:0",), "what was told is what happens"


def test_a_plan_changes_nothing() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    for _ in range(3):
        plan = drive.plan(drive.spec("new"))
        assert (plan.outlook, plan.reason) == ("runs", "Worker w1 on pool a would take it at once.")
    assert drive.tick() == []
    assert drive.scheduler.workers()[0].worker_id == "w1"
    assert drive.scheduler.explain("new", drive.now_s) is None


def test_a_running_job_is_told_with_how_long_it_should_take() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", NOVEL), models=(NOVEL,))
    drive.job("job-1", NOVEL)
    drive.report("a", facts.worker("w1", NOVEL), models=(NOVEL,), after_s=3.0)
    found = told(drive, "job-1")
    assert (found.outlook, chosen(found).worker_id) == ("runs", "w1")
    assert "has had it for 3.0 s and is expected to need" in found.reason
    drive.send(AttemptCompleted("job-1", 1))
    assert drive.scheduler.explain("job-1", drive.now_s) is None, "an ended job is forgotten here"


def test_a_waiting_job_is_told_how_many_come_before_it() -> None:
    drive = Drive()
    full = facts.device("cpu", 8 * GIB, 0)
    drive.report("a", facts.worker("w1", NOVEL, slots=1), models=(NOVEL,), devices=(full,))
    for number in range(4):
        drive.job(f"job-{number}", NOVEL)
    found = told(drive, "job-3")
    assert (found.outlook, found.ahead) == ("waits", 2)
    assert found.reason == drive.scheduler.waiting_for("job-3")
    bound = found.bound
    assert bound is not None
    assert (bound.sessions, bound.slots, bound.own_work) == (1, 1, 2 * bound.largest_work)
    waits_s = (bound.running_s + bound.own_work * bound.seconds_per_work) / bound.slots
    assert bound.waits_at_most_s == pytest.approx(waits_s, rel=0.01)
    assert told(drive, "job-1").bound.waits_at_most_s == pytest.approx(bound.running_s)  # type: ignore[union-attr]
    (candidate,) = found.candidates
    assert (candidate.refusal, candidate.chosen) == ("Of its 1 slots 0 are free; the job takes 1.", False)
    plan = drive.plan(drive.spec("new", NOVEL))
    assert (plan.outlook, plan.ahead) == ("waits", 3)


def test_what_is_cached_shows() -> None:
    drive = Drive()
    for pool_id, worker_id in (("a", "w1"), ("b", "w2")):
        drive.report(pool_id, facts.worker(worker_id, NOVEL), models=(NOVEL,))
    drive.send(PrefixesCached("w2", ("p1", "p2")))
    plan = drive.plan(drive.spec("new", NOVEL, prompt_bytes=2_000, prefixes=("p1", "p2", "p3")))
    here = chosen(plan)
    assert here.worker_id == "w2"
    assert here.saved_s > 0
    (effect,) = drive.job("job-1", NOVEL, prompt_bytes=2_000, prefixes=("p1", "p2", "p3"))
    assert isinstance(effect, Dispatch)
    assert effect.worker_id == "w2"
    assert "saved by what is cached there; next best was w1" in effect.why


def test_what_can_never_be_is_told_as_what_it_would_end_with() -> None:
    drive = Drive()
    drive.report("a", models=(NOVEL,), devices=(SMALL,))
    drive.report("a", models=(NOVEL,), devices=(SMALL,), after_s=20.0)
    plan = drive.plan(drive.spec("new", NOVEL))
    assert plan.outlook == "refused"
    assert plan.error is not None
    assert plan.error.code is ErrorCode.NO_PLACEMENT
    drive.send(DrainBegan())
    plan = drive.plan(drive.spec("new", NOVEL))
    assert plan.error is not None
    assert plan.error.code is ErrorCode.DRAINING


def test_workers_that_take_nothing_say_why() -> None:
    drive = Drive()
    workers = (facts.worker("w1", HAIKU, "loading", progress=0.5), facts.worker("w2", HAIKU, "draining", device_id="cuda:0"))
    drive.report("a", *workers, devices=(CPU, GPU))
    places = {one.worker_id: one for one in drive.plan(drive.spec("new")).candidates}
    assert places["w1"].refusal == "It is loading."
    assert places["w1"].starts_in_s is not None
    assert (places["w2"].refusal, places["w2"].done_in_s) == ("It is draining.", None)
    drive.report("b", facts.worker("w3", HAIKU))
    drive.send(PrefixesCached("unknown", ("p",)))
    drive.report("a", *workers, devices=(CPU, GPU), after_s=8.0)
    drive.tick()
    quiet = {one.worker_id: one for one in drive.plan(drive.spec("new")).candidates}["w3"]
    assert quiet.refusal == "Its pool is suspect: nothing was heard of it for a while."
