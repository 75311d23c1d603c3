"""Silence, and whose fault it is."""

from __future__ import annotations

from rbees.orcd.scheduler.effects import Abandon, Attach, Dispatch, Effect, Requeue, StopWorker
from rbees.orcd.scheduler.events import AttemptStarted, LoopStalled, PoolForgotten
from rbees.protocol.errors import ErrorBody, ErrorCode
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import HAIKU, UNREACHABLE, Drive, kinds


def states(drive: Drive) -> dict[str, str]:
    return {pool.pool_id: pool.state for pool in drive.scheduler.pools(drive.now_s)}


def worker_of(pool_id: str) -> str:
    return f"worker-{pool_id}"


def fleet(*pool_ids: str) -> Drive:
    """Pools with one worker of one slot each, and a job on each of them."""
    drive = Drive()
    for pool_id in pool_ids:
        speak(drive, pool_id)
    for pool_id in pool_ids:
        assert kinds(drive.job(f"job-{pool_id}")) == ["Dispatch"]
    return drive


def speak(drive: Drive, *pool_ids: str) -> list[Effect]:
    return [effect for pool_id in pool_ids for effect in drive.report(pool_id, facts.worker(worker_of(pool_id), HAIKU, slots=1))]


def lost(pool_id: str) -> ErrorBody:
    return ErrorBody(code=ErrorCode.POOL_UNREACHABLE, message=f"Pool {pool_id} has not been heard for too long.")


def test_a_silent_pool_is_suspect_after_6_s_and_lost_after_15() -> None:
    drive = fleet("a", "b")
    speak(drive, "b")
    drive.tick(after_s=5.9)
    assert states(drive) == {"a": "live", "b": "live"}
    speak(drive, "b")
    assert drive.tick(after_s=0.1) == []
    assert states(drive) == {"a": "suspect", "b": "live"}
    drive.tick(after_s=4.0)
    speak(drive, "b")
    drive.tick(after_s=4.9)
    speak(drive, "b")
    assert drive.tick(after_s=0.1) == [
        Abandon("job-a", 1, "worker-a"),
        Requeue("job-a", 1, "worker-a", "lost", lost("a")),
    ]
    assert states(drive) == {"a": "lost", "b": "live"}
    assert drive.scheduler.pools(drive.now_s)[0].heartbeat_age_s == 15.0


def test_a_suspect_pool_gets_no_new_work() -> None:
    drive = Drive()
    speak(drive, "a")
    drive.tick(after_s=6.0)
    assert drive.job("job-1") == []
    assert speak(drive, "a") == [Dispatch("job-1", 1, "worker-a", "a")]


def test_a_pool_that_returns_is_used_without_loading_anew() -> None:
    drive = fleet("a")
    drive.tick(after_s=6.0)
    drive.tick(after_s=9.0)
    drive.ticks(3)
    assert states(drive) == {"a": "lost"}
    assert speak(drive, "a") == [Dispatch("job-a", 2, "worker-a", "a")]


def test_a_stall_of_orcd_itself_extends_every_lease() -> None:
    drive = fleet("a")
    drive.now_s += 20.0
    assert drive.send(LoopStalled(19.0)) == []
    assert drive.tick() == []
    assert states(drive) == {"a": "live"}


def test_when_most_pools_fall_silent_at_once_nothing_moves_until_one_returns() -> None:
    drive = fleet("a", "b", "c")
    assert drive.ticks(40) == []
    assert set(states(drive).values()) == {"suspect"}
    assert speak(drive, "b") == []
    assert drive.ticks(5) == [], "the others get the time to return as well"
    assert speak(drive, "b", "c") == []
    effects = drive.ticks(5)
    assert effects == [Abandon("job-a", 1, "worker-a"), Requeue("job-a", 1, "worker-a", "lost", lost("a"))]


def test_orcd_stops_suspecting_itself_after_60_s() -> None:
    drive = fleet("a", "b", "c")
    assert drive.ticks(65) == []
    assert kinds(drive.ticks(2)) == ["Abandon", "Requeue"] * 3
    assert set(states(drive).values()) == {"lost"}


def test_two_pools_are_too_few_to_doubt_oneself() -> None:
    drive = fleet("a", "b")
    assert kinds(drive.ticks(15)) == ["Abandon", "Requeue"] * 2


def test_a_minority_that_falls_silent_is_lost() -> None:
    drive = fleet("a", "b", "c")
    effects: list[Effect] = []
    for _ in range(15):
        effects += [*drive.tick(after_s=1.0), *speak(drive, "b", "c")]
    assert kinds(effects) == ["Abandon", "Requeue"]


def test_a_stream_that_breaks_while_its_host_is_quiet_waits_for_the_host() -> None:
    drive = fleet("a", "b")
    speak(drive, "b")
    drive.tick(after_s=5.0)
    speak(drive, "b")
    assert drive.broke("job-a", 1, hung=True) == []
    assert drive.job("job-2") == [], "the worker gets nothing while its host is quiet"
    assert speak(drive, "a") == [Attach("job-a", 1, "worker-a", "a")]
    assert drive.send(AttemptStarted("job-a", 1)) == []


def out_of_reach(pool_id: str) -> ErrorBody:
    message = f"Pool {pool_id} and the worker on it have both fallen silent."
    return ErrorBody(code=ErrorCode.POOL_UNREACHABLE, message=message)


def cut_off(drive: Drive, *, others: tuple[str, ...], seconds: int) -> list[Effect]:
    """Time passes, of which only the other pools tell."""
    effects: list[Effect] = []
    for _ in range(seconds):
        effects += [*speak(drive, *others), *drive.tick(after_s=1.0)]
    return effects


def test_a_held_attempt_goes_on_elsewhere_when_its_host_is_suspect_too() -> None:
    drive = fleet("a", "b")
    assert cut_off(drive, others=("b",), seconds=5) == []
    assert drive.broke("job-a", 1) == [], "its host is quiet, and may be heard again at any moment"
    assert cut_off(drive, others=("b",), seconds=1) == [
        Abandon("job-a", 1, "worker-a"),
        Requeue("job-a", 1, "worker-a", "lost", out_of_reach("a")),
    ]
    assert states(drive) == {"a": "suspect", "b": "live"}


def test_a_stream_that_goes_on_is_left_where_it_is_until_its_host_is_lost() -> None:
    drive = fleet("a", "b")
    assert cut_off(drive, others=("b",), seconds=14) == []
    assert cut_off(drive, others=("b",), seconds=1) == [
        Abandon("job-a", 1, "worker-a"),
        Requeue("job-a", 1, "worker-a", "lost", lost("a")),
    ]


def test_a_held_attempt_waits_for_its_host_where_no_other_has_the_model() -> None:
    drive = fleet("a")
    drive.report("b", models=())
    drive.tick(after_s=5.0)
    drive.broke("job-a", 1)
    effects: list[Effect] = []
    for _ in range(9):
        effects += [*drive.report("b", models=()), *drive.tick(after_s=1.0)]
    assert effects == []
    assert speak(drive, "a") == [Attach("job-a", 1, "worker-a", "a")]


def test_held_attempts_of_hosts_that_fell_silent_together_wait() -> None:
    drive = fleet("a", "b", "c")
    speak(drive, "b", "c")
    drive.now_s += 0.5
    speak(drive, "c")
    drive.tick(after_s=5.0)
    for pool_id in ("a", "b", "c"):
        assert drive.broke(f"job-{pool_id}", 1) == []
    assert drive.ticks(40) == []
    assert speak(drive, "b", "c") == [Attach("job-b", 1, "worker-b", "b"), Attach("job-c", 1, "worker-c", "c")]
    assert cut_off(drive, others=("b", "c"), seconds=5) == [], "a gets the time to return as well"


def test_a_hung_worker_of_a_live_pool_is_stopped_and_its_job_moves() -> None:
    drive = fleet("a")
    drive.tick(after_s=2.0)
    effects = drive.broke("job-a", 1, hung=True)
    assert kinds(effects) == ["StopWorker", "Abandon", "Requeue", "SpawnWorker"], (
        "its replacement starts at once where there is room"
    )
    assert effects[:3] == [
        StopWorker("a", "worker-a", "The connection broke."),
        Abandon("job-a", 1, "worker-a"),
        Requeue("job-a", 1, "worker-a", "failed", UNREACHABLE),
    ]
    drive.ticks(1)
    assert speak(drive, "a") == [], "no new work while it is on its way out"


def test_an_unreachable_worker_gets_another_chance_after_its_pools_next_report() -> None:
    drive = fleet("a")
    assert kinds(drive.broke("job-a", 1)) == ["Abandon", "Requeue"]
    assert drive.tick(after_s=0.5) == []
    assert speak(drive, "a") == [], "this report may have been on its way already"
    assert drive.tick(after_s=1.0) == []
    assert speak(drive, "a") == [Dispatch("job-a", 2, "worker-a", "a")]


def test_a_worker_that_stays_unreachable_is_replaced() -> None:
    drive = fleet("a")
    effects: list[Effect] = []
    epoch = 1
    for _ in range(40):
        effects += drive.broke("job-a", epoch)
        later = [*drive.tick(after_s=1.0), *speak(drive, "a")]
        epoch += "Dispatch" in kinds(later)
        effects += later
        if "StopWorker" in kinds(effects):
            break
    assert kinds(effects).count("Dispatch") == 2


def test_a_forgotten_pool_leaves_nothing_behind() -> None:
    drive = fleet("a")
    assert kinds(drive.send(PoolForgotten("a"))) == ["Abandon", "Requeue"]
    assert drive.scheduler.pools(drive.now_s) == ()
    assert drive.scheduler.workers() == ()
    assert drive.send(PoolForgotten("a")) == []
