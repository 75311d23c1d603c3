"""`llorch pool list|status|register`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import click

from rbees.clients.orcd import OrcdClient
from rbees.ctl.forward import Via, reach_hosts
from rbees.ctl.hosts import chosen_names, find_hosts
from rbees.ctl.rows import device_row, model_name, model_row, pool_row, worker_row
from rbees.ctl.target import Target
from rbees.protocol.downloads import DownloadRequest
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import ModelView, PoolList, PoolView
from rbees.service import settings
from rbees.service.clock import SystemClock
from rbees.service.role_settings import CtlSettings
from rbees.service.settings import host_url
from rbees.terminal.columns import Column, Page, Sheet
from rbees.terminal.downloads import show_download
from rbees.terminal.output import print_json
from rbees.terminal.pages import print_page, print_table, show_again

POOL_COLUMNS: Final = (
    Column("pool", least=12),
    Column("state"),
    Column("endpoint", rank=1, least=24),
    Column("devices", least=8),
    Column("models", right=True),
    Column("workers", right=True),
    Column("heard", right=True),
)
DEVICE_COLUMNS: Final = (
    Column("pool", least=12),
    Column("device"),
    Column("name", rank=1, least=12),
    Column("memory", rank=2),
    Column("free", right=True),
    Column("total", right=True),
    Column("health", least=12),
)
WORKER_COLUMNS: Final = (
    Column("pool", least=12),
    Column("worker"),
    Column("state"),
    Column("model", least=12),
    Column("backend", rank=2),
    Column("slots", right=True),
    Column("context", rank=1, right=True),
    Column("memory", rank=3, right=True),
)
MODEL_COLUMNS: Final = (
    Column("model", whole=True),
    Column("can", rank=3, least=8),
    Column("architecture", rank=4, least=6),
    Column("parameters", rank=1, right=True),
    Column("quantised"),
    Column("context", rank=2, right=True),
    Column("size", right=True),
    Column("pools", least=12),
    Column("ready", right=True),
)
DEFAULT_POOL_PORT: Final = 9200
_ENDPOINT: Final = re.compile(r"https?://[^/\s?#@]+")
"""What orcd takes; said here in words."""
_BARE_NAME: Final = re.compile(r"(?!localhost$)[A-Za-z][A-Za-z0-9_-]*")


async def list_pools(target: Target, *, as_json: bool) -> None:
    """All pools, one line each."""
    async with target.client() as orcd:
        answer = await orcd.pools()
    if as_json:
        print_json(answer)
        return
    print_table(POOL_COLUMNS, [pool_row(pool) for pool in answer.pools], empty=_NO_POOLS)


async def show_status(
    target: Target, *, hosts: tuple[str, ...], every: bool, via: Via | None, watch_s: float | None, as_json: bool
) -> int | None:
    """Devices, models and workers of some pools or of all. Returns the exit code where hosts were asked themselves."""
    if every or via is not None:
        return await _ask_hosts(hosts, every, via, watch_s, as_json=as_json)
    names = chosen_names(hosts, every=False)

    async def look() -> PoolList:
        pools = (await orcd.pools()).pools
        return PoolList(pools=tuple(find_pool(name, pools) for name in names) if names else pools)

    async with target.client() as orcd:
        try:
            found = await look()
        except RbeesError as error:
            if not hosts or error.code not in {ErrorCode.POOL_NOT_FOUND, ErrorCode.ORCD_UNREACHABLE}:
                raise
            return await _ask_hosts(hosts, every, via, watch_s, as_json=as_json, instead_of=error)
        if watch_s is not None:
            return await show_again(look, pools_page, SystemClock(), watch_s, as_json=as_json)
    if as_json:
        print_json(found)
    else:
        print_page(pools_page(found))
    return None


async def _ask_hosts(
    hosts: tuple[str, ...],
    every: bool,
    via: Via | None,
    watch_s: float | None,
    *,
    as_json: bool,
    instead_of: RbeesError | None = None,
) -> int:
    """`rbees-pool status` on each. Where orcd did not know a host and it cannot be reached either, what orcd said is told."""
    words = ("status", *((f"--watch={watch_s:g}",) if watch_s is not None else ()), *(("--json",) if as_json else ()))
    try:
        return await reach_hosts(hosts, every, via, words, watch_s=None if as_json else watch_s)
    except RbeesError as error:
        if instead_of is not None and error.code is ErrorCode.HOST_UNREACHABLE:
            raise instead_of from None
        raise


async def register_pool(target: Target, *, endpoint: str, as_json: bool) -> None:
    """Have orcd call a host."""
    async with target.client() as orcd:
        pool = await orcd.add_pool(complete_endpoint(host_url(endpoint) or _found(endpoint) or endpoint))
    if as_json:
        print_json(pool)
    else:
        click.echo(f"{pool.pool_id} is registered at {pool.endpoint}")


async def drain_pool(target: Target, *, host: str, as_json: bool) -> None:
    """No new work for a pool."""
    async with target.client() as orcd:
        pool_id, before = await _meant(orcd, host)
        await orcd.drain_pool(pool_id)
    was = "was drained already: it " if before is not None and before.drains else ""
    _tell(pool_id, f"{was}gets no new work; what runs there goes on", as_json=as_json)


async def resume_pool(target: Target, *, host: str, as_json: bool) -> None:
    """Work for a pool again."""
    async with target.client() as orcd:
        pool_id, before = await _meant(orcd, host)
        await orcd.resume_pool(pool_id)
    was_drained = before is None or before.drains
    _tell(pool_id, "gets work again" if was_drained else "was not drained; it gets work", as_json=as_json)


async def remove_pool(target: Target, *, host: str, as_json: bool) -> None:
    """Forget a pool."""
    async with target.client() as orcd:
        pool_id, _ = await _meant(orcd, host)
        await orcd.remove_pool(pool_id)
    _tell(pool_id, "is forgotten", as_json=as_json)


async def _meant(orcd: OrcdClient, host: str) -> tuple[str, PoolView | None]:
    """The pool that is meant: one that was named and is away shows in no list, so its id is taken as it is."""
    try:
        found = find_pool(host, (await orcd.pools()).pools)
    except RbeesError as error:
        if error.code is not ErrorCode.POOL_NOT_FOUND:
            raise
        return host, None
    return found.pool_id, found


def _tell(pool_id: str, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"pool_id": pool_id})
    else:
        click.echo(f"{pool_id} {what}")


async def download_model(target: Target, *, model: str, host: str | None, quantization: str | None, as_json: bool) -> None:
    """Have a pool fetch a model, the named one or the one that orcd chooses, and show how it goes."""
    request = DownloadRequest(model_ref=model, quantization=quantization)
    async with target.client() as orcd:
        if host is None:
            events = orcd.download_where_it_fits(request)
        else:
            events = orcd.download(find_pool(host, (await orcd.pools()).pools).pool_id, request)
        await show_download(events, model, as_json=as_json)


def pools_page(found: PoolList) -> Page:
    """Pools, their devices, models and workers as tables."""
    pools = found.pools
    summary = Sheet(POOL_COLUMNS, [pool_row(pool) for pool in pools], _NO_POOLS)
    if not pools:
        return Page(sheets=(summary,))
    devices = [device_row(pool.pool_id, device) for pool in pools for device in pool.devices]
    models = [model_row(model) for model in _models(pools)]
    workers = [worker_row(pool.pool_id, worker) for pool in pools for worker in pool.workers]
    further = (
        Sheet(DEVICE_COLUMNS, devices, "no devices"),
        Sheet(MODEL_COLUMNS, models, "no models"),
        Sheet(WORKER_COLUMNS, workers, "no workers"),
    )
    return Page(sheets=(summary, *further))


def find_pool(host: str, pools: tuple[PoolView, ...]) -> PoolView:
    """The pool with this id, else the one at the url that the settings give the host, else the one whose endpoint has this host
    name, in full or its first label.

    Raises:
        RbeesError: POOL_NOT_FOUND, naming those that exist; INVALID_REQUEST where two fit.
    """
    fitting = [pool for pool in pools if pool.pool_id == host]
    url = None if fitting else host_url(host)
    if url is not None:
        fitting = [pool for pool in pools if _is_at(pool, url)]
    elif not fitting:
        fitting = [pool for pool in pools if host in _host_names(pool)]
    if len(fitting) > 1:
        ids = ", ".join(pool.pool_id for pool in fitting)
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"`{host}` fits several pools ({ids}); name one by its id.")
    if not fitting:
        known = ", ".join(pool.pool_id for pool in pools) or "none"
        what = f"is called `{host}`" if url is None else f"is at {url}, where the settings have `{host}`"
        raise RbeesError(ErrorCode.POOL_NOT_FOUND, f"No pool {what}; orcd knows: {known}. Add one with `llorch pool register`.")
    return fitting[0]


def _found(name: str) -> str | None:
    """The url of a host that goes by a bare name, found as `--host` finds it."""
    if not _BARE_NAME.fullmatch(name):
        return None
    (host,) = find_hosts((name,), settings.load("ctl", CtlSettings).values)
    return host.url


def complete_endpoint(text: str) -> str:
    """`mac` as `http://mac:9200`; what is already a URL stays.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    url = text.rstrip("/") if "://" in text else f"http://{text.rstrip('/')}"
    if not _ENDPOINT.fullmatch(url):
        message = "An endpoint is a host name, or a URL like `http://mac.home.arpa:9200` without a path, user or password."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="endpoint")
    try:
        parts = urlsplit(url)
        has_port = parts.port is not None
    except ValueError:
        raise RbeesError(
            ErrorCode.INVALID_REQUEST,
            "The endpoint's address is malformed, or its port is no number from 1 to 65535.",
            field="endpoint",
        ) from None
    if not has_port and "://" not in text:
        url = f"http://{parts.netloc}:{DEFAULT_POOL_PORT}"
    return url


def _is_at(pool: PoolView, url: str) -> bool:
    """True where the url leads to the pool; several pools may share an address, so the port counts."""
    return (urlsplit(url).hostname or "") in _host_names(pool) and _port(url) == _port(pool.endpoint)


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _host_names(pool: PoolView) -> set[str]:
    host = urlsplit(pool.endpoint).hostname or ""
    is_address = host.replace(".", "").isdigit() or ":" in host
    return {host} if is_address else {host, host.partition(".")[0]}


def _models(pools: Sequence[PoolView]) -> list[ModelView]:
    """Each file once, as `llorch models list` has it, with all the pools that hold it."""
    facts = {facts.sha256: facts for pool in reversed(pools) for facts in pool.models}
    holding = {sha256: [pool for pool in pools if any(held.sha256 == sha256 for held in pool.models)] for sha256 in facts}
    ready = Counter(worker.model_sha256 for pool in pools for worker in pool.workers if worker.state == "ready")
    return [
        ModelView(facts=facts[sha256], pools=tuple(pool.pool_id for pool in holding[sha256]), ready_workers=ready[sha256])
        for sha256 in sorted(facts, key=lambda sha256: model_name(facts[sha256]).casefold())
    ]


_NO_POOLS: Final = "no pools; start one with `rbees poold serve --orcd-url URL` or add one with `llorch pool register HOST`"
