"""`llorch pool list|status|register`."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

import click

from rbees.ctl.rows import device_row, model_row, pool_row, worker_row
from rbees.ctl.target import Target
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import ModelFacts, ModelView, PoolList, PoolView
from rbees.service.settings import host_url
from rbees.terminal.output import print_json, print_table

POOL_HEADERS: Final = ("pool", "state", "endpoint", "devices", "models", "workers", "heard")
DEVICE_HEADERS: Final = ("pool", "device", "name", "memory", "free", "total", "health")
WORKER_HEADERS: Final = ("pool", "worker", "state", "model", "backend", "slots", "context", "memory")
MODEL_HEADERS: Final = ("model", "can", "architecture", "parameters", "quantised", "context", "size", "pools", "ready")
DEFAULT_POOL_PORT: Final = 9200
_ENDPOINT: Final = re.compile(r"https?://[^/\s?#@]+")
"""What orcd takes; said here in words."""


async def list_pools(target: Target, *, as_json: bool) -> None:
    """All pools, one line each."""
    async with target.client() as orcd:
        answer = await orcd.pools()
    if as_json:
        print_json(answer)
        return
    print_table(POOL_HEADERS, [pool_row(pool) for pool in answer.pools], empty=_NO_POOLS)


async def show_status(target: Target, *, host: str | None, as_json: bool) -> None:
    """Devices, models and workers of one pool or of all."""
    async with target.client() as orcd:
        pools = (await orcd.pools()).pools
    chosen = pools if host is None else (find_pool(host, pools),)
    if as_json:
        print_json(PoolList(pools=chosen))
        return
    _show_pools(chosen)


async def register_pool(target: Target, *, endpoint: str, as_json: bool) -> None:
    """Have orcd call a host."""
    async with target.client() as orcd:
        pool = await orcd.add_pool(complete_endpoint(host_url(endpoint) or endpoint))
    if as_json:
        print_json(pool)
    else:
        click.echo(f"{pool.pool_id} is registered at {pool.endpoint}")


def _show_pools(pools: tuple[PoolView, ...]) -> None:
    print_table(POOL_HEADERS, [pool_row(pool) for pool in pools], empty=_NO_POOLS)
    if not pools:
        return
    devices = [device_row(pool.pool_id, device) for pool in pools for device in pool.devices]
    models = [model_row(_model(pool, facts)) for pool in pools for facts in pool.models]
    workers = [worker_row(pool.pool_id, worker) for pool in pools for worker in pool.workers]
    click.echo()
    print_table(DEVICE_HEADERS, devices, empty="no devices")
    click.echo()
    print_table(MODEL_HEADERS, models, empty="no models")
    click.echo()
    print_table(WORKER_HEADERS, workers, empty="no workers")


def find_pool(host: str, pools: tuple[PoolView, ...]) -> PoolView:
    """The pool with this id, else the one whose endpoint has this host name, in full or its first label.

    Raises:
        RbeesError: POOL_NOT_FOUND, naming those that exist; INVALID_REQUEST where two fit.
    """
    host = urlsplit(host_url(host) or "").hostname or host
    fitting = [pool for pool in pools if pool.pool_id == host] or [pool for pool in pools if host in _host_names(pool)]
    if len(fitting) > 1:
        ids = ", ".join(pool.pool_id for pool in fitting)
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"`{host}` fits several pools ({ids}); name one by its id.")
    if not fitting:
        known = ", ".join(pool.pool_id for pool in pools) or "none"
        raise RbeesError(
            ErrorCode.POOL_NOT_FOUND, f"No pool is called `{host}`; orcd knows: {known}. Add one with `llorch pool register`."
        )
    return fitting[0]


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


def _host_names(pool: PoolView) -> set[str]:
    host = urlsplit(pool.endpoint).hostname or ""
    is_address = host.replace(".", "").isdigit() or ":" in host
    return {host} if is_address else {host, host.partition(".")[0]}


def _model(pool: PoolView, facts: ModelFacts) -> ModelView:
    ready = sum(worker.state == "ready" and worker.model_sha256 == facts.sha256 for worker in pool.workers)
    return ModelView(facts=facts, pools=(pool.pool_id,), ready_workers=ready)


_NO_POOLS: Final = "no pools; start one with `rbees poold serve --orcd-url URL` or add one with `llorch pool register HOST`"
