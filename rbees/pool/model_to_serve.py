"""Which model a worker serves where none was named: the only one that came to this host, else the one that rbees brings."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Final

from rbees.host.preflight import no_device_for, runs_on
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import Device, ModelFacts
from rbees.protocol.workers import Backend

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient

LISTED: Final = 10
"""Most names in a message."""


async def model_to_serve(pool: PooldClient | None, backend: Backend | None) -> str:
    """The reference of that model, on the host of `pool` or, without one, on this. Raises as `only_model`."""
    from rbees.service.catalog import load_catalog

    if pool is not None:
        models, devices = (await pool.models()).models, (await pool.status()).devices
    else:
        from rbees.pool.here import Here

        here = Here()
        models, devices = (await asyncio.to_thread(here.models)).models, await here.devices()
    packaged = {name for name, entry in load_catalog().items() if entry.packaged}
    return only_model(models, packaged, devices, backend)


def only_model(models: Sequence[ModelFacts], packaged: Container[str], devices: Sequence[Device], backend: Backend | None) -> str:
    """`packaged` holds the references of models that ship with rbees.

    Raises:
        RbeesError: BACKEND_UNAVAILABLE, where no model would help; MODEL_NOT_FOUND, where none can be served; INVALID_REQUEST,
            where several came to this host: with their names.
    """
    if backend is not None and not any(runs_on(backend, device) for device in devices):
        raise no_device_for(backend, devices).error()
    came = [model for model in models if model.ref not in packaged]
    candidates = came or models[:1]
    if len(candidates) == 1:
        return candidates[0].ref
    if not candidates:
        message = "No model is here that a worker could serve; fetch one with `rbees-pool models download NAME`."
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, message)
    names = [min((model.ref, *model.aliases), key=len) for model in candidates]
    listed = ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")
    message = f"Several models are here ({listed}); say which one with `--model NAME`."
    raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="model")
