"""The cluster at a glance: what the scheduler tells those who look on."""

from __future__ import annotations

from rbees.orcd.scheduler.glance import Address
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.cluster import RUNNING_SHOWN, WAITING_SHOWN, PoolGlance
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import HAIKU, NOVEL, Drive

AT = Address("http://a:9200", "1", 5)


def pools(drive: Drive, began_s: float = 90.0) -> list[PoolGlance]:
    return list(drive.scheduler.pool_glances(began_s, lambda _: AT, lambda worker_id: 7.5 if worker_id == "w1" else 0.0))


def test_a_worker_shows_from_the_moment_in_which_it_is_started() -> None:
    drive = Drive()
    drive.report("a", after_s=2.0)
    drive.job("job-1")
    (pool,) = pools(drive)
    (worker,) = pool.workers
    assert (worker.state, worker.slots, worker.ctx, worker.model) == ("starting", 0, None, "haiku")
    assert worker.memory_bytes > 0
    assert (pool.pool_id, pool.endpoint, pool.version, pool.clock_ahead_ms, pool.models) == ("a", *AT, 1)
    assert pool.heard_at_s == 12.0


def test_slots_are_busy_as_they_were_given_away() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU, slots=4), facts.worker("w2", HAIKU, slots=4))
    drive.job("job-1")
    drive.job("job-2", choices=3)
    assert sorted(worker.slots_busy for worker in pools(drive)[0].workers) in ([0, 4], [1, 3])
    assert [worker.tokens_per_s for worker in pools(drive)[0].workers] == [7.5, 0.0]
    drive.now_s += 3.0
    assert [(job.job_id, job.since_s, job.attempt.epoch) for job in drive.scheduler.running_jobs()] == [
        ("job-1", 100.0, 1),
        ("job-2", 100.0, 1),
    ]


def test_a_pool_without_an_address_is_just_being_taken_in() -> None:
    drive = Drive()
    drive.report("a")
    assert list(drive.scheduler.pool_glances(0.0, lambda _: None, lambda _: 0.0)) == []


def test_what_waits_is_counted_by_model_and_priority() -> None:
    drive = Drive()
    drive.job("one", HAIKU, resolved=False)
    drive.now_s += 5.0
    for number in range(3):
        drive.job(f"two-{number}", NOVEL, resolved=False, priority="batch")
    drive.now_s += 1.0
    novels, haiku = drive.scheduler.waiting_glances(drive.now_s)
    assert (novels.model, novels.priority, novels.jobs, novels.oldest_s) == ("novel", "batch", 3, 1.0)
    assert (haiku.model, haiku.priority, haiku.jobs, haiku.oldest_s) == ("haiku", "interactive", 1, 6.0)
    assert haiku.waiting_for is not None
    assert "rbees poold serve" in haiku.waiting_for


def test_what_is_shown_of_many_is_bounded() -> None:
    drive = Drive(Policy())
    for number in range(WAITING_SHOWN + 20):
        drive.job(f"job-{number}", facts.model(f"model-{number}", 1 << 20), resolved=False)
    assert len(drive.scheduler.waiting_glances(drive.now_s)) == WAITING_SHOWN
    busy = Drive(Policy())
    busy.report("a", facts.worker("w1", HAIKU, slots=RUNNING_SHOWN + 20))
    for number in range(RUNNING_SHOWN + 20):
        busy.job(f"job-{number:03}")
        busy.now_s += 0.001
    assert [job.job_id for job in busy.scheduler.running_jobs()] == [f"job-{number:03}" for number in range(RUNNING_SHOWN)]


def test_a_job_that_its_pool_has_to_confirm_is_shown_without_a_beginning() -> None:
    drive = Drive()
    drive.recovered(drive.spec("job-1"), epoch=2, worker_id="w9")
    (job,) = drive.scheduler.running_jobs()
    assert (job.job_id, job.since_s, job.attempt.worker_id, job.attempt.epoch) == ("job-1", None, "w9", 2)


def test_a_job_leaves_the_count_when_it_is_given_away() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU, slots=1))
    drive.job("one")
    drive.job("two")
    assert [one.jobs for one in drive.scheduler.waiting_glances(drive.now_s)] == [1]
