"""Whatever attempts send, in whatever order things fail and commit: what is journaled is dense, legal, fenced and replays the
same. A small world of hostile workers drives the real journal on a memory database with the packaged schema.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import given, note, settings
from hypothesis import strategies as st

from rbees.orcd.frames import decode, payload, split
from rbees.orcd.live import LiveJob, Stream, Verdict
from rbees.orcd.recovery import recover
from rbees.orcd.relay import Relay
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import End, Error, Event, Metrics, Queued, Started, StreamState, Token, advance, is_terminal
from rbees.service.clock import ManualClock
from tests.support.orcd_parts import Desk, end, settle, started, token

BROKE = ErrorBody(code=ErrorCode.WORKER_CRASHED, message="It broke.")
KINDS = ("worker",) * 6 + ("begin", "late", "requeue") * 2 + ("note", "finish", "commit", "hold", "full", "room", "restart", "torn")
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 1), st.integers(0, 9)), max_size=60)


@dataclass
class Actor:
    """One job, as the world around it behaves."""

    name: str
    epochs: int = 0
    sent: dict[int, int] = field(default_factory=dict)
    """Per epoch: how many events its worker has sent."""
    accepted: list[Event] = field(default_factory=list)


class World:
    """Two jobs, their workers, and every fault that the steps ask for."""

    def __init__(self, desk: Desk, clock: ManualClock) -> None:
        self.desk = desk
        self.clock = clock
        self.actors = [Actor(f"j{n}") for n in range(2)]

    async def populate(self) -> None:
        for actor in self.actors:
            job = await self.desk.job(actor.name)
            self.happen("begin", actor, job, 0)

    def live(self, actor: Actor) -> LiveJob | None:
        return self.desk.journal.live.get(f"job-{actor.name}")

    async def step(self, kind: str, which: int, salt: int) -> None:
        actor = self.actors[which]
        job = self.live(actor)
        match kind:
            case "commit":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            case "hold":
                self.desk.database.gate.clear()
            case "full":
                self.desk.database.failure = RbeesError(ErrorCode.STORAGE_FULL, "full")
                self.desk.database.gate.set()
            case "room":
                await self.release()
            case "restart":
                await self.restart()
            case "torn":
                await self.tear(salt)
            case _ if job is not None:
                self.happen(kind, actor, job, salt)

    async def tear(self, salt: int) -> None:
        """A commit finds the disk full after more has arrived; and more arrives before there is room."""
        self.desk.database.gate.clear()
        self.all_happen("worker", 0)
        await settle(5)
        self.all_happen(("worker", "requeue", "begin", "finish", "note")[salt % 5], 0)
        self.all_happen("worker", 0)
        await self.step("full", 0, 0)
        await settle(5)
        self.all_happen(("begin", "worker")[salt % 2], 0)

    def all_happen(self, kind: str, salt: int) -> None:
        for actor in self.actors:
            job = self.live(actor)
            if job is not None:
                self.happen(kind, actor, job, salt)

    def happen(self, kind: str, actor: Actor, job: LiveJob, salt: int) -> None:
        journal = self.desk.journal
        match kind:
            case "begin" if not job.stream.ended:
                actor.epochs = job.stream.epoch + 1
                journal.begin_attempt(job, actor.epochs, f"worker-{actor.epochs}", "pool")
            case "worker":
                self.send(actor, job, job.stream.epoch, salt)
            case "late":
                # Half of them have just the number that the present attempt would send next.
                older = max(job.stream.epoch - 1, 0)
                if salt % 2:
                    actor.sent[older] = job.stream.worker_seq
                self.send(actor, job, older, salt // 2)
            case "requeue":
                journal.requeue(job, job.stream.epoch, "worker", "failed", BROKE, counted=True)
            case "note":
                journal.note(job, Metrics(stage="waiting", reason="It waits."))
            case "finish" if salt < 3:
                journal.finish(job, "failed", BROKE)

    def send(self, actor: Actor, job: LiveJob, epoch: int, salt: int) -> None:
        """A worker that mostly behaves: the next event of its stream, now and then one that is repeated, torn out of order or
        simply wrong."""
        seq = actor.sent.get(epoch, 0) + 1
        event: Event = started(epoch) if seq == 1 else token(job.stream.tokens)
        if salt == 9:
            event = end(job.stream.tokens)
        elif salt == 8:
            seq = max(1, seq - 1)
        elif salt == 7:
            seq += 1
        elif salt == 6:
            event = token(job.stream.tokens + 1)
        current = epoch == job.stream.epoch and job.stream.listening and not job.stream.ended
        before = job.stream.last_seq
        repeated = current and seq <= job.stream.worker_seq
        try:
            verdict = self.desk.take(job, epoch, seq, event)
        except RbeesError:
            assert not repeated, "what was taken before is no defect of the worker"
            assert job.stream.last_seq == before
            return
        assert repeated == (verdict is Verdict.REPEATED)
        if current and salt < 6:
            assert verdict is Verdict.TAKE, "the next event of the attempt that counts was refused"
        if verdict is not Verdict.TAKE:
            assert job.stream.last_seq == before
            return
        assert current, "an attempt that counts no more has written"
        actor.sent[epoch] = seq
        actor.accepted.append(event)

    async def release(self) -> None:
        self.desk.database.failure = None
        self.desk.database.gate.set()
        while self.desk.journal._group or not self.desk.journal._idle.is_set():
            await self.clock.advance(0.3)

    async def restart(self) -> None:
        """The process dies: what was not committed is gone for it, and for those who watched it never was."""
        if not self.desk.database.gate.is_set() or self.desk.database.failure is not None:
            return
        await self.release()
        self.desk.journal.live.clear()
        self.desk.journal.counts.clear()
        await recover(self.desk.store, self.desk.journal, lambda _: None)
        for actor in self.actors:
            job = self.live(actor)
            if job is not None:
                job.stream.taken = {0: sum(len(event.token_ids) for event in actor.accepted if isinstance(event, Token))}
                job.stream.listening = job.stream.epoch > 0
                sent = actor.sent.get(job.stream.epoch, 0)
                assert job.stream.worker_seq == sent, "the worker would be asked for something else than what comes next"


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_any_interleaving_gives_a_legal_journal(steps: list[tuple[str, int, int]]) -> None:
    asyncio.run(_run(steps))


async def _run(steps: list[tuple[str, int, int]]) -> None:
    clock = ManualClock()
    async with Desk(clock) as desk:
        world = World(desk, clock)
        await world.populate()
        for kind, which, salt in steps:
            await world.step(kind, which, salt)
        await world.release()
        for actor, number in zip(world.actors, (1, 2), strict=True):
            await _check(world, actor, number)


async def _check(world: World, actor: Actor, number: int) -> None:
    desk = world.desk
    rows = desk.database.rows(f"SELECT first_seq, last_seq, epoch, frames FROM journal WHERE job = {number} ORDER BY first_seq")
    note(f"job {number}: {[row[:3] for row in rows]}")
    assert rows[0][0] == 1
    assert all(later[0] == earlier[1] + 1 for earlier, later in pairwise(rows)), "numbers are dense"
    assert all(later[2] >= earlier[2] for earlier, later in pairwise(rows)), "epochs grow"
    frames = [frame for row in rows for frame in split(row[3])]
    assert [int(frame.split(b"\n", 1)[0][4:]) for frame in frames] == list(range(1, len(frames) + 1))
    events = [decode(payload(frame)) for frame in frames]
    state = StreamState.NEW
    for event in events:
        state = advance(state, event)
    assert sum(map(is_terminal, events)) == (state is StreamState.ENDED)
    assert [event.index for event in events if isinstance(event, Token)] == list(range(sum(isinstance(e, Token) for e in events)))
    assert _told(events) == [_shown(event) for event in actor.accepted], "what was taken is journaled once, in order"
    ((status, ended),) = desk.database.rows(f"SELECT status, outcome IS NOT NULL FROM jobs WHERE number = {number}")
    assert bool(ended) == (state is StreamState.ENDED) == (status in {"completed", "failed", "cancelled"})
    assert (status == "completed") == any(isinstance(event, End) for event in events)
    await _check_replays(desk, number, frames, is_live=not ended)


def _told(events: list[Event]) -> list[str]:
    return [_shown(event) for event in events if _comes_from_worker(event)]


def _comes_from_worker(event: Event) -> bool:
    return isinstance(event, Started | Token | End) or (isinstance(event, Metrics) and event.stage == "attempt_started")


def _shown(event: Event) -> str:
    return (
        "start" if isinstance(event, Started | Metrics) else f"{event.index}" if isinstance(event, Token) else type(event).__name__
    )


async def _check_replays(desk: Desk, number: int, frames: list[bytes], *, is_live: bool) -> None:
    relay = Relay(desk.store, desk.figures)
    for after in {0, len(frames) // 2, len(frames)}:
        async with relay.watch(number, after, lambda: False) as pieces:
            assert b"".join([piece async for piece in pieces]) == b"".join(frames[after:])
    assert is_live == (not frames or not is_terminal(decode(payload(frames[-1]))))


WORKER_EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.sampled_from(["started", "token", "end", "error", "wrong"])), max_size=40
)


@given(WORKER_EVENTS)
def test_the_fence_never_lets_an_older_epoch_or_a_wrong_number_pass(sent: list[tuple[int, int, str]]) -> None:
    stream = Stream()
    for event in _opening():
        stream.number(event)
    stream.begin(2)
    for epoch, seq, kind in sent:
        event = _event(kind, stream)
        expected = stream.worker_seq + 1
        ended = stream.ended
        try:
            verdict = stream.admit(epoch, seq, event)
        except RbeesError:
            continue
        if verdict is Verdict.TAKE:
            assert (epoch, seq, ended) == (2, expected, False)
            if not isinstance(event, Error):
                stream.number(event if not isinstance(event, Started) or stream.state is StreamState.WAITING else _restarted())


def _opening() -> Iterator[Event]:
    yield Queued(queue_position=1, created_at_ms=0)


def _restarted() -> Metrics:
    return Metrics(stage="attempt_started")


def _event(kind: str, stream: Stream) -> Any:
    match kind:
        case "started":
            return started(2)
        case "token":
            return token(stream.tokens)
        case "end":
            return end()
        case "error":
            return Error(error=BROKE)
        case _:
            return token(stream.tokens + 3)
