"""Home mode from start to end: two daemons, one address, no configuration, and nothing left behind.

What a lab configured (settings files, `RBEES_*` variables) does not reach the daemons: they get a folder of their own as
`RBEES_HOME` and are told everything else by flags.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rbees.clients.orcd import OrcdClient
from rbees.host import process
from rbees.host.process_table import ProcessTable
from rbees.host.worker_spec import owner_of
from rbees.protocol import codec
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import PoolView
from rbees.service.catalog import USER_CATALOG
from rbees.service.clock import Clock
from rbees.service.folders import user_config_folder
from rbees.service.home import Home
from rbees.service.role_settings import MODELS_DIR
from rbees.up.child import Child, log_tail
from rbees.up.ports import LOOPBACK

READY_TIMEOUT_S: Final = 60.0
LOOK_S: Final = 0.05
DRAIN_S: Final = 10.0
"""How long jobs that run may take to finish when home mode ends; what is left is durable and goes on at the next start."""
STOP_PATIENCE_S: Final = DRAIN_S + 10.0
COUNT_EVERY_S: Final = 0.3
MOST_COUNTED: Final = 1000
"""The longest page of jobs."""
_NOT_FOR_CHILDREN: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@dataclass(frozen=True)
class Callers:
    """Who may call orcd beside programs of this machine that name it by its address."""

    origins: tuple[str, ...] = ()
    """Pages in a browser."""
    hosts: tuple[str, ...] = ()
    """Names that a tunnel or a proxy calls it by."""

    @property
    def flags(self) -> tuple[str, ...]:
        """As orcd is told."""
        pages = (word for origin in self.origins for word in ("--allowed-origins", origin))
        names = (word for host in self.hosts for word in ("--allowed-hosts", host))
        return (*pages, *names)


@dataclass(frozen=True)
class Place:
    """Where a home is."""

    state_dir: Path
    orcd_port: int
    poold_port: int
    model_dirs: tuple[Path, ...] = ()
    """Folders with models beside the home's own."""
    callers: Callers = Callers()
    ctx: int | None = None
    """The context of workers for which none is asked, unless the settings' own is meant."""

    @property
    def orcd_url(self) -> str:
        """The address that clients use."""
        return f"http://{LOOPBACK}:{self.orcd_port}"

    @property
    def poold_url(self) -> str:
        """The pool daemon's address."""
        return f"http://{LOOPBACK}:{self.poold_port}"

    def home(self) -> Home:
        """What the runtime file tells."""
        return Home(pid=os.getpid(), orcd_url=self.orcd_url, poold_url=self.poold_url, state_dir=str(self.state_dir))


class HomeMode:
    """The two daemons. Enter it, `wait_ready`, `wait_end`, and leave it; leaving ends everything."""

    def __init__(self, place: Place, clock: Clock, say: Callable[[str], None]) -> None:
        self._place = place
        self._clock = clock
        self._say = say
        environ = child_environment(os.environ, place.state_dir)
        common = ("--bind", LOOPBACK, "--log-format", "json")

        def child(role: str, *flags: str) -> Child:
            return Child(role, (*flags, *common), folder=place.state_dir, environ=environ, clock=clock, say=say)

        orcds = ("--port", str(place.orcd_port), "--queue-limit", "0", "--drain-timeout-s", str(DRAIN_S))
        self._orcd = child("orcd", *orcds, *place.callers.flags)
        self._poold = child("poold", *pool_flags(place))
        self._leash = os.pipe()
        self._running: list[asyncio.Task[None]] = []
        self.client = OrcdClient(place.orcd_url, connect_timeout_s=1.0)

    def start(self) -> None:
        """Start both daemons and keep them running."""
        self._running = [asyncio.create_task(child.keep_running(self._leash[0])) for child in (self._orcd, self._poold)]

    async def wait_ready(self) -> PoolView:
        """Until orcd answers and the pool is registered; the pool.

        Raises:
            RbeesError: what a daemon that cannot start says, or TIMEOUT.
        """
        looking = asyncio.create_task(self._look_for_pool())
        try:
            # A daemon that fails is heard at once, also while whoever took its port keeps our question unanswered.
            await asyncio.wait({looking, *self._running}, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            self._raise_failure()
            if not looking.done():
                message = (
                    f"The daemons did not get ready within {READY_TIMEOUT_S:.0f} s; their logs are in {self._place.state_dir}."
                )
                raise RbeesError(ErrorCode.TIMEOUT, message, logs=str(self._place.state_dir))
            return looking.result()
        finally:
            looking.cancel()

    async def wait_end(self, stopping: asyncio.Event) -> None:
        """Until `stopping` is set. Raises what a daemon that cannot go on says."""
        told = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({told, *self._running}, return_when=asyncio.FIRST_COMPLETED)
            self._raise_failure()
        finally:
            told.cancel()

    async def unfinished_jobs(self) -> int | None:
        """How many jobs have not ended, as far as one page tells; None where orcd does not answer."""
        try:
            return len((await self.client.jobs("unfinished", limit=MOST_COUNTED)).jobs)
        except RbeesError:
            return None

    async def stop(self, hurry: asyncio.Event) -> int:
        """End everything: orcd drains, then poold ends its workers; `hurry` cuts both short. No process is left.

        Returns how many jobs are kept for the next start.
        """
        left = await self._stop_orcd(hurry)
        await self.client.close()
        await self._poold.stop(STOP_PATIENCE_S, hurry)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await end_workers(self._place.state_dir, self._clock, hurry)
        for descriptor in self._leash:
            os.close(descriptor)
        return left

    async def _stop_orcd(self, hurry: asyncio.Event) -> int:
        """End orcd; how many jobs it left unfinished. Where it was killed and could not write that, what it last answered."""
        left = 0
        ending = asyncio.create_task(self._orcd.stop(STOP_PATIENCE_S, hurry))
        while not ending.done():
            counting = asyncio.create_task(self.unfinished_jobs())
            await asyncio.wait({ending, counting}, return_when=asyncio.FIRST_COMPLETED)
            counting.cancel()
            answers = await asyncio.gather(counting, return_exceptions=True)
            # One that ends is deaf before it is gone; what it said before still holds then.
            left = next((answer for answer in answers if isinstance(answer, int)), left)
            await asyncio.wait({ending}, timeout=COUNT_EVERY_S)
        await ending
        written = await asyncio.to_thread(unfinished_at_end, self._orcd.log_path)
        return left if written is None else written

    async def _look_for_pool(self) -> PoolView:
        while (pool := await self._live_pool()) is None:
            await self._clock.sleep(LOOK_S)
        self._orcd.is_proven = self._poold.is_proven = True
        return pool

    async def _live_pool(self) -> PoolView | None:
        try:
            pools = (await self.client.pools()).pools
        except RbeesError:
            # Nobody, or somebody else who took the port: what is wrong with our own daemon it says itself.
            return None
        return next((pool for pool in pools if pool.state == "live" and pool.endpoint == self._place.poold_url), None)

    def _raise_failure(self) -> None:
        for task in self._running:
            if task.done() and not task.cancelled():
                task.result()


def pool_flags(place: Place) -> tuple[str, ...]:
    """What poold is told beside what both daemons are."""
    # It ends once orcd is gone: what its workers still compute by then nobody reads, so they get no time of their own.
    own = ("--port", str(place.poold_port), "--orcd-url", place.orcd_url, "--stop-workers-on-exit", "--drain-timeout-s", "0")
    dirs = (word for folder in place.model_dirs for word in ("--model-dirs", str(folder)))
    # The daemon's settings folder is this home's; the names that the user has given models are in the user's.
    names = ("--models-file", str(user_config_folder() / USER_CATALOG))
    ctx = () if place.ctx is None else ("--default-ctx", str(place.ctx))
    return (*own, *names, *dirs, *ctx)


def child_environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """What the daemons see of this process's environment: all but rbees' settings and the service manager's variables."""
    kept = {
        name: value
        for name, value in environ.items()
        if (not name.startswith("RBEES_") or name == MODELS_DIR) and name not in _NOT_FOR_CHILDREN
    }
    return {**kept, "RBEES_HOME": str(home)}


def passed_over(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The variables of this process's environment that name settings of the daemons and do not reach them."""
    return tuple(sorted(name for name in environ if name.startswith(("RBEES_ORCD_", "RBEES_POOLD_"))))


class _LastWord(Message, frozen=True, kw_only=True):
    """What the line says that orcd's log ends with; any other line has another action."""

    action: str = ""
    unfinished_jobs: int | None = None


def unfinished_at_end(log: Path) -> int | None:
    """How many jobs orcd left when it ended, by its log; None where it ended without a last word.

    Only the log can tell: a job may end after orcd has answered for the last time.
    """
    for line in reversed(log_tail(log)):
        try:
            said = codec.decode(line, _LastWord)
        except RbeesError:
            continue
        if said.action in {"stopped", "listening"}:
            # A start behind the end belongs to a later process, which wrote no end.
            return said.unfinished_jobs
    return None


async def end_workers(home: Path, clock: Clock, hurry: asyncio.Event, patience_s: float = 3.0) -> None:
    """End the workers of a home whose poold could not: it was killed, or did not finish in time. `hurry`: without asking them."""
    found = await asyncio.to_thread(_workers_of, home)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if number is signal.SIGTERM and hurry.is_set():
            continue
        alive = [identity for identity in found if process.send_signal(identity, number)]
        until = clock.monotonic() + patience_s
        while any(process.is_running(identity) for identity in alive) and clock.monotonic() < until:
            if number is signal.SIGTERM and hurry.is_set():
                break
            await clock.sleep(LOOK_S)


def _workers_of(home: Path) -> list[process.Identity]:
    """The home's workers: by its process table, and by the mark on their command lines where poold ended before it noted which
    process it had started."""
    records = ProcessTable(home / "poold" / "workers").load()
    noted = {process.Identity(one.pid, one.started) for one in records if one.pid is not None and one.started is not None}
    marked = {who for owner in {owner_of(one.spec.nonce) for one in records} for who, _ in process.WorkerFinder(owner).look()}
    return list(noted | marked)
