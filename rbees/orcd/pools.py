"""Pools as orcd deals with them: they register, report and are forgotten; operators name them and have them start workers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from rbees.clients.http import is_base_url
from rbees.clients.workerd import WorkerClient
from rbees.orcd.crew import Crew
from rbees.orcd.directory import Directory
from rbees.orcd.door.model_names import Found, find, taken_apart
from rbees.orcd.model_downloads import ModelDownloads
from rbees.orcd.scheduler.core import PoolFacts, Scheduler
from rbees.orcd.scheduler.events import (
    Event,
    LetGoAsked,
    PoolDrainChanged,
    PoolForgotten,
    PoolReported,
    WorkerBecameReady,
    WorkerEnded,
)
from rbees.orcd.store.jobs import JobStore, NamedEndpoint
from rbees.orcd.turnstile import Turnstile
from rbees.protocol import ids
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.pools import (
    Heartbeat,
    ModelFacts,
    ModelView,
    PoolView,
    RegisterAnswer,
    RegisterRequest,
    SpawnAnswer,
    SpawnRequest,
    WorkerFacts,
    WorkerFailedReport,
    WorkerReadyReport,
)
from rbees.service import logs
from rbees.service.clock import Clock

FIRST_REDIAL_S: Final = 0.5
LONGEST_REDIAL_S: Final = 30.0

OwnUrl = Callable[[str], Awaitable[str]]
"""This daemon's url as the host behind an endpoint can reach it; finding that out may ask a resolver."""


class Pools:
    """What the routes about pools, workers and models do."""

    def __init__(
        self,
        scheduler: Scheduler,
        directory: Directory,
        store: JobStore,
        clock: Clock,
        crew: Crew,
        post: Callable[[Event], None],
        heartbeat_interval_s: float,
    ) -> None:
        self._scheduler = scheduler
        self._directory = directory
        self._store = store
        self._clock = clock
        self._crew = crew
        self._post = post
        self._heartbeat_interval_ms = round(heartbeat_interval_s * 1000)
        self._turnstile = Turnstile(clock)
        self.downloads = ModelDownloads(directory, self.views)
        self._log = logs.logger()
        self._calling: dict[str, asyncio.Task[None]] = {}

    # ---- what pools say ------------------------------------------------------------------------------------------------

    def register(self, request: RegisterRequest) -> RegisterAnswer:
        """Take in a pool that called.

        Raises RbeesError POOL_ID_TAKEN where another live pool has this id, INVALID_REQUEST where it cannot be an id, QUEUE_FULL
        where so many come at once that it must come back.
        """
        wait_s = self._turnstile.wait_s(request.pool_id)
        if wait_s > 0.0:
            message = f"Many pools come at once; register again in {wait_s:.2f} s."
            raise RbeesError(ErrorCode.QUEUE_FULL, message, retry_after_s=round(wait_s, 3))
        return self._take_in(request)

    def _take_in(self, request: RegisterRequest, dial: str | None = None) -> RegisterAnswer:
        """`dial` is the endpoint that an operator named for it, where one did."""
        self._check_identity(request)
        self._directory.put_pool(
            request.pool_id, endpoint=request.endpoint, dial=dial, version=request.version, boot_id=request.boot_id
        )
        for ready in request.ready:
            if self._may_speak_of(ready.worker_id, request.pool_id):
                self._directory.put_worker(request.pool_id, ready)
        self._directory.keep_workers(request.pool_id, _present(request.workers) | {ready.worker_id for ready in request.ready})
        self._log.info("pool registered", action="pool_register", pool_id=request.pool_id, workers=len(request.workers))
        self._post(_reported(request.pool_id, request, registration=True))
        return RegisterAnswer(heartbeat_interval_ms=self._heartbeat_interval_ms)

    def heartbeat(self, pool_id: str, beat: Heartbeat) -> None:
        """Take a pool's report over, unless a later one of the same boot has overtaken it.

        Raises RbeesError POOL_NOT_FOUND, which asks the pool to register: it is unknown, has another boot id, or has a ready
        worker whose secret never arrived.
        """
        address = self._directory.find_pool(pool_id)
        if address is None or address.boot_id != beat.boot_id:
            raise RbeesError(ErrorCode.POOL_NOT_FOUND, "This pool is not registered; register first.", pool_id=pool_id)
        if beat.seq < address.last_seq:
            self._log.info("a heartbeat came late", action="heartbeat_late", pool_id=pool_id, seq=beat.seq, last=address.last_seq)
            return
        address.last_seq, address.clock_ahead_ms = beat.seq, beat.sent_at_ms - self._clock.unix_ms()
        self._directory.keep_workers(pool_id, _present(beat.workers))
        self._post(_reported(pool_id, beat, registration=False))
        if any(worker.state == "ready" and not self._directory.has_worker(worker.worker_id) for worker in beat.workers):
            raise RbeesError(ErrorCode.POOL_NOT_FOUND, "A ready worker has not introduced itself; register again.", pool_id=pool_id)

    def worker_ready(self, report: WorkerReadyReport) -> None:
        """A worker has loaded its model. Raises RbeesError POOL_NOT_FOUND, INVALID_REQUEST."""
        self._directory.pool(report.pool_id)
        _check_url(report.ready.uri, "ready.uri")
        self._check_owner(report.ready.worker_id, report.pool_id)
        self._check_owner(report.facts.worker_id, report.pool_id)
        self._directory.put_worker(report.pool_id, report.ready)
        self._log.info("worker ready", action="worker_ready", pool_id=report.pool_id, worker_id=report.ready.worker_id)
        self._post(WorkerBecameReady(report.pool_id, report.facts))

    def worker_failed(self, report: WorkerFailedReport) -> None:
        """A worker ended without being asked to. Raises RbeesError POOL_NOT_FOUND, INVALID_REQUEST where it is another pool's."""
        self._directory.pool(report.pool_id)
        self._check_owner(report.worker_id, report.pool_id)
        self._directory.drop_worker(report.worker_id)
        self._log.warning(
            "worker ended",
            action="worker_failed",
            pool_id=report.pool_id,
            worker_id=report.worker_id,
            code=report.code,
            exit_code=report.exit_code,
            signal=report.signal,
            while_loading=report.while_loading,
        )
        details = {"exit_code": report.exit_code, "signal": report.signal, "worker_id": report.worker_id}
        error = ErrorBody(code=report.code, message=report.message, details=details)
        self._post(WorkerEnded(report.pool_id, report.worker_id, error, report.while_loading))

    def _check_identity(self, request: RegisterRequest) -> None:
        if not ids.is_pool_id(request.pool_id):
            message = "`pool_id` must look like a host name: letters, digits, `-` and `.`, at most 63."
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="pool_id")
        _check_url(request.endpoint, "endpoint")
        for ready in request.ready:
            _check_url(ready.uri, "ready.uri")
        known = self._directory.find_pool(request.pool_id)
        if known is None or known.endpoint == request.endpoint or known.boot_id == request.boot_id:
            return
        facts = self._facts(request.pool_id)
        if facts is not None and facts.state == "live":
            message = f"A live pool at {known.endpoint} already uses the id `{request.pool_id}`; give this one another `pool_id`."
            raise RbeesError(ErrorCode.POOL_ID_TAKEN, message, pool_id=request.pool_id)

    def _check_owner(self, worker_id: str, pool_id: str) -> None:
        if not self._may_speak_of(worker_id, pool_id):
            message = f"Worker `{worker_id}` belongs to another pool."
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, worker_id=worker_id)

    def _may_speak_of(self, worker_id: str, pool_id: str) -> bool:
        """True where the worker is unknown, the pool's own, or of a lost pool, whose host may have come back under another name."""
        owner = self._directory.owner(worker_id) or self._scheduler.pool_of(worker_id)
        if owner in {None, pool_id}:
            return True
        facts = self._facts(owner)
        if facts is None or facts.state == "lost":
            return True
        self._log.warning(
            "a pool speaks of another pool's worker", action="worker_not_owned", pool_id=pool_id, worker_id=worker_id, owner=owner
        )
        return False

    # ---- what operators ask --------------------------------------------------------------------------------------------

    async def add(self, endpoint: str, own_url: OwnUrl) -> PoolView:
        """Call the pool at `endpoint`, take it in and remember the endpoint.

        Raises RbeesError INVALID_REQUEST where it can be no endpoint, POOL_UNREACHABLE, POOL_ID_TAKEN, or what the pool answers.
        """
        _check_url(endpoint, "endpoint")
        registration = await self._call(endpoint, own_url)
        await self._store.name_endpoint(NamedEndpoint(endpoint, registration.pool_id), self._clock.unix_ms())
        return PoolView(
            pool_id=registration.pool_id,
            endpoint=endpoint,
            state="live",
            version=registration.version,
            last_heartbeat_age_ms=0,
            devices=registration.devices,
            models=registration.models,
            workers=registration.workers,
        )

    def start_calling(self, endpoint: str, own_url: OwnUrl) -> None:
        """Call a pool that an operator named before, until it answers or is forgotten."""
        self._calling[endpoint] = self._crew.start(self._keep_calling(endpoint, own_url), "call_pool")

    async def _keep_calling(self, endpoint: str, own_url: OwnUrl) -> None:
        pause_s = FIRST_REDIAL_S
        while True:
            try:
                await self._call(endpoint, own_url)
            except RbeesError as error:
                self._log.info("named pool not taken in yet", action="pool_call", endpoint=endpoint, code=error.code)
                await self._clock.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_REDIAL_S)
            else:
                return

    async def forget(self, pool_id: str) -> None:
        """Forget a pool, also one that was named and has not answered yet, and go on without it. Raises POOL_NOT_FOUND."""
        for endpoint in await self._check_known(pool_id):
            if endpoint in self._calling:
                self._calling.pop(endpoint).cancel()
        await self._store.forget_endpoints(pool_id)
        await self._store.resume_pool(pool_id)
        address = self._directory.find_pool(pool_id)
        if address is not None:
            try:
                await address.client.dismiss()
            except RbeesError as error:
                # It is away, or its settings name this orchestrator: then it registers again, which nobody forbids it.
                self._log.info("forgotten pool not told", action="pool_dismiss", pool_id=pool_id, code=error.code)
        if self._directory.find_pool(pool_id) is not None:
            self._directory.drop_pool(pool_id)
            self._post(PoolForgotten(pool_id))
        else:
            self._post(PoolDrainChanged(pool_id, drains=False))

    async def drain(self, pool_id: str) -> None:
        """Give the pool no new work until it is resumed, also after a restart. Raises POOL_NOT_FOUND."""
        await self._check_known(pool_id)
        await self._store.drain_pool(pool_id, self._clock.unix_ms())
        self._log.info("pool drains", action="pool_drain", pool_id=pool_id)
        self._post(PoolDrainChanged(pool_id, drains=True))

    async def resume(self, pool_id: str) -> None:
        """Give the pool work again. Raises POOL_NOT_FOUND."""
        await self._check_known(pool_id)
        await self._store.resume_pool(pool_id)
        self._log.info("pool takes work again", action="pool_resume", pool_id=pool_id)
        self._post(PoolDrainChanged(pool_id, drains=False))

    async def recall_drained(self) -> None:
        """Tell the scheduler what operators told an earlier process."""
        for pool_id in await self._store.drained_pools():
            self._post(PoolDrainChanged(pool_id, drains=True))

    async def _check_known(self, pool_id: str) -> list[str]:
        """The endpoints that an operator named for the pool. Raises POOL_NOT_FOUND where there is none and it never registered."""
        named = [place.endpoint for place in await self._store.named_endpoints() if place.pool_id == pool_id]
        if not named:
            self._directory.pool(pool_id)
        return named

    async def spawn(self, pool_id: str, request: SpawnRequest) -> SpawnAnswer:
        """Have a pool start a worker. Raises RbeesError POOL_NOT_FOUND, or what the pool answers."""
        return await self._directory.pool(pool_id).client.spawn(request)

    async def stop_worker(self, worker_id: str) -> None:
        """Have a worker stopped by its pool. Raises RbeesError WORKER_NOT_FOUND, or what the pool answers."""
        pool_id = self._scheduler.pool_of(worker_id)
        if pool_id is None:
            message = f"No worker `{worker_id}` is known; list them with `GET /v2/workers`."
            raise RbeesError(ErrorCode.WORKER_NOT_FOUND, message, worker_id=worker_id)
        await self._directory.pool(pool_id).client.stop_worker(worker_id, "the orchestrator: somebody told it to.")

    def let_go(self, model_sha256: str) -> None:
        """Have a model unloaded as soon as it has nothing to do."""
        self._post(LetGoAsked(model_sha256))

    async def remove_model(self, reference: str) -> None:
        """Have every pool that holds a model remove its files.

        Raises RbeesError as `find_model`, or what the first pool answers that does not: DEVICE_BUSY where a worker serves it.
        """
        sha256 = self.find_model(reference).facts.sha256
        # Each pool has its own name for the same bytes.
        held = [(pool.pool_id, facts.ref) for pool in self._all_facts() for facts in pool.models if facts.sha256 == sha256]
        for pool_id, own_reference in held:
            await self._directory.pool(pool_id).client.remove_model(own_reference)

    async def _call(self, endpoint: str, own_url: OwnUrl) -> RegisterRequest:
        registration = await self._directory.pool_client(endpoint).announce(await own_url(endpoint))
        self._take_in(registration, dial=endpoint)
        return registration

    # ---- what there is -------------------------------------------------------------------------------------------------

    def views(self) -> tuple[PoolView, ...]:
        """Every registered pool."""
        return tuple(view for facts in self._all_facts() if (view := self._view(facts)) is not None)

    def view(self, pool_id: str) -> PoolView:
        """One pool. Raises RbeesError POOL_NOT_FOUND."""
        self._directory.pool(pool_id)
        facts = self._facts(pool_id)
        view = self._view(facts) if facts is not None else None
        if view is None:
            raise RbeesError(ErrorCode.POOL_NOT_FOUND, f"Pool `{pool_id}` is just being taken in.", pool_id=pool_id)
        return view

    def workers(self) -> tuple[WorkerFacts, ...]:
        """Every worker that a pool has reported."""
        return self._scheduler.workers()

    def models(self) -> tuple[ModelView, ...]:
        """Every model that some pool holds."""
        return tuple(
            ModelView(facts=facts, pools=pools, ready_workers=ready, served_ctx=ctx)
            for facts, pools, ready, ctx in self._scheduler.models()
        )

    def find_model(self, reference: str) -> ModelView:
        """The model that a reference means. Raises RbeesError as `admission.resolve`, such as MODEL_NOT_FOUND with close names."""
        facts = self._scheduler.resolve(reference)
        if facts is None:
            message = f"No pool has registered yet, so nobody knows the model `{reference}`; ask again once one has."
            raise RbeesError(ErrorCode.MODEL_NOT_FOUND, message, model=reference)
        return next(view for view in self.models() if view.facts.sha256 == facts.sha256)

    def held_model(self, reference: str) -> ModelFacts | None:
        """The model that a reference means; None where no pool holds it, which is for those to refuse who accept jobs.

        Unlike `find_model` it looks for no close names, which takes milliseconds.
        """
        try:
            return self._scheduler.held_model(reference)
        except RbeesError:
            return None

    def meant(self, name: str) -> Found:
        """What a client of another API means by a name, see `model_names.find`."""
        facts = self.held_model(name)
        return Found(name, facts) if facts is not None else find(name, self.held_model, (model.facts for model in self.models()))

    def reference_of(self, name: str) -> str | None:
        """The same as rbees writes it; None of a name with a tag while nobody holds a model that it could be one of."""
        found = self.meant(name)
        is_open = found.facts is None and taken_apart(name).tag is not None and not self.models()
        return None if is_open else found.reference

    def kept_for_s(self, model_sha256: str) -> float:
        """How long the model stays loaded if nobody asks for it and nobody needs its memory; infinite for good."""
        return self._scheduler.kept_for_s(model_sha256, self._clock.monotonic())

    def serving(self, reference: str) -> tuple[WorkerClient, ...]:
        """Workers that serve the model now; none where nobody knows the model."""
        facts = self.held_model(reference)
        known = filter(self._directory.has_worker, self._scheduler.serving(facts.sha256) if facts is not None else ())
        return tuple(self._directory.worker(worker_id).client for worker_id in known)

    def _view(self, facts: PoolFacts) -> PoolView | None:
        address = self._directory.find_pool(facts.pool_id)
        if address is None:
            return None
        return PoolView(
            pool_id=facts.pool_id,
            endpoint=address.client.url,
            state=facts.state,
            version=address.version,
            last_heartbeat_age_ms=round(facts.heartbeat_age_s * 1000),
            clock_ahead_ms=address.clock_ahead_ms,
            drains=facts.drains,
            devices=facts.devices,
            models=facts.models,
            workers=facts.workers,
        )

    def _facts(self, pool_id: str) -> PoolFacts | None:
        return next((facts for facts in self._all_facts() if facts.pool_id == pool_id), None)

    def _all_facts(self) -> tuple[PoolFacts, ...]:
        return self._scheduler.pools(self._clock.monotonic())


def _present(workers: tuple[WorkerFacts, ...]) -> set[str]:
    return {worker.worker_id for worker in workers if worker.state not in {"stopped", "failed"}}


def _check_url(url: str, field: str) -> None:
    if not is_base_url(url):
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"`{field}` must look like `http://host:port`.", field=field)


def _reported(pool_id: str, report: RegisterRequest | Heartbeat, *, registration: bool) -> PoolReported:
    return PoolReported(
        pool_id=pool_id,
        boot_id=report.boot_id,
        registration=registration,
        devices=report.devices,
        models=report.models,
        workers=report.workers,
        unusable=report.unusable,
        default_ctx=report.default_ctx,
    )


def url_seen_from(endpoint: str, url: str, bind: str) -> str:
    """This daemon's url as the host behind `endpoint` can reach it; only a daemon that listens everywhere has to ask which."""
    if bind.strip("[]") not in {"0.0.0.0", "::"}:  # noqa: S104
        return url
    host = urlsplit(endpoint).hostname or "localhost"
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            # Connecting a datagram socket sends nothing; it only picks the address that would be used.
            probe.connect(address)
            own = probe.getsockname()[0]
    except (OSError, UnicodeError):
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{f'[{own}]' if ':' in own else own}:{parts.port}"
