"""The orchestrator, as clients, pools and the command line call it."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

from rbees.clients.cluster import cluster_rounds
from rbees.clients.daemon import DaemonClient, segment
from rbees.clients.downloads import download_events
from rbees.clients.events import numbered_events
from rbees.clients.failures import not_understood
from rbees.clients.http import STREAM_IDLE_S, Packed
from rbees.protocol.cluster import ClusterStatus
from rbees.protocol.database import DatabaseReport
from rbees.protocol.decisions import Explanation, Plan
from rbees.protocol.downloads import DownloadEvent, DownloadRequest
from rbees.protocol.errors import ErrorCode
from rbees.protocol.events import Event
from rbees.protocol.jobs import CancelAnswer, JobAccepted, JobList, JobRequest, JobView, StatusFilter
from rbees.protocol.pools import (
    AddPoolRequest,
    Heartbeat,
    ModelList,
    PoolList,
    PoolView,
    RegisterAnswer,
    RegisterRequest,
    SpawnAnswer,
    SpawnRequest,
    WorkerFailedReport,
    WorkerList,
    WorkerReadyReport,
)

SUBMIT_TIMEOUT_S = 60.0
DATABASE_TIMEOUT_S = 1800.0
"""Until orcd has looked through its database, or has copied it and begins to send: both grow with the jobs it keeps."""


class OrcdClient(DaemonClient):
    """Calls orcd. Every method raises `RbeesError`: the code orcd answered with, or ORCD_UNREACHABLE."""

    unreachable = ErrorCode.ORCD_UNREACHABLE

    async def submit(self, job: JobRequest, idempotency_key: str | None = None) -> JobAccepted:
        """Hand a job over; when this returns, the job is durable."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        return await self._http.call("POST", "/v2/tasks", job, JobAccepted, SUBMIT_TIMEOUT_S, headers)

    async def job(self, job_id: str) -> JobView:
        """State, timings and, once ended, output."""
        return await self._http.call("GET", f"/v2/tasks/{segment(job_id)}", response=JobView)

    async def explain(self, job_id: str) -> Explanation:
        """Why the job is where it is, or what it waits for."""
        return await self._http.call("GET", f"/v2/tasks/{segment(job_id)}/explain", response=Explanation)

    async def plan(self, job: JobRequest) -> Plan:
        """What would become of the job if it were submitted now."""
        return await self._http.call("POST", "/v2/plan", job, Plan)

    async def jobs(
        self, status: StatusFilter | None = None, model: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> JobList:
        """A page of jobs, newest first."""
        asked = {"status": status, "model": model, "limit": limit, "cursor": cursor}
        query = {name: value for name, value in asked.items() if value is not None}
        return await self._http.call("GET", "/v2/tasks", response=JobList, query=query)

    async def cancel(self, job_id: str) -> CancelAnswer:
        """Cancel; harmless where the job has ended."""
        return await self._http.call("DELETE", f"/v2/tasks/{segment(job_id)}", response=CancelAnswer)

    @asynccontextmanager
    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[AsyncIterator[tuple[int, Event]]]:
        """The job's numbered events behind `after`, until it has ended: `async with …events(id) as events: async for …`."""
        headers = {"Last-Event-ID": str(after)} if after else None
        async with self._http.stream("GET", f"/v2/tasks/{segment(job_id)}/events", headers=headers) as frames:
            yield numbered_events(self.url, frames)

    async def status(self) -> ClusterStatus:
        """The cluster at a glance."""
        return await self._http.call("GET", "/v2/status", response=ClusterStatus)

    @asynccontextmanager
    async def watch(self, every_s: float) -> AsyncIterator[AsyncIterator[ClusterStatus]]:
        """The same now and then every so many seconds, until orcd ends: `async with …watch(1) as rounds: async for …`."""
        idle_s = max(STREAM_IDLE_S, 3 * every_s)
        async with self._http.stream("GET", "/v2/status", query={"watch": f"{every_s:g}"}, idle_timeout_s=idle_s) as frames:
            yield cluster_rounds(self.url, frames)

    async def pools(self) -> PoolList:
        """Every pool that registered."""
        return await self._http.call("GET", "/v2/pools", response=PoolList)

    async def pool(self, pool_id: str) -> PoolView:
        """One pool."""
        return await self._http.call("GET", f"/v2/pools/{segment(pool_id)}", response=PoolView)

    async def add_pool(self, endpoint: str) -> PoolView:
        """Have orcd call a pool host and take it in."""
        return await self._http.call("POST", "/v2/pools", AddPoolRequest(endpoint=endpoint), PoolView)

    async def remove_pool(self, pool_id: str) -> None:
        """Have orcd forget a pool; its jobs go on elsewhere."""
        await self._http.call("DELETE", f"/v2/pools/{segment(pool_id)}")

    async def drain_pool(self, pool_id: str) -> None:
        """Have a pool get no new work."""
        await self._http.call("POST", f"/v2/pools/{segment(pool_id)}/drain")

    async def resume_pool(self, pool_id: str) -> None:
        """Have a pool get work again."""
        await self._http.call("POST", f"/v2/pools/{segment(pool_id)}/resume")

    async def download(self, pool_id: str, request: DownloadRequest) -> AsyncGenerator[DownloadEvent]:
        """Have a pool download a model; closing the iterator ends that."""
        async with self._http.stream("POST", f"/v2/pools/{segment(pool_id)}/models/download", request) as frames:
            async for event in download_events(self.url, frames):
                yield event

    async def download_where_it_fits(self, request: DownloadRequest) -> AsyncGenerator[DownloadEvent]:
        """Have orcd choose the pool that downloads a model; the first event names it."""
        async with self._http.stream("POST", "/v2/models/download", request) as frames:
            async for event in download_events(self.url, frames):
                yield event

    async def spawn(self, pool_id: str, request: SpawnRequest) -> SpawnAnswer:
        """Have a pool start a worker."""
        return await self._http.call("POST", f"/v2/pools/{segment(pool_id)}/workers/spawn", request, SpawnAnswer)

    async def workers(self) -> WorkerList:
        """Every worker of every pool."""
        return await self._http.call("GET", "/v2/workers", response=WorkerList)

    async def models(self) -> ModelList:
        """Every model that some pool holds."""
        return await self._http.call("GET", "/v2/models", response=ModelList)

    async def register(self, request: RegisterRequest) -> RegisterAnswer:
        """A pool introduces itself."""
        return await self._http.call("POST", "/v2/pools/register", request, RegisterAnswer)

    async def heartbeat(self, pool_id: str, heartbeat: Heartbeat, timeout_s: float = 5.0) -> None:
        """A pool says that it lives, and what it has."""
        await self._http.call("POST", f"/v2/pools/{segment(pool_id)}/heartbeat", Packed(heartbeat), timeout_s=timeout_s)

    async def worker_ready(self, report: WorkerReadyReport) -> None:
        """A pool passes on that a worker has loaded its model."""
        await self._http.call("POST", "/v2/internal/workers/ready", report)

    async def worker_failed(self, report: WorkerFailedReport) -> None:
        """A pool passes on that a worker ended without being asked to."""
        await self._http.call("POST", "/v2/internal/workers/failed", report)

    async def check_database(self) -> DatabaseReport:
        """Have orcd look through its database."""
        return await self._http.call("POST", "/v2/database/check", response=DatabaseReport, timeout_s=DATABASE_TIMEOUT_S)

    async def copy_database(self, write: Callable[[bytes], object]) -> None:
        """Hand a copy of orcd's database to `write`, piece by piece; when this returns it was whole, as orcd says itself."""
        sha256 = hashlib.sha256()
        async with self._http.body("POST", "/v2/database/backup", DATABASE_TIMEOUT_S) as (headers, pieces):
            async for piece in pieces:
                sha256.update(piece)
                write(piece)
        if headers.get("Repr-Digest") != f"sha-256=:{b64encode(sha256.digest()).decode()}:":
            raise not_understood(self.url)
