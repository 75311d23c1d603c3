"""This host as one thing: its devices, models and workers together, and what of them the orchestrator is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Final

from rbees import __version__
from rbees.host.backends import Installation, with_backend_problems
from rbees.host.devices import DeviceMonitor
from rbees.host.model_store import ModelStore
from rbees.host.workers import Supervisor
from rbees.poold.downloads import Downloads
from rbees.poold.heartbeat import Member, OrcdLink, PoolFacts
from rbees.poold.sharing import Sharing
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import (
    Device,
    ModelFacts,
    PoolModels,
    PoolStatus,
    RegisterRequest,
    UnusableModel,
    WorkerFacts,
    WorkerFailedReport,
    WorkerReadyReport,
)
from rbees.protocol.workers import WorkerReady
from rbees.service import logs
from rbees.service.clock import Clock

SEARCH_EVERY_S: Final = 10.0
MAX_UNUSABLE_TOLD: Final = 200
ORCD_URL_FILE: Final = "orcd_url"


class Pool:
    """Implements `PoolFacts` for the link and `Reporter` for the workers; the routes and the daemon use its parts."""

    tells = True

    def __init__(
        self,
        member: Member,
        monitor: DeviceMonitor,
        store: ModelStore,
        installation: Installation,
        state: Path,
        configured_orcd_url: str | None,
        supervisor: Callable[[Pool], Supervisor],
        downloads: Callable[[Pool], Downloads],
        sharing: Sharing,
        link: Callable[[PoolFacts], OrcdLink],
    ) -> None:
        self._member = member
        self._monitor = monitor
        self._installation = installation
        self._orcd_url_file = state / ORCD_URL_FILE
        self._configured_orcd_url = configured_orcd_url
        self._log = logs.logger()
        self.store = store
        self.supervisor = supervisor(self)
        self.downloads = downloads(self)
        self.sharing = sharing
        self.link = link(self)

    def devices(self) -> tuple[Device, ...]:
        """As last measured; accelerators that no installed backend can use are marked."""
        return with_backend_problems(self._monitor.devices(), self._installation.problems, self._installation.of_vendors)

    def models(self) -> tuple[ModelFacts, ...]:
        """Those that can be served."""
        return self.store.models()

    def unusable(self) -> tuple[UnusableModel, ...]:
        """Files that look like models and cannot be served; a folder full of them is told in part."""
        problems = islice(self.store.problems().items(), MAX_UNUSABLE_TOLD)
        return tuple(UnusableModel(name=name, code=error.code, message=error.message) for name, error in problems)

    def workers(self) -> tuple[WorkerFacts, ...]:
        """Those that live."""
        return tuple(map(self.measured, self.supervisor.living()))

    def measured(self, worker: WorkerFacts) -> WorkerFacts:
        """The worker, with what its process was seen to hold."""
        return self._monitor.seen(worker)

    def ready(self) -> tuple[WorkerReady, ...]:
        """One for each worker that can take work."""
        return self.supervisor.ready()

    def became_ready(self, facts: WorkerFacts, ready: WorkerReady) -> None:
        """Tell the orchestrator at once."""
        self._log.info("worker ready", action="worker_ready", worker_id=facts.worker_id, load_ms=ready.load_ms)
        self.link.report(WorkerReadyReport(pool_id=self._member.pool_id, facts=facts, ready=ready))

    def has_failed(self, facts: WorkerFacts, *, while_loading: bool) -> None:
        """Tell the orchestrator at once."""
        end = facts.end
        assert end is not None, "a worker that failed has ended"
        code = end.code or ErrorCode.WORKER_CRASHED
        self._log.warning(
            "worker failed",
            action="worker_failed",
            worker_id=facts.worker_id,
            code=code,
            signal=end.signal,
            exit_code=end.exit_code,
        )
        self.link.report(
            WorkerFailedReport(
                pool_id=self._member.pool_id,
                worker_id=facts.worker_id,
                model_ref=facts.model_ref,
                model_sha256=facts.model_sha256,
                while_loading=while_loading,
                code=code,
                message=end.message,
                exit_code=end.exit_code,
                signal=end.signal,
                log_tail=end.log_tail,
            )
        )

    def status(self) -> PoolStatus:
        """`GET /status`."""
        return PoolStatus(
            pool_id=self._member.pool_id,
            version=__version__,
            boot_id=self._member.boot_id,
            orcd_url=self.link.orcd_url,
            registered=self.link.registered,
            devices=self.devices(),
            idle_accelerators=self._monitor.idle(),
            device_problems=self._monitor.problems(),
            models=self.models(),
            workers=self.workers(),
        )

    def list_models(self) -> PoolModels:
        """`GET /models`."""
        unusable = {name: error.message for name, error in self.store.refused().items()}
        return PoolModels(models=self.models(), unusable=unusable)

    def checks(self) -> dict[str, str | None]:
        """What `/readyz` looks at."""
        devices = None if self.devices() else "No device has been measured yet."
        return {"devices": devices, "workers": self.supervisor.problem}

    async def announce(self, orcd_url: str) -> RegisterRequest:
        """An orchestrator called: belong to it, now and after a restart.

        Raises:
            RbeesError: FORBIDDEN: the settings name another one. INVALID_REQUEST: nobody can be called at this url.
        """
        if self._configured_orcd_url not in (None, orcd_url):
            raise RbeesError(
                ErrorCode.FORBIDDEN, "This pool's settings name another orchestrator; change `orcd_url` there or leave it out."
            )
        try:
            registration = await self.link.announce(orcd_url)
        except RbeesError as error:
            raise RbeesError(ErrorCode.INVALID_REQUEST, error.message, field="orcd_url") from None
        try:
            await asyncio.to_thread(self._orcd_url_file.write_text, orcd_url, encoding="utf-8")
        except OSError as error:
            self._log.warning("cannot remember the orchestrator", action="orcd_url_not_kept", reason=error.strerror)
        return registration

    async def dismiss(self) -> None:
        """The orchestrator forgets this pool: do not come back by ourselves, also after a restart.

        Raises:
            RbeesError: FORBIDDEN: the settings name it, so this pool will.
        """
        if self._configured_orcd_url is not None:
            message = "This pool's settings name its orchestrator, so it comes back; take `orcd_url` out there."
            raise RbeesError(ErrorCode.FORBIDDEN, message)
        await self.link.dismiss()
        try:
            await asyncio.to_thread(self._orcd_url_file.unlink, missing_ok=True)
        except OSError as error:
            self._log.warning("cannot forget the orchestrator", action="orcd_url_not_kept", reason=error.strerror)

    async def keep_searching(self, clock: Clock) -> None:
        """Look for new and changed model files and for what can run them, and sum the large files one by one, until cancelled."""
        while True:
            await asyncio.to_thread(self._installation.look)
            await asyncio.to_thread(self.store.refresh)
            while await asyncio.to_thread(self.store.sum_next):
                pass
            await clock.sleep(SEARCH_EVERY_S)
