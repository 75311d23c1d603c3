"""Jobs for clients of other APIs: accepted as every job is, durable and under the same admission, and followed from the start.

Whoever asks through a foreign API knows of no job that could be taken up again, so it is theirs alone: when they leave, it is
cancelled as `cancel_on_disconnect` says, also where they leave before they could hear that it was accepted. A failure of one of
several is the whole answer, so the others are then nobody's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from rbees.orcd.crew import Crew
from rbees.orcd.frames import decode, payload, split
from rbees.orcd.jobs import Aside, Jobs
from rbees.orcd.journal import Beside
from rbees.orcd.relay import Relay, Watcher
from rbees.orcd.store.jobs import JobRow
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Event, is_terminal
from rbees.protocol.jobs import JobRequest

PORTION_BYTES: Final = 64 * 1024
"""Of events that are read at once; a single larger one is read alone."""


@dataclass(frozen=True, slots=True)
class Run:
    """A job that somebody follows."""

    row: JobRow
    pieces: AsyncIterator[bytes]
    give_up: Callable[[], Awaitable[object]]
    """Has the job cancelled at once."""

    async def events(self) -> AsyncIterator[list[Event]]:
        """Its events as they become durable, those together that came together, to the terminal one.

        Raises:
            RbeesError: DRAINING where this process stops before the job has ended.
        """
        async for piece in self.pieces:
            for frames in _portions(split(piece)):
                events = [decode(payload(frame)) for frame in frames]
                yield events
                if is_terminal(events[-1]):
                    return
                if sum(map(len, frames)) > PORTION_BYTES:
                    # To read one takes a millisecond, and a result may have a hundred: others' streams go on in between.
                    await asyncio.sleep(0)
        message = "This orchestrator is shutting down; the job goes on once it is back. Ask again then."
        raise RbeesError(ErrorCode.DRAINING, message, retry_after_s=5)


class Runs:
    """Has jobs accepted and follows them. A new one's `queued`, which tells an API of others nothing, is not among its events."""

    def __init__(self, jobs: Jobs, relay: Relay, crew: Crew, reference_of: Callable[[str], str | None] | None = None) -> None:
        """`reference_of` is as for `Aside`."""
        self._reference_of = reference_of
        self._jobs = jobs
        self._relay = relay
        self._crew = crew

    @property
    def is_draining(self) -> bool:
        """Whether this process takes no new jobs any more."""
        return self._jobs.draining

    def check_room(self) -> None:
        """Raises RbeesError DRAINING, QUEUE_FULL where no job can be taken at present, whatever it is."""
        self._jobs.check_room()

    @asynccontextmanager
    async def of(
        self, wanted: Sequence[JobRequest], key: str | None = None, keep_s: float | None = None, beside: Beside | None = None
    ) -> AsyncIterator[list[Run]]:
        """A run of each job, in their order; `key` is an idempotency key for all of them. Whoever leaves is gone for the jobs too.

        `keep_s` and `beside` are as for `Aside`.

        Raises:
            RbeesError: as `Jobs.submit`; where one is refused, none goes on. What is raised while they are followed names them.
        """
        async with AsyncExitStack() as stack:
            runs: list[Run] = []
            try:
                for number, request in enumerate(wanted):
                    own_key = f"{key}#{number}" if key is not None and number else key
                    runs.append(await self._begin(stack, request, own_key, keep_s, beside))
            except RbeesError:
                for run in runs:
                    await run.give_up()
                raise
            try:
                yield runs
            except RbeesError as error:
                error.job_ids = tuple(run.row.job_id for run in runs)
                await give_up_rest(runs, error)
                raise

    @asynccontextmanager
    async def again(self, row: JobRow) -> AsyncIterator[Run]:
        """A run of a job that was accepted before, from its first event on."""
        async with AsyncExitStack() as stack:
            yield self._run(stack, row, self._follow(row, 0))

    async def _begin(
        self, stack: AsyncExitStack, request: JobRequest, key: str | None, keep_s: float | None, beside: Beside | None
    ) -> Run:
        submitting = asyncio.create_task(self._submit(request, key, keep_s, beside))
        try:
            row, watcher = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            self._crew.start(self._given_up(submitting), "given_up")
            raise
        return self._run(stack, row, watcher)

    def _run(self, stack: AsyncExitStack, row: JobRow, watcher: Watcher) -> Run:
        self._jobs.joined(row)
        stack.callback(self._jobs.left, row)
        stack.callback(self._relay.leave, watcher)
        return Run(row, watcher.pieces(), lambda: self._jobs.cancel(row.job_id))

    async def _submit(
        self, request: JobRequest, key: str | None, keep_s: float | None, beside: Beside | None
    ) -> tuple[JobRow, Watcher]:
        """The job, and who follows it: a new one from its first moment, so that nothing of it has to be read from the disk."""
        followed: list[tuple[JobRow, Watcher]] = []

        def begun(row: JobRow) -> None:
            followed.append((row, self._follow(row, row.last_seq, is_newest=True)))

        accepted = await self._jobs.submit(request, key, Aside(keep_s, begun, beside, self._reference_of))
        if followed:
            return followed[0]
        row = await self._jobs.row_for_events(accepted.job_id)
        return row, self._follow(row, 0)

    def _follow(self, row: JobRow, after: int, *, is_newest: bool = False) -> Watcher:
        return self._relay.follow(row.number, after, lambda: self._jobs.is_live(row.job_id), is_newest=is_newest)

    async def _given_up(self, submitting: asyncio.Task[tuple[JobRow, Watcher]]) -> None:
        """The client left while its job was being accepted: the same as if it had left right after."""
        try:
            row, watcher = await submitting
        except RbeesError:
            return
        self._jobs.joined(row)
        self._relay.leave(watcher)
        self._jobs.left(row)


async def give_up_rest(runs: Sequence[Run], error: RbeesError) -> None:
    """Have several jobs cancelled at once where one failed and nobody will hear of the others, unless they are to go on alone."""
    if len(runs) == 1 or error.code is ErrorCode.DRAINING:
        return
    for run in runs:
        if run.row.cancel_on_disconnect:
            await run.give_up()


def _portions(frames: Sequence[bytes]) -> Iterator[list[bytes]]:
    portion: list[bytes] = []
    size = 0
    for frame in frames:
        if portion and size + len(frame) > PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(frame)
        size += len(frame)
    yield portion
