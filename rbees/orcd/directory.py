"""Where pools and workers are reached, and with what secret. In memory only: after a restart the pools tell again.

This holds addresses and clients; what pools report of themselves is the scheduler's.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Final

from rbees.clients import dialer
from rbees.clients.dialer import Dialer
from rbees.clients.poold import PooldClient
from rbees.clients.workerd import WorkerClient
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.workers import WorkerReady

PROBE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """A ready worker."""

    worker_id: str
    pool_id: str
    client: WorkerClient

    async def answers(self) -> bool:
        """Whether its port takes a connection within `PROBE_S`; it does even where the process stands still."""
        return await dialer.answers(self.client.url, PROBE_S)


@dataclass(slots=True)
class PoolAddress:
    """A registered pool daemon."""

    pool_id: str
    endpoint: str
    """As the pool itself says; its identity when it registers again."""
    version: str
    boot_id: str
    client: PooldClient
    workers: set[str] = field(default_factory=set)
    last_seq: int = 0
    """Of the heartbeats of this boot."""
    clock_ahead_ms: int | None = None
    """Its wall clock against ours, as of its last heartbeat."""


class Directory:
    """All addresses. One `Dialer` serves every client; `close` ends its connections."""

    def __init__(self, *, token: str | None, tls: ssl.SSLContext | None) -> None:
        self._token = token
        self._tls = tls
        self._dialer = Dialer()
        self._pools: dict[str, PoolAddress] = {}
        self._workers: dict[str, WorkerAddress] = {}

    def pool_client(self, endpoint: str) -> PooldClient:
        """A client for a pool daemon that may not have registered yet."""
        return PooldClient(endpoint, token=self._token, ssl=self._tls, dialer=self._dialer, role="orcd")

    def find_pool(self, pool_id: str) -> PoolAddress | None:
        """The pool, if it has registered."""
        return self._pools.get(pool_id)

    def pool(self, pool_id: str) -> PoolAddress:
        """The pool. Raises RbeesError POOL_NOT_FOUND."""
        address = self._pools.get(pool_id)
        if address is None:
            message = f"No pool `{pool_id}` is registered; list them with `llorch pool list`."
            raise RbeesError(ErrorCode.POOL_NOT_FOUND, message, pool_id=pool_id)
        return address

    def put_pool(self, pool_id: str, *, endpoint: str, dial: str | None, version: str, boot_id: str) -> None:
        """A pool has registered; it is called at `dial` where an operator named that, else at its own `endpoint`."""
        known = self._pools.get(pool_id)
        at = dial or (known.client.url if known is not None and known.endpoint == endpoint else endpoint)
        address = PoolAddress(pool_id, endpoint, version, boot_id, self.pool_client(at))
        if known is not None:
            address.workers = known.workers
            if known.boot_id == boot_id:
                address.last_seq, address.clock_ahead_ms = known.last_seq, known.clock_ahead_ms
        self._pools[pool_id] = address

    def drop_pool(self, pool_id: str) -> None:
        """Forget a pool and its workers."""
        address = self._pools.pop(pool_id, None)
        for worker_id in address.workers if address is not None else ():
            self._workers.pop(worker_id, None)

    def has_worker(self, worker_id: str) -> bool:
        """Whether the worker's secret is known."""
        return worker_id in self._workers

    def worker(self, worker_id: str) -> WorkerAddress:
        """A ready worker. Raises RbeesError WORKER_NOT_FOUND."""
        address = self._workers.get(worker_id)
        if address is None:
            message = f"Worker `{worker_id}` has not introduced itself; its pool is asked to register again."
            raise RbeesError(ErrorCode.WORKER_NOT_FOUND, message, worker_id=worker_id)
        return address

    def owner(self, worker_id: str) -> str | None:
        """The pool of a worker that has introduced itself."""
        address = self._workers.get(worker_id)
        return None if address is None else address.pool_id

    def put_worker(self, pool_id: str, ready: WorkerReady) -> None:
        """A worker is ready, and this is its secret. Whether the pool may say so is the caller's to check."""
        self.drop_worker(ready.worker_id)
        client = WorkerClient(ready.uri, token=ready.secret, ssl=self._tls, dialer=self._dialer)
        self._workers[ready.worker_id] = WorkerAddress(ready.worker_id, pool_id, client)
        self.pool(pool_id).workers.add(ready.worker_id)

    def drop_worker(self, worker_id: str) -> None:
        """A worker has ended."""
        address = self._workers.pop(worker_id, None)
        if address is not None and address.pool_id in self._pools:
            self._pools[address.pool_id].workers.discard(worker_id)

    def keep_workers(self, pool_id: str, present: set[str]) -> None:
        """Forget the workers of a pool but those `present`, which a report of the pool lists."""
        for worker_id in self.pool(pool_id).workers - present:
            self.drop_worker(worker_id)

    async def close(self) -> None:
        """End all connections."""
        await self._dialer.close()
