"""What orcd says of its decisions agrees with them."""

from __future__ import annotations

import pytest

from rbees.orcd.scheduler.effects import Dispatch, SpawnWorker
from rbees.orcd.scheduler.events import AttemptCompleted, DrainBegan, PrefixesCached
from rbees.orcd.scheduler.speeds import Took
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
    assert (candidate.refusal, candidate.chosen) == ("Its only slot is taken.", False)
    plan = drive.plan(drive.spec("new", NOVEL))
    assert (plan.outlook, plan.ahead) == ("waits", 3)
    assert plan.reason.startswith("3 other jobs for this model come before it. All 1 slots of the 1 worker")
    (candidate,) = plan.candidates
    assert candidate.done_in_s == plan.done_in_s, "the table counts those before it too"
    assert candidate.starts_in_s == pytest.approx(4 * candidate.takes_s, rel=0.01)  # type: ignore[operator]


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


def test_expectations_of_a_model_that_never_answered_are_a_guess() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU, slots=1))
    drive.job("first", max_tokens=100)
    drive.job("second", max_tokens=100)
    assert [drive.plan(drive.spec("new")).is_guess, told(drive, "first").is_guess, told(drive, "second").is_guess] == [True] * 3
    drive.send(AttemptCompleted("first", 1, Took(10, 0, 100, 0.1, 10.0)))
    assert not drive.plan(drive.spec("new")).is_guess
    assert not told(drive, "second").is_guess


def test_a_newcomer_is_told_that_batch_jobs_would_give_way() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", NOVEL, slots=2), models=(NOVEL,), devices=(facts.device("cpu", 8 * GIB, 0),))
    for number in range(2):
        drive.job(f"batch-{number}", NOVEL, priority="batch")
    plan = drive.plan(drive.spec("new", NOVEL))
    assert (plan.outlook, plan.reason) == (
        "runs",
        "Worker w1 on pool a would take it at once, where batch jobs would give way to it.",
    )
    assert (chosen(plan).starts_in_s, chosen(plan).done_in_s) == (0.0, plan.done_in_s)
    assert [candidate.refusal for candidate in plan.candidates] == [None]
    assert Dispatch("job-1", 1, "w1", "a") in drive.job("job-1", NOVEL)
    waiting = drive.plan(drive.spec("late", NOVEL, priority="batch"))
    assert (waiting.outlook, waiting.ahead, waiting.candidates[0].refusal) == ("waits", 1, "All of its 2 slots are taken.")


def test_no_bound_is_told_where_none_is_known() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU, slots=2))
    for number in range(4):
        drive.job(f"job-{number}")
    assert told(drive, "job-3").bound is not None
    drive.died("a", "w1")
    drive.report("a", facts.worker("w2", HAIKU, slots=2))
    assert drive.scheduler._queue.has_others(HAIKU.sha256)
    assert told(drive, "job-3").bound is None, "those that run alone take the worker first, for as long as they need"
