"""A pool daemon, as orcd and the command line call it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from rbees.clients.daemon import DaemonClient, segment
from rbees.clients.downloads import download_events
from rbees.clients.failures import not_understood
from rbees.protocol.downloads import DownloadEvent, DownloadRequest, FilePieces, ModelOffer, ModelRemoved
from rbees.protocol.errors import ErrorCode
from rbees.protocol.fits import FitRequest, FitView
from rbees.protocol.pools import (
    LONGEST_STOPPED_BY,
    STOPPED_BY,
    AnnounceRequest,
    PoolModels,
    PoolStatus,
    RegisterRequest,
    SpawnAnswer,
    SpawnCommand,
    WorkerFacts,
    WorkerList,
)

DISMISS_TIMEOUT_S = 5.0
MAX_OFFER_BYTES = 1 << 20
"""Whoever is asked may be a stranger, and many are asked at once."""
READ_AHEAD_BYTES = 2 << 20
"""Of a file's bytes, so that whoever checks and writes them does not keep the connection waiting."""


class PooldClient(DaemonClient):
    """Calls poold. Every method raises `RbeesError`: the code poold answered with, or POOL_UNREACHABLE."""

    unreachable = ErrorCode.POOL_UNREACHABLE

    async def spawn(self, request: SpawnCommand) -> SpawnAnswer:
        """Have a worker started; refused by preflight where it cannot fit."""
        return await self._http.call("POST", "/workers/spawn", request, SpawnAnswer)

    async def workers(self) -> WorkerList:
        """The pool's workers."""
        return await self._http.call("GET", "/workers", response=WorkerList)

    async def worker(self, worker_id: str) -> WorkerFacts:
        """One worker."""
        return await self._http.call("GET", f"/workers/{segment(worker_id)}", response=WorkerFacts)

    async def stop_worker(self, worker_id: str, by: str) -> None:
        """Have a worker drained and stopped; `by` says who wants that, and why."""
        words = " ".join(by.encode(errors="replace").decode().split())[:LONGEST_STOPPED_BY]
        # No header takes control characters, which the name of a file may hold: the worker is to end all the same.
        said = "".join(character if character.isprintable() else "?" for character in words)
        await self._http.call("DELETE", f"/workers/{segment(worker_id)}", headers={STOPPED_BY: said})

    @asynccontextmanager
    async def logs(self, worker_id: str, follow: bool = False) -> AsyncIterator[AsyncIterator[str]]:
        """The worker's log, line by line; with `follow` as it grows: `async with client.logs(id) as lines: async for line`."""
        query = {"follow": "true"} if follow else None
        async with self._http.lines(f"/workers/{segment(worker_id)}/logs", query) as lines:
            yield lines

    async def status(self) -> PoolStatus:
        """Devices, models, workers."""
        return await self._http.call("GET", "/status", response=PoolStatus)

    async def models(self) -> PoolModels:
        """The models on the host, and files there that cannot be served."""
        return await self._http.call("GET", "/models", response=PoolModels)

    async def download(self, request: DownloadRequest) -> AsyncGenerator[DownloadEvent]:
        """Have a model downloaded; closing the iterator ends that."""
        async with self._http.stream("POST", "/models/download", request) as frames:
            async for event in download_events(self.url, frames):
                yield event

    async def search_models(self) -> None:
        """Have new and changed model files looked for now; returns once the pool's orchestrator knows of them."""
        await self._http.call("POST", "/models/search")

    async def fit(self, request: FitRequest) -> FitView:
        """How a model would sit on the host's devices."""
        return await self._http.call("POST", "/models/fit", request, FitView)

    async def remove_model(self, name: str) -> ModelRemoved:
        """Have a model's files removed."""
        return await self._http.call("DELETE", f"/models/{segment(name)}", response=ModelRemoved)

    async def offer(self, name: str, quantization: str | None = None, timeout_s: float = 30.0) -> ModelOffer:
        """What the pool can give under this name, reference or sha256."""
        query = {"quantization": quantization} if quantization is not None else None
        path = f"/models/{segment(name)}/offer"
        return await self._http.call("GET", path, response=ModelOffer, query=query, timeout_s=timeout_s, max_bytes=MAX_OFFER_BYTES)

    async def pieces(self, sha256: str, max_bytes: int) -> FilePieces:
        """The sums of a file's pieces, in an answer of at most so many bytes; MODEL_LOADING while they are being computed."""
        return await self._http.call("GET", f"/models/{segment(sha256)}/pieces", response=FilePieces, max_bytes=max_bytes)

    @asynccontextmanager
    async def blob(self, sha256: str, first: int, length: int, idle_timeout_s: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """So many bytes of a file from one position on, as they come: `async with client.blob(…) as chunks: async for chunk`."""
        ranged = {"Range": f"bytes={first}-{first + length - 1}"}
        path = f"/models/{segment(sha256)}/blob"
        async with self._http.body("GET", path, idle_timeout_s, ranged, READ_AHEAD_BYTES) as (headers, chunks):
            if not headers.get("Content-Range", "").startswith(f"bytes {first}-{first + length - 1}/"):
                raise not_understood(self.url)
            yield chunks

    async def announce(self, orcd_url: str) -> RegisterRequest:
        """Tell the pool where its orchestrator is; it answers with its registration."""
        return await self._http.call("POST", "/register-with", AnnounceRequest(orcd_url=orcd_url), RegisterRequest)

    async def dismiss(self) -> None:
        """Tell the pool that its orchestrator forgets it, so that it does not come back by itself."""
        await self._http.call("DELETE", "/register-with", timeout_s=DISMISS_TIMEOUT_S)
