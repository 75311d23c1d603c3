"""A worker, as orcd and its parent call it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from rbees.clients.daemon import DaemonClient, segment
from rbees.clients.events import worker_events
from rbees.protocol.errors import ErrorCode
from rbees.protocol.events import Event
from rbees.protocol.workers import AckRequest, Beat, CancelRequest, ExecuteRequest, TokenizeAnswer, TokenizeRequest, WorkerHealth

NO_LIMIT: Final = None
"""On silence in a worker's stream: it beats every second and whoever reads decides by the beats. To have a timer beside that put
forward with every event would cost a tenth of what an event costs in all."""

WorkerStream = AsyncIterator[tuple[int | None, Event | Beat]]


class WorkerClient(DaemonClient):
    """Calls one worker with its secret. Every method raises `RbeesError`: the worker's code, or WORKER_UNREACHABLE."""

    unreachable = ErrorCode.WORKER_UNREACHABLE

    @asynccontextmanager
    async def execute(self, request: ExecuteRequest) -> AsyncIterator[WorkerStream]:
        """Start an attempt and read its events; one that already runs is attached to."""
        async with self._http.stream("POST", "/execute", request, idle_timeout_s=NO_LIMIT) as frames:
            yield worker_events(self.url, frames)

    @asynccontextmanager
    async def attach(self, job_id: str, epoch: int, after: int = 0) -> AsyncIterator[WorkerStream]:
        """Read an attempt's events behind `after`."""
        path, query = f"/jobs/{segment(job_id)}/events", {"epoch": epoch, "after": after}
        async with self._http.stream("GET", path, query=query, idle_timeout_s=NO_LIMIT) as frames:
            yield worker_events(self.url, frames)

    async def ack(self, job_id: str, epoch: int, seq: int) -> None:
        """Everything up to `seq` is journaled."""
        await self._http.call("POST", f"/jobs/{segment(job_id)}/ack", AckRequest(epoch=epoch, seq=seq), timeout_s=5.0)

    async def cancel(self, job_id: str, epoch: int | None = None) -> None:
        """Stop an attempt, or all of the job's; harmless where there is none."""
        await self._http.call("POST", "/cancel", CancelRequest(job_id=job_id, epoch=epoch), timeout_s=5.0)

    async def health(self, timeout_s: float = 5.0, prefixes: Sequence[str] = ()) -> WorkerHealth:
        """What the worker holds and how busy it is; of the cached prefixes only these, where some are named."""
        query = {"prefixes": ",".join(prefixes)} if prefixes else None
        return await self._http.call("GET", "/health", response=WorkerHealth, query=query, timeout_s=timeout_s)

    async def tokenize(self, request: TokenizeRequest) -> TokenizeAnswer:
        """The prompt's token ids."""
        return await self._http.call("POST", "/tokenize", request, TokenizeAnswer)

    async def shutdown(self) -> None:
        """Have the worker drain and exit 0."""
        await self._http.call("POST", "/shutdown", timeout_s=5.0)
