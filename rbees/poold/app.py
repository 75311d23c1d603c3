"""The pool daemon's process: everything put together, started in order, ended in order.

It listens before it looks for workers of an earlier daemon, so that a taken port ends it before it has touched anything.
On SIGTERM the workers stay: whoever restarts the daemon must not interrupt work.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rbees import __version__
from rbees.clients.orcd import OrcdClient
from rbees.host import workers_here
from rbees.host.backends import Installation
from rbees.host.devices import DeviceMonitor, sources_of_this_host
from rbees.host.lan_access import Access
from rbees.host.lending import Lending
from rbees.host.model_download import Capacity
from rbees.host.models_here import model_store
from rbees.host.piece_sums import FOLDER, PieceSums
from rbees.host.workers import Supervisor
from rbees.host.workers_here import public_host
from rbees.poold.downloads import Downloads
from rbees.poold.heartbeat import Member, OrcdLink, PoolFacts
from rbees.poold.pool import ORCD_URL_FILE, Pool
from rbees.poold.routes import routes
from rbees.poold.sharing import Sharing
from rbees.protocol import ids
from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.service import auth, folders, logs
from rbees.service.clock import Clock, SystemClock
from rbees.service.daemon import run_daemon
from rbees.service.identity import Identities
from rbees.service.lock import ProcessLock, check_not_held
from rbees.service.metrics import Metrics
from rbees.service.notify import Notifier
from rbees.service.role_settings import PooldSettings
from rbees.service.settings import load_hosts
from rbees.service.web import BearerAuth, NoAuth, Server, build_app, check_can_listen

_NOT_IN_POOL_ID: Final = re.compile(r"[^A-Za-z0-9.-]+")


def serve(settings: PooldSettings, stop_workers_on_exit: bool) -> int:
    """Run the daemon until it is told to stop; its exit code.

    Raises:
        RbeesError: CONFIGURATION, ADDRESS_IN_USE, ALREADY_RUNNING.
    """
    # All that the daemon writes is for its user alone, whatever library writes it.
    os.umask(0o077)

    async def main(stopping: asyncio.Event) -> int:
        # A start that fails leaves nothing behind.
        check_not_held(folders.state_path("poold", settings.state_dir) / "lock")
        await check_can_listen(settings.bind, settings.port)
        state = folders.state_folder("poold", settings.state_dir)
        with contextlib.ExitStack() as held:
            try:
                lock = held.enter_context(ProcessLock(state / "lock"))
            except OSError as error:
                raise _unusable(state, error) from None
            return await Daemon(settings, state, lock, SystemClock()).run(stopping, stop_workers_on_exit)

    return run_daemon(main)


class Daemon:
    """One run of the pool daemon."""

    def __init__(self, settings: PooldSettings, state: Path, lock: ProcessLock, clock: Clock) -> None:
        self._settings = settings
        self._state = state
        self._lock = lock
        self._clock = clock
        self._identities = Identities(clock)
        self._token = auth.read_secret(settings.token_file) if settings.token_file else None
        self._client_tls = auth.tls_client_context(settings.tls_ca_file)
        self._hosts = tuple(host.values for host in load_hosts().values())
        self._monitor = DeviceMonitor(sources_of_this_host(), clock)
        self._installation = Installation()
        self._store = model_store(settings, state, os.environ)
        self._lending = Lending(self._store, PieceSums(state / FOLDER))
        self._member = Member(_pool_id(settings), self._endpoint, self._identities.correlation_id(), settings.default_ctx)
        self._pool = Pool(
            self._member,
            self._monitor,
            self._store,
            self._installation,
            state,
            settings.orcd_url,
            self._make_supervisor,
            self._make_downloads,
            Sharing(self._lending),
            self._make_link,
        )
        self._server = self._make_server()

    async def run(self, stopping: asyncio.Event, stop_workers_on_exit: bool) -> int:
        """Serve until `stopping`; then leave the workers running, or drain and end them all."""
        notifier, loop = Notifier(), asyncio.get_running_loop()
        self._store.on_change = functools.partial(loop.call_soon_threadsafe, self._pool.link.hurry)
        await self._server.start()
        self._lock.describe(f"at {self._server.url}")
        self._monitor.start()
        background: list[asyncio.Task[None]] = [asyncio.create_task(notifier.watchdog(self._clock))]
        try:
            await self._take_stock()
            background.append(asyncio.create_task(self._pool.keep_searching(self._clock)))
            background.append(asyncio.create_task(self._pool.supervisor.keep_logs_short(self._clock)))
            background.append(asyncio.create_task(self._pool.supervisor.keep_clean(self._clock)))
            background.append(asyncio.create_task(self._pool.link.run()))
            logs.logger().info("serving", action="daemon_ready", url=self._server.url, pool_id=self._member.pool_id)
            notifier.ready()
            await _first_of(stopping, background)
            notifier.stopping()
            if stop_workers_on_exit:
                await self._pool.supervisor.stop_all()
        finally:
            self._store.close()
            self._monitor.stop()
            self._pool.supervisor.leave()
            self._pool.downloads.leave()
            self._pool.sharing.leave()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self._server.stop()
            _tell_who_stays(await self._pool.supervisor.detach())
        return ExitCode.OK

    async def _take_stock(self) -> None:
        """Know devices, models and running workers before anyone is told about this pool."""
        await asyncio.gather(self._monitor.wait_first(), asyncio.to_thread(self._store.refresh), self._pool.supervisor.adopt())

    def _make_server(self) -> Server:
        settings = self._settings
        tls = auth.tls_server_context(settings.tls_cert_file, settings.tls_key_file)
        token = auth.Token(self._token) if self._token else None
        auth.check_bind(settings.bind, token, tls, settings.insecure_lan)
        public = public_host(settings)
        app = build_app(
            role="poold",
            version=__version__,
            routes=routes(self._pool),
            authenticator=BearerAuth(token) if token else NoAuth(),
            metrics=_metrics(self._pool),
            readiness=self._pool.checks,
            allowed_hosts=(*settings.allowed_hosts, *([public] if public else [])),
            allowed_origins=settings.allowed_origins,
            max_body_bytes=settings.max_body_bytes,
            bind=settings.bind,
        )
        return Server(app, bind=settings.bind, port=settings.port, ssl=tls, drain_timeout_s=settings.drain_timeout_s)

    def _make_link(self, facts: PoolFacts) -> OrcdLink:
        url = self._settings.orcd_url
        if url is not None:
            self._connect(url)  # Only to refuse one that nobody can call before anything has started.
        return OrcdLink(
            self._member,
            facts,
            self._connect,
            self._clock,
            url or self._remembered_url(),
            callers_are_known=self._token is not None,
        )

    def _remembered_url(self) -> str | None:
        """Whom the pool belonged to before a restart; a damaged note is as good as none."""
        try:
            url = (self._state / ORCD_URL_FILE).read_text(encoding="utf-8").strip()
            self._connect(url)
        except (OSError, UnicodeDecodeError, RbeesError):
            return None
        return url

    def _connect(self, url: str) -> OrcdClient:
        return OrcdClient(url, token=self._token, ssl=self._client_tls, role="poold")

    def _make_supervisor(self, pool: Pool) -> Supervisor:
        return Supervisor(
            workers_here.policy(self._settings, self._state, self._callback_url),
            self._store,
            pool.devices,
            self._installation,
            self._identities.worker_id,
            workers_here.surroundings(self._settings, self._state, pool, self._identities, self._clock),
        )

    def _make_downloads(self, pool: Pool) -> Downloads:
        def capacity() -> Capacity:
            settings = self._settings
            return Capacity(pool.supervisor.rooms(), self._installation.problems, settings.default_ctx, settings.default_slots)

        async def tell() -> None:
            await pool.link.told()

        return Downloads(self._store, self._lending, capacity, self._access, pool.workers, tell, self._clock)

    def _access(self) -> Access:
        """How this pool calls others."""
        settings = self._settings
        return Access(self._token, settings.tls_ca_file, settings.insecure_lan, self._endpoint().rstrip("/"), self._hosts)

    def _endpoint(self) -> str:
        """Where the orchestrator reaches this daemon."""
        if self._settings.endpoint is not None:
            return self._settings.endpoint
        host = public_host(self._settings)
        if host is None:
            return self._server.url
        scheme = urlsplit(self._server.url).scheme
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._server.port}"

    def _callback_url(self) -> str:
        """Where this host's workers reach it: under the certificate's name if there is one."""
        return self._endpoint() if self._settings.tls_cert_file else self._server.url


async def _first_of(stopping: asyncio.Event, background: list[asyncio.Task[None]]) -> None:
    """Until the daemon is to stop. A background task that ends by a defect ends the daemon with it."""
    told = asyncio.create_task(stopping.wait())
    try:
        while not told.done():
            done, _ = await asyncio.wait(
                [told, *(task for task in background if not task.done())], return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
    finally:
        told.cancel()


def _tell_who_stays(workers: int) -> None:
    """Workers outlive the daemon. Commands look after them meanwhile, if the settings and not flags said where their folder is."""
    if workers:
        advice = (
            "to end them, use `rbees-pool worker list` and `rbees-pool worker stop`, "
            "or run `rbees poold serve --stop-workers-on-exit` with the same settings and stop it"
        )
        logs.logger().info(f"workers stay for the next pool daemon; {advice}", action="workers_stay", workers=workers)


def _metrics(pool: Pool) -> Metrics:
    metrics = Metrics("poold")
    workers = metrics.gauge("pool_workers", "Workers with a process, by state.", ("state",))
    for state in ("starting", "loading", "ready", "draining"):
        workers.labels(state).set_function(
            lambda state=state: sum(facts.state == state for facts in pool.workers())  # type: ignore[misc]
        )
    metrics.gauge("pool_models", "Models that can be served.").set_function(lambda: len(pool.models()))
    metrics.gauge("pool_registered", "1 while an orchestrator knows this pool.").set_function(lambda: int(pool.link.registered))
    return metrics


def _pool_id(settings: PooldSettings) -> str:
    if settings.pool_id is not None:
        if not ids.is_pool_id(settings.pool_id):
            raise RbeesError(
                ErrorCode.CONFIGURATION, "`pool_id` must look like a host name: up to 63 letters, digits, dots and dashes."
            )
        return settings.pool_id
    made = _NOT_IN_POOL_ID.sub("-", socket.gethostname().partition(".")[0])[:63].strip("-.")
    return made or "pool"


def _unusable(state: Path, error: OSError) -> RbeesError:
    reason = os.strerror(error.errno or 0)
    return RbeesError(
        ErrorCode.CONFIGURATION,
        f"The state folder {state} cannot be written: {reason}; mend it or name another with `--state-dir`.",
    )
