"""The workers of this host put together from its settings: the same for the daemon and for whoever works without one."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rbees.host.process_table import ProcessTable
from rbees.host.worker_around import LOOK_EVERY_S, Limits, Reporter, Surroundings, nobody_else
from rbees.host.worker_plan import Policy
from rbees.service import auth, folders
from rbees.service.clock import Clock
from rbees.service.identity import Identities
from rbees.service.role_settings import PooldSettings

DRAIN_MARGIN_S: Final = 3.0
"""So that a worker's own end of draining comes before the signal that would cut it short."""
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  (compared with, not listened on)


def policy(settings: PooldSettings, state: Path, own_url: Callable[[], str] | None) -> Policy:
    """How workers are started here. `own_url` is where they call back, if a daemon listens for that.

    Raises:
        RbeesError: CONFIGURATION, for a runtime folder that cannot be used.
    """
    return Policy(
        owner=owner(state),
        default_slots=settings.default_slots,
        default_ctx=settings.default_ctx,
        reserve_bytes=settings.memory_reserve_bytes,
        bind=settings.bind,
        port_first=settings.worker_port_first,
        port_last=settings.worker_port_last,
        runtime_dir=folders.runtime_folder(),
        own_url=own_url,
        default_options=settings.default_options(),
        insecure_lan=settings.insecure_lan,
        allowed_host=public_host(settings),
        tls_cert_file=_absolute(settings.tls_cert_file),
        tls_key_file=_absolute(settings.tls_key_file),
        tls_ca_file=_absolute(settings.tls_ca_file),
    )


def surroundings(
    settings: PooldSettings,
    state: Path,
    reporter: Reporter,
    identities: Identities,
    clock: Clock,
    *,
    look_every_s: float = LOOK_EVERY_S,
    before_start: Callable[[], Awaitable[None]] = nobody_else,
    owns_folder: bool = True,
) -> Surroundings:
    """What each worker here needs.

    Raises:
        RbeesError: CONFIGURATION, for files or folders that cannot be used.
    """
    mark = owner(state)
    return Surroundings(
        table=ProcessTable(folders.make_private_folder(state / "workers")),
        reporter=reporter,
        clock=clock,
        limits=Limits(load_s=settings.load_timeout_s, drain_s=settings.drain_timeout_s + DRAIN_MARGIN_S, look_every_s=look_every_s),
        environ=os.environ,
        new_nonce=lambda: f"{mark}-{identities.correlation_id()}",
        new_secret=identities.secret,
        public_host=public_host(settings),
        tls=auth.tls_client_context(settings.tls_ca_file),
        before_start=before_start,
        owns_folder=owns_folder,
    )


def public_host(settings: PooldSettings) -> str | None:
    """The name under which other hosts reach this one; None where only this host can."""
    if settings.endpoint is not None:
        return urlsplit(settings.endpoint).hostname
    if auth.is_loopback(settings.bind):
        return None
    return socket.gethostname() if settings.bind in _WILDCARDS else settings.bind


def owner(state: Path) -> str:
    """The mark of this pool's workers: the same after its state was deleted, another for every other pool of the host."""
    return hashlib.sha256(os.fsencode(os.path.realpath(state))).hexdigest()[:12]


def _absolute(path: str | None) -> str | None:
    return str(folders.absolute(path)) if path is not None else None
