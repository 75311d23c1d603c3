"""Jobs that need a larger context than some worker has: they go on where there is one, and end where there is none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rbees.orcd.scheduler.effects import Dispatch, Effect, Finish, Note, Requeue, SpawnWorker
from rbees.orcd.scheduler.events import AttemptCompleted, AttemptFailed, AttemptStarted, CancelAsked, JobArrived, PoolDrainChanged
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.pools import WorkerFacts
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import CRASH, HAIKU, NOVEL, Drive, kinds, spawned

LONG = msgspec.structs.replace(HAIKU, context_length=131_072)
GPU = facts.device("cuda:0", 16 * facts.GIB, 14 * facts.GIB)
TWO = (facts.device("cpu", 16 * facts.GIB, 14 * facts.GIB), GPU)


def worker(name: str, ctx: int, **more: Any) -> WorkerFacts:
    return facts.worker(name, LONG, ctx=ctx, **more)


def fleet(*workers: WorkerFacts, preempt_above_s: float = 2.0) -> Drive:
    """Each worker on a pool of its own, named like it; no further pool is waited for."""
    drive = Drive(Policy(settle_s=0.0, preempt_above_s=preempt_above_s))
    for one in workers:
        drive.report(one.worker_id, one, models=(LONG,))
    return drive


def exceeded(prompt: int, held: int, most: int | None = None) -> ErrorBody:
    details = {"prompt_tokens": prompt, "max_tokens": most, "ctx_tokens": held}
    return ErrorBody(code=ErrorCode.CONTEXT_EXCEEDED, message="Too long.", details=details)


def refuse(drive: Drive, job_id: str, epoch: int, error: ErrorBody) -> list[Effect]:
    return drive.send(AttemptFailed(job_id, epoch, error, final=True, worker_suspect=False))


def dispatched(effects: list[Effect]) -> dict[str, str]:
    return {effect.job_id: effect.worker_id for effect in effects if isinstance(effect, Dispatch)}


def ended(effects: list[Effect]) -> ErrorBody:
    (finish,) = [effect for effect in effects if isinstance(effect, Finish)]
    return finish.error


def test_a_job_goes_on_where_the_context_is_larger_and_that_is_no_failure() -> None:
    drive = fleet(worker("small", 4096))
    assert dispatched(drive.job("long")) == {"long": "small"}
    drive.report("large", worker("large", 65_536), models=(LONG,))
    effects = refuse(drive, "long", 1, exceeded(6054, 4096))
    assert kinds(effects) == ["Requeue", "Dispatch"]
    requeue = effects[0]
    assert isinstance(requeue, Requeue)
    assert (requeue.outcome, requeue.counted, requeue.error.code) == ("failed", False, ErrorCode.CONTEXT_EXCEEDED)
    assert dispatched(effects) == {"long": "large"}
    job = drive.scheduler._state.jobs["long"]
    assert (job.failures, job.needs_ctx, job.suspect) == (0, 6055, False)
    assert drive.scheduler._state.workers["small"].doubt is None
    # The worker that refused it goes on with what it can do.
    assert dispatched(drive.job("short")) == {"short": "small"}


def test_the_next_turn_of_a_long_chat_goes_to_the_larger_one_at_once() -> None:
    drive = fleet(worker("small", 4096))
    drive.job("turn-1", prefixes=("hello", "story"), prompt_bytes=20_000)
    drive.report("large", worker("large", 65_536), models=(LONG,))
    drive.job("short", prefixes=("hello",), prompt_bytes=20_000)
    refuse(drive, "turn-1", 1, exceeded(6054, 4096))
    assert drive.scheduler._state.workers["small"].prefixes == {"hello"}
    assert dispatched(drive.job("turn-2", prefixes=("hello", "story"), prompt_bytes=20_000)) == {"turn-2": "large"}


def test_what_may_be_answered_counts_as_well() -> None:
    drive = fleet(worker("a", 4096), worker("b", 8192), worker("c", 5000))
    there = dispatched(drive.job("long"))["long"]
    held = {"a": 4096, "b": 8192, "c": 5000}[there]
    assert ended(refuse(drive, "long", 1, exceeded(8000, held, 9000))).details["ctx_tokens"] == 8192


@pytest.mark.parametrize("count", [1, 2])
def test_where_nothing_is_larger_it_ends_as_the_worker_said(count: int) -> None:
    drive = fleet(*(worker(f"small-{number}", 4096) for number in range(count)))
    drive.job("long")
    error = exceeded(6054, 4096)
    effects = refuse(drive, "long", 1, error)
    assert kinds(effects) == ["Finish"]
    assert ended(effects) == error


def test_the_largest_context_that_there_was_is_named() -> None:
    drive = fleet(worker("small", 4096))
    drive.job("long")
    drive.report("larger", worker("larger", 8192), models=(LONG,))
    error = ended(refuse(drive, "long", 1, exceeded(9000, 4096)))
    assert error.details == {"prompt_tokens": 9000, "max_tokens": None, "ctx_tokens": 8192}
    assert "9001" in error.message
    assert "8192" in error.message


def test_a_refusal_without_numbers_is_final() -> None:
    drive = fleet(worker("small", 4096), worker("large", 65_536))
    drive.job("long")
    assert kinds(refuse(drive, "long", 1, ErrorBody(code=ErrorCode.CONTEXT_EXCEEDED, message="No."))) == ["Finish"]


def test_each_worker_is_tried_once_whatever_it_says_of_itself() -> None:
    drive = fleet(worker("a", 65_536), worker("b", 65_536))
    first = dispatched(drive.job("long"))["long"]
    second = dispatched(refuse(drive, "long", 1, exceeded(6000, 512)))["long"]
    assert {first, second} == {"a", "b"}
    assert kinds(refuse(drive, "long", 2, exceeded(6000, 512))) == ["Finish"]


def test_it_waits_for_the_larger_one_and_holds_up_nobody() -> None:
    drive = fleet(worker("small", 4096, slots=1))
    drive.job("long")
    drive.report("large", worker("large", 65_536, slots=1), models=(LONG,))
    assert dispatched(drive.job("short-1")) == {"short-1": "large"}
    assert kinds(refuse(drive, "long", 1, exceeded(6054, 4096))) == ["Requeue"]
    told = drive.scheduler.explain("long", drive.now_s)
    assert told is not None
    assert {one.worker_id: one.refusal for one in told.candidates if one.worker_id == "small"} == {
        "small": "Its context is too small: the job takes 6055 tokens at least."
    }
    assert told.bound is None
    assert dispatched(drive.job("short-2")) == {"short-2": "small"}
    drive.job("short-3")
    # It had its turn already.
    drive.send(AttemptStarted("short-1", 1))
    failed = AttemptFailed("short-1", 1, ErrorBody(code=ErrorCode.INVALID_REQUEST, message="No."), final=True, worker_suspect=False)
    assert dispatched(drive.send(failed)) == {"long": "large"}


def test_watchers_are_told_what_it_waits_for() -> None:
    drive = fleet(worker("small", 4096, slots=1))
    drive.job("long")
    drive.report("large", worker("large", 65_536, slots=1), models=(LONG,))
    drive.job("short")
    drive._noted = True
    (note,) = [effect for effect in refuse(drive, "long", 1, exceeded(6054, 4096)) if isinstance(effect, Note)]
    assert "larger context" in note.reason


def test_batch_jobs_on_the_larger_one_give_way_to_it() -> None:
    drive = fleet(worker("small", 4096, slots=1), preempt_above_s=0.0)
    drive.job("long")
    drive.report("large", worker("large", 65_536, slots=1), models=(LONG,))
    drive.job("batch", priority="batch", max_tokens=100_000)
    effects = refuse(drive, "long", 1, exceeded(6054, 4096))
    assert dispatched(effects) == {"long": "large"}
    assert [effect.job_id for effect in effects if isinstance(effect, Requeue)] == ["long", "batch"]


def test_a_batch_job_comes_after_chats_that_are_older_than_it_must_wait() -> None:
    drive = fleet(worker("small", 4096, slots=1))
    drive.job("long", priority="batch")
    drive.report("large", worker("large", 65_536, slots=1), models=(LONG,))
    drive.job("chat-1")
    refuse(drive, "long", 1, exceeded(6054, 4096))
    drive.job("chat-2")
    drive.job("chat-3")
    error = ErrorBody(code=ErrorCode.INVALID_REQUEST, message="No.")
    assert dispatched(drive.send(AttemptFailed("chat-1", 1, error, final=True, worker_suspect=False))) == {"chat-3": "large"}


def test_it_waits_for_a_worker_that_loads() -> None:
    drive = fleet(worker("small", 4096))
    drive.job("long")
    drive.report("coming", worker("coming", 0, state="loading"), models=(LONG,))
    assert kinds(refuse(drive, "long", 1, exceeded(6054, 4096))) == ["Requeue"]
    drive.tick(after_s=1.0)
    assert dispatched(drive.ready("coming", worker("coming", 65_536))) == {"long": "coming"}


def test_it_ends_once_the_worker_that_loaded_has_no_larger_one_either() -> None:
    drive = fleet(worker("small", 4096))
    drive.job("long")
    drive.report("coming", worker("coming", 0, state="loading"), models=(LONG,))
    refuse(drive, "long", 1, exceeded(6054, 4096))
    assert ended(drive.ready("coming", worker("coming", 4096))).code is ErrorCode.CONTEXT_EXCEEDED


def _with_a_larger_one_that_is_busy() -> Drive:
    drive = fleet(worker("small", 4096))
    drive.job("long")
    drive.report("large", worker("large", 65_536, slots=1), models=(LONG,))
    drive.job("other")
    refuse(drive, "long", 1, exceeded(6054, 4096))
    return drive


def test_it_ends_once_the_larger_one_has_died() -> None:
    drive = _with_a_larger_one_that_is_busy()
    effects = drive.died("large", "large", error=CRASH)
    assert [effect.job_id for effect in effects if isinstance(effect, Finish)] == ["long"]


def test_it_waits_while_the_pool_of_the_larger_one_is_drained() -> None:
    drive = _with_a_larger_one_that_is_busy()
    assert kinds(drive.send(PoolDrainChanged("large", drains=True))) == []
    assert kinds(drive.send(AttemptCompleted("other", 1))) == []
    assert dispatched(drive.send(PoolDrainChanged("large", drains=False))) == {"long": "large"}


def test_it_waits_while_a_pool_that_would_start_one_is_drained() -> None:
    drive = fleet(worker("small", 4096))
    drive.job("long")
    drive.report("other", devices=TWO, models=(LONG,), default_ctx=65_536)
    drive.send(PoolDrainChanged("other", drains=True))
    assert kinds(refuse(drive, "long", 1, exceeded(6054, 4096))) == ["Requeue"]
    assert spawned(drive.send(PoolDrainChanged("other", drains=False))).pool_id == "other"


def test_it_waits_while_the_pool_of_the_larger_one_is_lost() -> None:
    drive = fleet(worker("small", 4096), worker("large", 65_536, slots=1), worker("other", 4096), worker("another", 4096))
    heard = {name: worker(name, 4096) for name in ("small", "other", "another")}
    for _ in range(20):
        drive.tick(after_s=1.0)
        for name, one in heard.items():
            drive.report(name, one, models=(LONG,))
    assert drive.scheduler._state.pools["large"].state == "lost"
    drive.job("long")
    assert kinds(refuse(drive, "long", 1, exceeded(6054, 4096))) == ["Requeue"]
    assert dispatched(drive.report("large", worker("large", 65_536, slots=1), models=(LONG,))) == {"long": "large"}


def test_a_worker_is_started_for_it_where_the_pool_says_that_it_would_be_large_enough() -> None:
    drive = fleet(worker("small", 4096))
    drive.job("long")
    drive.report("other", devices=TWO, models=(LONG,), default_ctx=65_536)
    effects = refuse(drive, "long", 1, exceeded(6054, 4096))
    spawn = spawned(effects)
    assert spawn.pool_id == "other"
    assert not dispatched(effects)
    new = facts.worker(spawn.worker_id, LONG, ctx=65_536, device_id=spawn.devices[0])
    drive.report("other", new, devices=TWO, models=(LONG,), default_ctx=65_536)
    assert drive.scheduler._state.jobs["long"].attempt is not None


@pytest.mark.parametrize("default_ctx", [0, 4096])
def test_no_worker_is_started_for_it_where_nobody_says_so(default_ctx: int) -> None:
    drive = fleet(worker("small", 4096))
    drive.job("long")
    drive.report("other", devices=TWO, models=(LONG,), default_ctx=default_ctx)
    assert kinds(refuse(drive, "long", 1, exceeded(6054, 4096))) == ["Finish"]


def test_a_place_that_did_not_keep_its_word_is_not_tried_again() -> None:
    drive = fleet(worker("small", 4096))
    drive.job("long")
    drive.report("other", devices=(GPU,), models=(LONG,), default_ctx=65_536)
    spawn = spawned(refuse(drive, "long", 1, exceeded(6054, 4096)))
    new = facts.worker(spawn.worker_id, LONG, ctx=65_536, device_id="cuda:0")
    assert dispatched(drive.report("other", new, devices=(GPU,), models=(LONG,), default_ctx=65_536)) == {"long": spawn.worker_id}
    drive.report("third", worker("third", 0, state="loading"), models=(LONG,))
    assert kinds(refuse(drive, "long", 2, exceeded(6054, 4096))) == ["Requeue"]
    effects = drive.died("other", spawn.worker_id)
    assert not [effect for effect in effects if isinstance(effect, SpawnWorker)]
    assert kinds(drive.ready("third", worker("third", 4096))) == ["Finish"]


def test_idle_workers_of_other_models_make_room_for_it() -> None:
    drive = fleet(worker("small", 4096))
    drive.job("long")
    idle = facts.worker("idle", NOVEL, device_id="cuda:0", ctx=4096)
    full = facts.device("cuda:0", 8 * facts.GIB, 0)
    drive.report("other", idle, devices=(full,), models=(LONG, NOVEL), default_ctx=65_536)
    assert kinds(refuse(drive, "long", 1, exceeded(6054, 4096))) == ["Requeue", "StopWorker"]


def test_before_every_pool_has_come_back_it_waits() -> None:
    drive = Drive()
    drive.report("small", worker("small", 4096), models=(LONG,))
    drive.job("long")
    assert kinds(refuse(drive, "long", 1, exceeded(6054, 4096))) == ["Requeue"]
    assert dispatched(drive.report("large", worker("large", 65_536), models=(LONG,))) == {"long": "large"}


def test_before_every_pool_has_come_back_it_waits_and_ends_then() -> None:
    drive = Drive()
    drive.report("small", worker("small", 4096), models=(LONG,))
    drive.job("long")
    refuse(drive, "long", 1, exceeded(6054, 4096))
    effects = drive.ticks(30.0)
    assert ended(effects).code is ErrorCode.CONTEXT_EXCEEDED


def test_a_suspect_that_needs_it_gets_the_larger_one_alone() -> None:
    drive = fleet(worker("dies", 4096), worker("small", 4096))
    there = dispatched(drive.job("long"))["long"]
    drive.died(there, there)
    drive.ticks(3.0)
    job = drive.scheduler._state.jobs["long"]
    assert job.suspect
    assert job.attempt is not None
    drive.report("large", worker("large", 65_536), models=(LONG,))
    assert dispatched(refuse(drive, "long", job.epoch, exceeded(6054, 4096))) == {"long": "large"}
    assert job.attempt.alone


def test_plan_of_another_job_goes_on_while_one_waits() -> None:
    drive = fleet(worker("small", 4096, slots=1))
    drive.job("long")
    drive.report("large", worker("large", 65_536, slots=1), models=(LONG,))
    drive.job("short")
    refuse(drive, "long", 1, exceeded(6054, 4096))
    assert drive.plan(drive.spec("new")).outlook == "runs"
    drive.send(JobArrived(drive.spec("new-1")))
    assert drive.scheduler.queue_position("long") == 1


def test_the_context_that_is_served_is_told() -> None:
    def served(drive: Drive) -> int:
        ((_, _, _, context),) = drive.scheduler.models()
        return context

    drive = Drive()
    drive.report("a", models=(LONG,))
    assert served(drive) == 0
    drive.report("a", models=(LONG,), default_ctx=8192)
    drive.report("b", models=(LONG,), default_ctx=1 << 20)
    assert served(drive) == LONG.context_length
    drive.report("a", worker("w", 4096), models=(LONG,), default_ctx=8192)
    assert served(drive) == 4096
    drive.report("b", worker("v", 65_536, device_id="cuda:0"), models=(LONG,), devices=TWO, default_ctx=1 << 20)
    assert served(drive) == 65_536


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_what_empties_for_it_works_again_once_it_waits_no_more(priority: str) -> None:
    drive = fleet(worker("small", 4096, slots=1))
    drive.job("long", priority=priority)
    busy = facts.worker("busy", NOVEL, device_id="cuda:0", ctx=4096, slots=2)
    full = facts.device("cuda:0", 8 * facts.GIB, 0)
    drive.report("other", busy, devices=(full,), models=(LONG, NOVEL), default_ctx=65_536)
    drive.job("novel", NOVEL)
    refuse(drive, "long", 1, exceeded(6054, 4096))
    drive.job("runs")
    drive.job("waits")
    for _ in range(60):
        drive.tick(after_s=1.0)
        drive.report("small", worker("small", 4096, slots=1), models=(LONG,))
        drive.report("other", busy, devices=(full,), models=(LONG, NOVEL), default_ctx=65_536)
    assert set(drive.scheduler._state.claims) == {"busy"}
    drive.send(CancelAsked("long"))
    assert not drive.scheduler._state.claims
    assert dispatched(drive.job("novel-2", NOVEL)) == {"novel-2": "busy"}
