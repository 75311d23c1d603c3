"""orcd as a whole: puts the parts together, takes up where the last process ended, serves, drains."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from rbees import __version__
from rbees.orcd.api import anthropic as anthropic_routes
from rbees.orcd.api import batches as batch_routes
from rbees.orcd.api import database as database_routes
from rbees.orcd.api import files as file_routes
from rbees.orcd.api import internal as internal_routes
from rbees.orcd.api import jobs as job_routes
from rbees.orcd.api import ollama as ollama_routes
from rbees.orcd.api import openai as openai_routes
from rbees.orcd.api import pools as pool_routes
from rbees.orcd.api import responses as response_routes
from rbees.orcd.api import status as status_routes
from rbees.orcd.batches.batches import Batches
from rbees.orcd.batches.files import Files
from rbees.orcd.crew import Crew
from rbees.orcd.directory import Directory
from rbees.orcd.door.runs import Runs
from rbees.orcd.event_log import EventLog, open_log
from rbees.orcd.executor import LiveExecutor
from rbees.orcd.figures import Figures
from rbees.orcd.jobs import Jobs
from rbees.orcd.journal import Journal
from rbees.orcd.kept_responses import KeptResponses
from rbees.orcd.learning import Keeper, recall
from rbees.orcd.loop import SchedulerLoop
from rbees.orcd.plugin import GuardedPlugin
from rbees.orcd.plugin import load as load_plugin
from rbees.orcd.pools import Pools, url_seen_from
from rbees.orcd.prefixes import PrefixWatch
from rbees.orcd.recovery import recover
from rbees.orcd.relay import Relay
from rbees.orcd.retention import Retention
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.events import DrainBegan, Event
from rbees.orcd.scheduler.learned import Learned
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.stalls import Stalls
from rbees.orcd.state_files import DATABASE, EVENTS, FILES, LOCK
from rbees.orcd.store import queries
from rbees.orcd.store.batches import BatchStore
from rbees.orcd.store.jobs import JobStore
from rbees.orcd.store.migrations import packaged
from rbees.orcd.store.responses import ResponseStore
from rbees.orcd.store.sqlite import Database, StorageBroken
from rbees.orcd.watch import Watch
from rbees.protocol.errors import ExitCode
from rbees.service import auth, folders, logs, web
from rbees.service.catalog import downloadable, load_catalog
from rbees.service.clock import Clock, SystemClock
from rbees.service.lock import ProcessLock, check_not_held
from rbees.service.metrics import Metrics
from rbees.service.notify import Notifier
from rbees.service.role_settings import OrcdSettings

DRAIN_LOOK_S: Final = 0.05
LAST_ANSWERS_S: Final = 5.0
"""For requests that are still being answered once every job has been dealt with."""


@dataclass(frozen=True, slots=True)
class Security:
    """What the settings say about who may call and how others are called."""

    authenticator: web.Authenticator
    server_tls: ssl.SSLContext | None
    client_tls: ssl.SSLContext | None
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Stores:
    """Where what outlives this process is kept: tables of one database, and files beside it."""

    jobs: JobStore
    responses: ResponseStore
    batches: BatchStore
    files: Files


async def serve(settings: OrcdSettings, stopping: asyncio.Event) -> int:
    """Run orcd until `stopping` is set; returns the exit code.

    Raises RbeesError: CONFIGURATION, ALREADY_RUNNING, ADDRESS_IN_USE, STORAGE_FULL.
    """
    security = _security(settings)
    # A start that fails leaves nothing behind.
    check_not_held(folders.state_path("orcd", settings.state_dir) / LOCK)
    await web.check_can_listen(settings.bind, settings.port)
    folder = folders.state_folder("orcd", settings.state_dir)
    async with AsyncExitStack() as stack:
        lock = stack.enter_context(ProcessLock(folder / LOCK))
        try:
            database = await Database.open(folder / DATABASE, packaged(), _leave)
        except StorageBroken as error:
            _leave(error)
        stack.push_async_callback(database.close)
        crew = Crew()
        clock = SystemClock()
        stores = _stores(database, folder, clock, settings.max_file_bytes)
        policy, learned = policy_of(settings), await recall(stores.jobs)
        event_log = open_log(folder / EVENTS, policy, settings.event_log_bytes, clock.unix_ms(), settings.policy_plugin, learned)
        if event_log is not None:
            stack.callback(event_log.close)
        orcd = Orcd(settings, security, stores, clock, crew, policy, learned, event_log)
        stack.push_async_callback(orcd.close)
        await orcd.start()
        lock.describe(f"at {orcd.server.url}")
        await _either(stopping, crew.failed)
        if crew.failed.is_set():
            return ExitCode.FAILED
        await orcd.drain()
        return ExitCode.OK


class Orcd:
    """The parts. `start`, then `drain`, then `close`."""

    def __init__(
        self,
        settings: OrcdSettings,
        security: Security,
        stores: Stores,
        clock: Clock,
        crew: Crew,
        policy: Policy,
        learned: Learned,
        event_log: EventLog | None,
    ) -> None:
        self._settings = settings
        self._store = store = stores.jobs
        self._files = stores.files
        self._clock = clock
        self._crew = crew
        self._log = logs.logger()
        self._notifier = Notifier()
        metrics = Metrics("orcd")
        figures = Figures(metrics)
        self._policy = policy
        plugin = None
        if settings.policy_plugin is not None:
            name = settings.policy_plugin
            plugin = GuardedPlugin(name, load_plugin(name), settings.policy_limit_ms / 1000)
        scheduler = Scheduler(self._policy, plugin, learned)
        self._relay = Relay(store, figures)
        self._directory = Directory(token=security.token, tls=security.client_tls)
        self._journal = Journal(store, clock, figures, self._relay.publish)
        figures.watch_counts(self._journal.counts)
        figures.watch_estimates(scheduler.estimate_quantile)
        stalls = Stalls(clock.monotonic)
        self._executor = LiveExecutor(
            self._journal,
            store,
            self._directory,
            clock,
            crew,
            self._post,
            PrefixWatch(self._directory, clock, crew, self._post).attempt_ended,
            stalls,
            hang_after_s=settings.hang_after_s,
        )
        self._loop = SchedulerLoop(scheduler, self._executor, clock, figures, stalls, event_log=event_log)
        self._pools = Pools(scheduler, self._directory, store, clock, crew, self._post, settings.heartbeat_interval_s)
        self._jobs = Jobs(self._journal, store, scheduler, self._relay, clock, crew, self._post, settings.queue_limit, plugin)
        self._watch = Watch(scheduler, self._directory, self._journal, clock, __version__, self._problem)
        figures.watch_watchers(lambda: self._watch.watchers)
        self._keeper = Keeper(scheduler, store, clock)
        self._retention = Retention(
            store, clock, retention_days=settings.retention_days, erase_content_after_s=settings.erase_content_after_s
        )
        runs = Runs(self._jobs, self._relay, crew, self._pools.reference_of)
        kept = KeptResponses(stores.responses, store, self._jobs, runs)
        self._batches = Batches(
            stores.batches, stores.files, runs, crew, clock, queue_limit=settings.queue_limit, line_limit=settings.max_body_bytes
        )
        app = web.build_app(
            role="orcd",
            version=__version__,
            routes=[
                *job_routes.routes(self._jobs, self._relay),
                *pool_routes.routes(self._pools, self._own_url),
                *status_routes.routes(self._watch),
                *openai_routes.routes(runs, self._pools),
                *response_routes.routes(runs, kept, self._pools),
                *file_routes.routes(stores.files),
                *batch_routes.routes(self._batches),
                *ollama_routes.routes(runs, self._pools, clock),
                *anthropic_routes.routes(runs, self._pools),
                *internal_routes.routes(self._pools),
                *database_routes.routes(store),
            ],
            authenticator=security.authenticator,
            metrics=metrics,
            readiness=self._readiness,
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=settings.allowed_origins,
            max_body_bytes=settings.max_body_bytes,
            bind=settings.bind,
        )
        self.server = web.Server(
            app, bind=settings.bind, port=settings.port, ssl=security.server_tls, drain_timeout_s=LAST_ANSWERS_S
        )

    async def start(self) -> None:
        """Take up what is unfinished and listen. Raises RbeesError ADDRESS_IN_USE, CONFIGURATION."""
        for endpoint in self._settings.pools:
            self._directory.pool_client(endpoint)  # A name that cannot be called is told now and not tried for ever.
        number = await self._store.next_number()
        self._journal.begin_at(number)
        await self._pools.recall_drained()
        await self._files.clean()
        recovered = await recover(self._store, self._journal, self._loop.post)
        named = {*self._settings.pools, *(place.endpoint for place in await self._store.named_endpoints())}
        if number > 1 or named:
            self._jobs.settled_at_s = self._clock.monotonic() + self._policy.settle_s
        await self.server.start()
        for work, name in (
            (self._journal.run(), "journal"),
            (self._loop.run(), "loop"),
            (self._loop.tick(), "tick"),
            (self._executor.watch(), "watch"),
            (self._retention.run(), "retention"),
            (self._keeper.run(), "learning"),
            (self._notifier.watchdog(self._clock), "watchdog"),
        ):
            self._crew.start(work, name)
        self._jobs.expect_watchers()
        unended_batches = await self._batches.start()
        for endpoint in sorted(named):
            self._pools.start_calling(endpoint, self._own_url)
        self._notifier.ready()
        self._log.info("listening", action="listening", url=self.server.url, recovered_jobs=recovered, batches=unended_batches)

    async def drain(self) -> None:
        """Take nothing new; let what runs finish within the drain timeout. What is left is durable and goes on after a restart."""
        self._notifier.stopping()
        self._jobs.draining = True
        self._loop.post(DrainBegan())
        until_s = self._clock.monotonic() + self._settings.drain_timeout_s
        # What came in before the drain may still be dispatched and is then let finish as well.
        while (self._loop.has_work or self._executor.running) and self._clock.monotonic() < until_s:
            await self._clock.sleep(DRAIN_LOOK_S)
        # An attempt is over when its last event is taken, which is before that is durable and before anybody was sent it.
        await self._commit_the_rest()
        self._log.info("drained", action="drained", left_running=self._executor.running)

    async def close(self) -> None:
        """End streams, answer the last requests, commit what is left to commit, and let go of everything."""
        self._relay.close()
        self._watch.close()
        await self.server.stop()
        if not self._crew.failed.is_set():
            await self._commit_the_rest()
            await self._keeper.save()
        await self._crew.dismiss()
        await self._directory.close()
        self._log.info("stopped", action="stopped", unfinished_jobs=len(self._journal.live))

    async def _commit_the_rest(self) -> None:
        try:
            async with asyncio.timeout(LAST_ANSWERS_S):
                await self._journal.drained()
        except TimeoutError:
            # The disk is full. Nobody was told of what is given up here, and workers keep what was not acknowledged.
            self._log.error("not everything could be written", action="journal_given_up")

    def _post(self, event: Event) -> None:
        self._loop.post(event)

    async def _own_url(self, endpoint: str) -> str:
        return await asyncio.to_thread(url_seen_from, endpoint, self.server.url, self._settings.bind)

    def _problem(self) -> str | None:
        return next((problem for problem in self._readiness().values() if problem is not None), None)

    def _readiness(self) -> dict[str, str | None]:
        return {
            "accepting": "It is shutting down." if self._jobs.draining else None,
            "storage": "The disk under the state folder is full." if self._journal.full else None,
        }


def _stores(database: Database, folder: Path, clock: Clock, max_file_bytes: int) -> Stores:
    named = queries.load()
    batches = BatchStore(database, named)
    files = Files(folders.make_private_folder(folder / FILES), batches, clock, max_file_bytes)
    return Stores(JobStore(database, named), ResponseStore(database, named), batches, files)


def _security(settings: OrcdSettings) -> Security:
    token = auth.read_token(settings.token_file) if settings.token_file else None
    server_tls = auth.tls_server_context(settings.tls_cert_file, settings.tls_key_file)
    auth.check_bind(settings.bind, token, server_tls, settings.insecure_lan)
    return Security(
        authenticator=web.BearerAuth(token) if token else web.NoAuth(),
        server_tls=server_tls,
        client_tls=auth.tls_client_context(settings.tls_ca_file),
        token=auth.read_secret(settings.token_file) if settings.token_file else None,
    )


def policy_of(settings: OrcdSettings) -> Policy:
    """The scheduler's figures, as far as settings name them."""
    return Policy(
        suspect_after_s=settings.suspect_after_s,
        lost_after_s=settings.lost_after_s,
        retries=settings.retries,
        retry_first_delay_s=settings.retry_first_delay_s,
        worker_idle_s=settings.worker_idle_s,
        replica_idle_s=settings.replica_idle_s,
        pinned_models=frozenset(settings.pinned_models),
        downloadable=frozenset(downloadable(load_catalog())),
    )


def _leave(error: StorageBroken) -> NoReturn:
    """End the process at once: closing the database in order would write to a disk whose contents are unknown."""
    advice = "the state cannot be written or read; try `rbees orcd db check`, and see docs/backup.md where it is damaged"
    logs.logger().critical(advice, action="storage_broken", error=str(error))
    sys.stderr.flush()
    os._exit(ExitCode.IO_ERROR)


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
