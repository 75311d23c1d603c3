"""`rbees pool dev doctor`: examines this host and its way to the orchestrator, one check after the other.

Nothing is changed, no folder is made, and a check that fails never hides the next one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from rbees import __version__
from rbees.clients.orcd import OrcdClient
from rbees.clients.poold import PooldClient
from rbees.host import examination, findings
from rbees.host.backends import library_folder, problem_of
from rbees.host.devices import DeviceMonitor, sources_of_this_host
from rbees.host.findings import Finding, PortState
from rbees.host.hardware import find_hardware
from rbees.host.ports import choose_port
from rbees.pool.target import find_pool, own_url
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import auth, folders, settings
from rbees.service.clock import SystemClock
from rbees.service.home import read_home
from rbees.service.role_settings import ROLES, CtlSettings, OrcdSettings, PooldSettings
from rbees.terminal.quantities import bytes_text, counted

if TYPE_CHECKING:
    from rbees.clients.daemon import DaemonClient
    from rbees.protocol.pools import Device, IdleAccelerator

Client = TypeVar("Client", bound="DaemonClient")

MEASURE_LIMIT_S: Final = 10.0
ANSWER_LIMIT_S: Final = 3.0
"""In which time a daemon tells who it is; who holds its port and says nothing is another program."""
_NOT_OURS: Final = frozenset({ErrorCode.ORCD_UNREACHABLE, ErrorCode.POOL_UNREACHABLE, ErrorCode.INTERNAL})


def examine(roles: Sequence[str], orcd_url: str | None, token_file: str | None, note: Callable[[str], None]) -> Iterator[Finding]:
    """Every finding as it comes. `roles` are those that this host is to play; `note` hears what is looked at."""
    version = sys.version_info
    yield findings.of_python((version.major, version.minor, version.micro), sys.executable, platform.architecture()[0] == "64bit")
    note("building a program")
    yield findings.of_compiler(examination.compiler_problem(), needed=problem_of("cpu", library_folder()) is not None)
    broken = list(_settings())
    yield from broken or [findings.ok("settings", "The settings can be read.")]
    yield from _folders()
    note("looking for devices")
    devices, idle, problems = asyncio.run(_devices())
    ill = [device for device in devices if not device.healthy]
    for device in ill:
        yield findings.failed("device", f"{device.name} is ill: {device.problem}", device=device.device_id)
    # What a source says of itself it says of its devices too.
    for problem in problems if not ill else ():
        yield findings.failed("device", problem)
    for accelerator in idle:
        # One inside a processor is in most machines, and nobody misses it.
        verdict = findings.ok if accelerator.memory_architecture == "unified" else findings.warning
        yield verdict("device", f"{accelerator.name} lies idle: {accelerator.reason}", address=accelerator.address)
    if find_hardware().nvidia and not problems and not any(device.backend == "cuda" for device in devices):
        yield findings.warning("device", "An NVIDIA device is here but not its driver; install that to compute on it.")
    note("trying every device with a small model")
    yield from examination.try_backends([device for device in devices if device.healthy])
    # Where the settings cannot be read nobody knows which ports and whose orchestrator are meant.
    if not broken:
        yield from _disks()
        note("asking the daemons")
        yield from asyncio.run(_daemons(roles, orcd_url, token_file))


def _settings() -> Iterator[Finding]:
    try:
        for role, type_ in ROLES.items():
            settings.load(role, type_)
        settings.load_hosts()
    except RbeesError as error:
        yield findings.failed("settings", error.message)


def _folders() -> Iterator[Finding]:
    present = [folder for folder in _private_folders() if os.path.lexists(folder)]
    try:
        for folder in present:
            # One that is there is looked at only.
            folders.make_private_folder(folder)
    except RbeesError as error:
        yield findings.failed("folders", error.message)
    else:
        yield findings.ok(
            "folders", "The folders of state are this user's alone." if present else "No folder of state is here yet."
        )


def _private_folders() -> list[Path]:
    base = _state_folder()
    return [base, *(base / role for role in ROLES)]


def _state_folder() -> Path:
    import platformdirs

    return folders.home_folder() or platformdirs.user_state_path("rbees")


async def _devices() -> tuple[tuple[Device, ...], tuple[IdleAccelerator, ...], tuple[str, ...]]:
    """The devices, accelerators that no worker can use, and what is wrong with the sources of both."""
    monitor = DeviceMonitor(sources_of_this_host(), SystemClock())
    monitor.start()
    await monitor.wait_first(MEASURE_LIMIT_S)
    monitor.stop()
    return monitor.devices(), monitor.idle(), monitor.problems()


def _disks() -> Iterator[Finding]:
    poold = settings.load("poold", PooldSettings).values
    named = [poold.state_dir, settings.load("orcd", OrcdSettings).values.state_dir, *poold.model_dirs]
    cache = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    seen = set()
    for folder in (_state_folder(), *(folders.absolute(name) for name in named if name), cache):
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        device = existing.stat().st_dev
        if device not in seen:
            seen.add(device)
            free = examination.free_bytes(folder)
            yield findings.of_disk("disk", str(folder), free, bytes_text(free))


async def _daemons(roles: Sequence[str], orcd_url: str | None, token_file: str | None) -> list[Finding]:
    found = [finding for role in roles if (finding := await _port(role)) is not None]
    runs_orcd = any(finding.details["role"] == "orcd" and finding.details["state"] == "ours" for finding in found)
    versions: dict[str, str] = {}
    is_strange = any((finding.details["role"], finding.details["state"]) == ("poold", "taken") for finding in found)
    own_pool = await _own_pool(versions, is_strange=is_strange)
    # Where a pool daemon runs, its workers may rightly have all of them.
    found += own_pool or (_worker_ports() if "poold" in roles else [])
    found += await _named_hosts(versions)
    try:
        orcd = _find_orcd(orcd_url, token_file, runs_here=runs_orcd)
    except RbeesError as error:
        return [*found, findings.failed("orcd", error.message)]
    if orcd is None:
        what_to_do = "start it, or name one as `orcd_url` in `[poold]`, or have it call this pool (`llorch pool register`)"
        message = f"No orchestrator is known here; {what_to_do}."
        found.append(findings.warning("orcd", message))
    else:
        async with orcd:
            found += await _orchestrator(orcd, versions)
    return [*found, findings.of_versions(__version__, versions)]


async def _port(role: str) -> Finding | None:
    own = settings.load(role, ROLES[role]).values
    bind, port = str(getattr(own, "bind", "")), int(getattr(own, "port", 0))
    if port == 0:
        return None
    error = examination.port_error(bind, port)
    states: dict[int, PortState] = {0: "free", errno.EADDRNOTAVAIL: "no such address", errno.EACCES: "forbidden"}
    state: PortState = states.get(error, "taken")
    if state == "taken" and await _is_ours(OrcdClient if role == "orcd" else PooldClient, role, own):
        state = "ours"
    return findings.of_port(role, bind, port, state)


def _worker_ports() -> list[Finding]:
    """Whether the range that settings leave to workers has a free port; nothing where there is no range."""
    poold = settings.load("poold", PooldSettings).values
    if poold.worker_port_first == 0:
        return []
    try:
        port = choose_port(poold.bind, poold.worker_port_first, poold.worker_port_last, ())
    except RbeesError as error:
        return [findings.failed("ports", error.message)]
    return [findings.ok("ports", f"Port {port} is free for a worker.", role="workerd", port=port, state="free")]


async def _is_ours(kind: type[DaemonClient], role: str, own: object) -> bool:
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S), _client(kind, own_url(own), own) as daemon:
            return (await daemon.introduction()).role == role
    except TimeoutError:
        return False
    except RbeesError as error:
        # It asks for another token than ours, in the words of rbees.
        return error.code in (ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN)


async def _own_pool(versions: dict[str, str], *, is_strange: bool) -> list[Finding]:
    """Whether the pool daemon of this host, where one runs, works together with its orchestrator. `is_strange` says that the port
    of the settings is another program's, which is not asked once more.
    """
    try:
        address = await asyncio.to_thread(find_pool, None, None)
        if is_strange and not address.is_certain:
            return []
        async with address.client() as pool:
            status = await pool.status()
    except RbeesError as error:
        if error.code in _NOT_OURS:
            return []
        return [findings.failed("poold", error.message)]
    versions[f"poold {status.pool_id}"] = status.version
    if status.orcd_url is not None and not status.registered:
        message = f"The pool daemon here is not registered with {status.orcd_url}; its log says why."
        return [findings.failed("poold", message, orcd_url=status.orcd_url)]
    return [findings.ok("poold", f"The pool daemon here is {status.pool_id}, with {counted(len(status.models), 'model')}.")]


async def _named_hosts(versions: dict[str, str]) -> list[Finding]:
    """The hosts of the settings' own table, all asked at once."""
    ca_file = settings.load("ctl", CtlSettings).values.tls_ca_file
    hosts = {name: host.values for name, host in settings.load_hosts().items()}

    async def ask(name: str, url: str) -> Finding:
        # As commands do that go there: a token is sent to no host whose own table names none.
        table = msgspec.structs.replace(hosts[name], tls_ca_file=hosts[name].tls_ca_file or ca_file)
        try:
            async with _client(PooldClient, url, table) as pool:
                versions[f"host {name}"] = (await pool.introduction()).version
        except RbeesError as error:
            return findings.warning("hosts", f"{name}: {error.message}", host=name, url=url)
        return findings.ok("hosts", f"{name} answers at {url}.", host=name, url=url)

    return list(await asyncio.gather(*(ask(name, url) for name, host in hosts.items() if (url := host.url) is not None)))


async def _orchestrator(orcd: OrcdClient, versions: dict[str, str]) -> list[Finding]:
    clock = SystemClock()
    sent_ms = clock.unix_ms()
    try:
        who = await orcd.introduction()
        received_ms = clock.unix_ms()
        pools = (await orcd.pools()).pools
    except RbeesError as error:
        return [findings.failed("orcd", error.message, url=orcd.url)]
    versions["orcd"] = who.version
    versions.update({f"poold {pool.pool_id}": pool.version for pool in pools})
    silent = [pool.pool_id for pool in pools if pool.state != "live"]
    message = f"The orchestrator at {orcd.url} answers and has {counted(len(pools), 'pool')}."
    found = [findings.ok("orcd", message, url=orcd.url, pools=[pool.pool_id for pool in pools])]
    if silent:
        message = f"These pools are silent: {', '.join(silent)}; see whether `rbees poold serve` runs there, or `llorch pool list`."
        found.append(findings.warning("pools", message, pools=silent))
    return [*found, findings.of_clock(who.date, sent_ms, received_ms, "the orchestrator")]


def _find_orcd(named: str | None, token_file: str | None, *, runs_here: bool) -> OrcdClient | None:
    """The orchestrator that a flag, a running `rbees up` or the settings of this host name, or that runs here."""
    home = read_home() if named is None else None
    if home is not None:
        return OrcdClient(home.orcd_url)
    poold = settings.load("poold", PooldSettings, {"token_file": token_file}).values
    ctl = settings.load("ctl", CtlSettings, {"token_file": token_file}).values
    orcd = settings.load("orcd", OrcdSettings, {"token_file": token_file}).values
    own = [(own_url(orcd), orcd)] if runs_here else []
    for url, table in ((named, ctl), (poold.orcd_url, poold), (ctl.orcd_url, ctl), *own):
        if url is not None:
            return _client(OrcdClient, url, table)
    return None


def _client(kind: type[Client], url: str, table: object) -> Client:
    """A client with the proof and the trust that a table of the settings names."""
    token_file, ca_file = getattr(table, "token_file", None), getattr(table, "tls_ca_file", None)
    token = auth.read_secret(token_file) if token_file else None
    return kind(url, token=token, ssl=auth.tls_client_context(ca_file), role="poold" if isinstance(table, PooldSettings) else "ctl")
