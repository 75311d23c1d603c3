"""This host's models for a command that finds no daemon here: the same files, settings and checksums that the daemon uses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rbees.host.fit import Room
from rbees.host.hub_cache import HubCache, cache_folder
from rbees.host.model_candidates import Candidate, parts_of
from rbees.host.model_files import SUFFIXES, alias_of, is_file
from rbees.host.models_here import model_store, named
from rbees.host.registered_models import FILE_NAME, RegisteredModels
from rbees.protocol import model_ref
from rbees.protocol.downloads import DownloadEvent, DownloadPlanned, DownloadRequest, ModelRemoved
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.fits import FitRequest, FitView
from rbees.protocol.model_ref import AliasRef
from rbees.protocol.pools import Device, ModelFacts, PoolModels
from rbees.service import folders, settings
from rbees.service.clock import SystemClock
from rbees.service.home import read_home
from rbees.service.role_settings import PooldSettings

if TYPE_CHECKING:
    from rbees.host.fit_view import Measured
    from rbees.host.model_download import Capacity

# Listing models must not pay for what measures, downloads and removes: those imports are left to where they are needed.


class Here:
    """The models of this host as its settings describe them, or those of the `rbees up` that runs here."""

    def __init__(self) -> None:
        home = read_home()
        self.settings = settings.load("poold", PooldSettings).values
        state = Path(home.state_dir, "poold") if home is not None else None
        self.state = folders.make_private_folder(state) if state else folders.state_folder("poold", self.settings.state_dir)
        self.store = model_store(self.settings, self.state, os.environ)
        self.places = self.store.places
        self.registered = RegisteredModels(self.state / FILE_NAME)
        self.cache = HubCache(cache_folder(os.environ))
        self._clock = SystemClock()

    def models(self) -> PoolModels:
        """What can be served, and why the rest cannot. Blocks on the disk, for what is small enough to be summed at once."""
        self.store.refresh()
        unusable = {
            ref: _unsummed(ref) if error.code is ErrorCode.MODEL_LOADING else error.message
            for ref, error in self.store.refused().items()
        }
        return PoolModels(models=self.store.models(), unusable=unusable)

    async def devices(self) -> tuple[Device, ...]:
        """Measured now."""
        from rbees.host.backends import Installation, with_backend_problems
        from rbees.host.devices import DeviceMonitor, sources_of_this_host

        monitor = DeviceMonitor(sources_of_this_host(), self._clock)
        monitor.start()
        await monitor.wait_first()
        monitor.stop()
        installation = Installation()
        return with_backend_problems(monitor.devices(), installation.problems, installation.of_vendors)

    async def capacity(self) -> Capacity:
        """What this host has for one more worker."""
        from rbees.host.backends import Installation
        from rbees.host.model_download import Capacity

        return Capacity(await self._rooms(), Installation().problems, self.settings.default_ctx, self.settings.default_slots)

    async def fit(self, request: FitRequest) -> FitView:
        """How a model would sit on this host beside the workers that run, started as these settings say.

        Raises:
            RbeesError: what the model store refuses; INVALID_REQUEST, MODEL_INCOMPATIBLE, BACKEND_UNAVAILABLE.
        """
        from rbees.host.backends import Installation
        from rbees.host.fit import Refusal, usable_for
        from rbees.host.fit_view import view
        from rbees.host.preflight import Wish
        from rbees.protocol.device_options import options_of, with_defaults

        model = request.facts
        if model is None:
            model = await asyncio.to_thread(self._facts, request.model_ref)
        settings = self.settings
        options = with_defaults(options_of(request), usable_for(model, settings.default_options()))
        wish = Wish(request.backend, request.devices, request.ctx, request.slots or settings.default_slots, options)
        rooms, measured = await self._beside_workers()
        problems = Installation().problems
        answer = view(model, wish, rooms, default_ctx=settings.default_ctx, problems=problems, measured=measured)
        if isinstance(answer, Refusal):
            raise answer.error()
        return answer

    async def download(self, request: DownloadRequest, folder: Path | None) -> AsyncGenerator[DownloadEvent]:
        """Fetch a model into `folder`, else into `RBEES_MODELS_DIR`, else into the shared cache.

        Raises:
            RbeesError: as `lan_copy.bring`.
        """
        try:
            async with aclosing(self._bring(request, folder)) as following:
                async for event in following:
                    yield event
        except RbeesError as error:
            if error.code is not ErrorCode.MODEL_LOADING:
                raise
            # Without a daemon nobody is computing it.
            raise RbeesError(error.code, _unsummed(request.model_ref)) from None

    async def _bring(self, request: DownloadRequest, folder: Path | None) -> AsyncGenerator[DownloadEvent]:
        from rbees.host import lan_copy
        from rbees.host.lan_access import Access
        from rbees.host.lending import Lending
        from rbees.host.piece_sums import FOLDER, PieceSums
        from rbees.service import auth

        own = self.settings
        token = auth.read_secret(own.token_file) if own.token_file and request.sources else None
        await asyncio.to_thread(self.store.refresh)
        here = lan_copy.Here(self.store, self.cache, Lending(self.store, PieceSums(self.state / FOLDER)), os.environ, self._clock)
        hosts = tuple(host.values for host in settings.load_hosts().values()) if request.sources else ()
        access = Access(token, own.tls_ca_file, own.insecure_lan, hosts=hosts)
        async with aclosing(lan_copy.bring(request, here, await self.capacity(), access, folder)) as following:
            async for event in following:
                if isinstance(event, DownloadPlanned) and folder is not None:
                    self.note_local(folder, event.files)
                yield event

    def note_local(self, folder: Path, files: Sequence[str]) -> None:
        """Know again where files of `--local-dir` go, should they not be finished. Where that cannot be written, they still go."""
        assert self.places.local is not None, "this host's places have such a list"
        with suppress(RbeesError):
            self.places.local.note({(folder / file).parent for file in files})

    async def _rooms(self) -> Sequence[Room]:
        """What each device has to give. What a worker that still loads will take does not show in what is free."""
        return (await self._beside_workers(ask=False))[0]

    async def _beside_workers(self, *, ask: bool = True) -> tuple[Sequence[Room], Sequence[Measured]]:
        """The same, and what the workers say of their speed, if they are to be asked."""
        from rbees.pool.local_workers import LocalWorkers
        from rbees.pool.state import OwnState
        from rbees.service import logs

        own = OwnState(self.settings, self.state)
        if own.daemon_runs():
            # It listens elsewhere than the settings say, and keeps the workers; nobody else takes them over.
            return rooms_of(await self.devices(), self.settings.memory_reserve_bytes), ()
        logs.configure("pool", "error")
        async with LocalWorkers(own, lambda _: None) as keeper:
            return await keeper.rooms(), await keeper.measured() if ask else ()

    def _facts(self, name: str) -> ModelFacts:
        """Of a model that is here, whether its checksum is known or not. Raises as `ModelStore.resolve`."""
        self.store.refresh()
        try:
            return self.store.resolve(name).facts
        except RbeesError as error:
            if error.code is not ErrorCode.MODEL_LOADING:
                raise
        found = named(name, self.places)
        return file_facts(found.path, found.ref, found.aliases)

    def check(self, model: Candidate) -> str | None:
        """Read the files and compare; what is wrong, or None. Blocks as long as the disk takes."""
        for path, promised in zip(model.paths, model.promised, strict=True):
            before = promised or self.store.checksums.known(path)
            now = self.store.checksums.compute(path)
            if now is None:
                return f"{path.name} cannot be read, or changed while it was read"
            if before not in (None, now):
                return f"{path.name} has the sha256 {now[:16]}… and should have {str(before)[:16]}…"
        self.store.refresh()
        problem = self.store.refused().get(model.ref)
        return problem.message if problem is not None else None

    def forget(self, name: str) -> bool:
        """Take the name from a registered file, which stays; False where `name` means no such file."""
        found = next((one for one in self.places.candidates() if name in one.names), None)
        return found is not None and found.origin == "registered" and self.registered.remove(found.path)

    def remove(self, name: str) -> ModelRemoved:
        """Remove a model that no worker serves.

        Raises:
            RbeesError: MODEL_NOT_FOUND, DEVICE_BUSY, or as `model_removal.remove`.
        """
        from rbees.host.model_removal import remove, remove_leftover
        from rbees.host.process import Identity, is_running
        from rbees.host.process_table import ProcessTable

        freed_bytes = remove_leftover(name, self.places)
        if freed_bytes is not None:
            return ModelRemoved(model_ref=name, freed_bytes=freed_bytes)
        model = named(name, self.places)
        real = {os.path.realpath(path) for path in model.paths}
        for record in ProcessTable(folders.make_private_folder(self.state / "workers")).load():
            lives = record.pid is not None and is_running(Identity(record.pid, record.started or ""))
            if lives and os.path.realpath(record.spec.model_path) in real:
                worker_id = record.spec.worker_id
                raise RbeesError(ErrorCode.DEVICE_BUSY, f"{worker_id} serves {model.ref}; stop it first.", worker_id=worker_id)
        return ModelRemoved(model_ref=model.ref, freed_bytes=remove(model, self.places).freed_bytes)

    def register(self, path: Path, name: str | None) -> ModelFacts:
        """Have a file known under `name`. Blocks for its checksum.

        Raises:
            RbeesError: INVALID_REQUEST (no such name), MODEL_NOT_FOUND (no such file), MODEL_INCOMPATIBLE (not a model).
        """
        if not is_file(path):
            raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"There is no file {path}; check the path.")
        short = name or alias_of(path)
        if not path.name.endswith(SUFFIXES) or short is None or not isinstance(model_ref.parse(short), AliasRef):
            message = (
                f"{path.name} must end in `.gguf` and needs a name of letters, digits, `.`, `_` and `-`; give it one by `--name`."
            )
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="name")
        other = next((one for one in self.places.candidates() if short in one.names and one.path != path), None)
        if other is not None:
            raise RbeesError(ErrorCode.INVALID_REQUEST, f"The name {short} is {other.ref}'s already; give another.", field="name")
        self.registered.add(short, path)
        for part in parts_of(path):
            self.store.checksums.compute(part)
        self.store.refresh()
        try:
            return self.store.resolve(short).facts
        except RbeesError:
            self.registered.remove(path)
            raise


def _unsummed(name: str) -> str:
    return f"Its checksum is not known yet; run `rbees-pool models verify {name}`."


def rooms_of(devices: Sequence[Device], reserve_bytes: int) -> list[Room]:
    """The room of devices whose workers nobody here knows of: what they hold shows in what is free."""
    return [Room(device, held_bytes=0, pending_bytes=0, reserve_bytes=reserve_bytes) for device in devices]


def file_facts(path: Path, ref: str | None = None, aliases: tuple[str, ...] = ()) -> ModelFacts:
    """What the header of a model file says, without reading the rest of it.

    Raises:
        RbeesError: MODEL_NOT_FOUND, MODEL_INCOMPATIBLE.
    """
    from rbees.host.gguf import read_header
    from rbees.host.model_facts import facts, shape_of

    if not is_file(path):
        what = "is a folder" if path.is_dir() else "is no file that is there"
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"{path} {what}; name a GGUF file.")
    parts = parts_of(path)
    try:
        headers = [read_header(part) for part in parts]
        size_bytes = sum(part.stat().st_size for part in parts)
    except OSError as error:
        message = f"The file {path} cannot be read ({error.strerror}); check who may."
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, message) from None
    shape = shape_of(*headers)
    return facts(shape, ref=ref or f"file:{path}", aliases=aliases, sha256="", file_name=path.name, size_bytes=size_bytes)


def local_folder(named: str | None) -> Path | None:
    """The folder of `--local-dir`.

    Raises:
        RbeesError: CONFIGURATION, for a path that no reference could hold.
    """
    if named is None:
        return None
    folder = folders.absolute(named)
    if ".." in folder.parts:
        folder = folder.resolve()
    if any(ord(sign) < 32 for sign in str(folder)) or "\\" in str(folder):
        raise RbeesError(ErrorCode.CONFIGURATION, "The folder's name must not hold control characters or backslashes.")
    return folder
