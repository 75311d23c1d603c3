"""What the workers of a host have in common: the table that they stand in, who is told of them, how long things may take."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from rbees.host.process_table import ProcessTable
from rbees.host.table_lock import PATIENCE_S, SHORT_PATIENCE_S
from rbees.protocol.errors import RbeesError
from rbees.protocol.pools import WorkerFacts
from rbees.protocol.workers import WorkerReady
from rbees.service import logs
from rbees.service.clock import Clock

LOOK_EVERY_S: Final = 0.25


class Reporter(Protocol):
    """Who is told about the two facts that cannot wait for a heartbeat."""

    tells: bool
    """Whether what it is told reaches an orchestrator, now or later."""

    def became_ready(self, facts: WorkerFacts, ready: WorkerReady) -> None:
        """The worker can take work."""
        ...

    def has_failed(self, facts: WorkerFacts, *, while_loading: bool) -> None:
        """The worker ended without being asked to; `facts.end` says how."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds."""

    load_s: float
    drain_s: float
    look_every_s: float = LOOK_EVERY_S
    """How often a worker that loads is asked how far it is. One that calls back says by itself when it is done."""


async def nobody_else() -> None:
    """The answer of `Surroundings.before_start` where nobody else could start workers."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every worker of a host needs."""

    table: ProcessTable
    reporter: Reporter
    clock: Clock
    limits: Limits
    environ: Mapping[str, str]
    new_nonce: Callable[[], str]
    new_secret: Callable[[], str]
    public_host: str | None = None
    """Name under which other hosts reach the workers; None where they listen on loopback."""
    tls: ssl.SSLContext | None = None
    """Trust for workers that serve with the pool's certificate."""
    before_start: Callable[[], Awaitable[None]] = nobody_else
    """Called with the table locked before a process is started. Raises `FolderTaken` where that is somebody else's business."""
    owns_folder: bool = True
    """True of a daemon. Commands leave starting to it, so it need not wait for one that holds the table and stands still."""

    @contextlib.asynccontextmanager
    async def alone(self, *, must_be: bool) -> AsyncIterator[bool]:
        """With the table locked; without, and False, where that cannot be had and need not be.

        Raises:
            RbeesError: ALREADY_RUNNING. OSError: the disk fails.
        """
        try:
            await self.table.lock.acquire(PATIENCE_S if must_be else SHORT_PATIENCE_S)
        except (OSError, RbeesError) as error:
            if must_be:
                raise
            # Whoever holds it may stand still for ever. What it has begun is found by a later look.
            logs.logger().warning("the table of workers is not to be had", action="table_held", reason=str(error))
            yield False
        else:
            try:
                yield True
            finally:
                self.table.lock.release()
