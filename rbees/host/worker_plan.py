"""How a spawn becomes a worker: what this host's settings say of its workers, and the record of one that is to be started."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from rbees.host.fit import Fit, Refusal, Room, usable_for
from rbees.host.model_store import StoredModel
from rbees.host.ports import choose_port
from rbees.host.preflight import Wish, preflight
from rbees.host.process_table import ProcessRecord
from rbees.host.worker_spec import WorkerSpec
from rbees.protocol.device_options import NOTHING_ASKED, DeviceOptions, options_of, with_defaults
from rbees.protocol.fits import FitRequest
from rbees.protocol.pools import Device, ModelFacts, SpawnCommand
from rbees.protocol.workers import Backend

MAX_THREADS: Final = 1024
"""The most that a worker takes for `--threads`."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How this host starts workers; `owner` marks them as its own."""

    owner: str
    default_slots: int
    default_ctx: int
    reserve_bytes: int
    bind: str
    port_first: int
    port_last: int
    runtime_dir: Path
    own_url: Callable[[], str] | None
    """Where workers call back; None where nobody would answer, because no daemon runs."""
    default_options: DeviceOptions = NOTHING_ASKED
    insecure_lan: bool = False
    allowed_host: str | None = None
    """Name under which other hosts reach the workers; None where they listen on loopback."""
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_ca_file: str | None = None

    def fit(self, request: SpawnCommand, model: ModelFacts, rooms: Sequence[Room], problems: Mapping[Backend, str | None]) -> Fit:
        """Where and how the model is to be served. Raises RbeesError: what preflight refuses."""
        answer = preflight(model, self.wish(request, model), rooms, default_ctx=self.default_ctx, problems=problems)
        if isinstance(answer, Refusal):
            raise answer.error()
        return answer

    def wish(self, request: SpawnCommand | FitRequest, model: ModelFacts) -> Wish:
        """What was asked for, with this host's defaults for the rest."""
        options = with_defaults(options_of(request), usable_for(model, self.default_options))
        return Wish(request.backend, request.devices, request.ctx, request.slots or self.default_slots, options)

    def record(
        self,
        worker_id: str,
        model: StoredModel,
        fit: Fit,
        *,
        devices: Sequence[Device],
        taken_ports: Collection[int],
        nonce: str,
        now_ms: int,
    ) -> ProcessRecord:
        """What is to be started. Raises RbeesError: ADDRESS_IN_USE."""
        callback_url = f"{self.own_url()}/internal/workers/{worker_id}/ready" if self.own_url is not None else None
        spec = WorkerSpec(
            worker_id=worker_id,
            nonce=nonce,
            model_path=_path_to_open(model),
            model_ref=model.facts.ref,
            model_sha256=model.facts.sha256,
            backend=fit.backend,
            device=",".join(device.device_id for device in fit.devices),
            slots=fit.slots,
            ctx=fit.ctx,
            threads=_threads(fit.device, devices),
            pooling=model.facts.pooling,
            bind=self.bind,
            port=choose_port(self.bind, self.port_first, self.port_last, taken_ports),
            callback_url=callback_url,
            runtime_dir=str(self.runtime_dir),
            insecure_lan=self.insecure_lan,
            allowed_host=self.allowed_host,
            tls_cert_file=self.tls_cert_file,
            tls_key_file=self.tls_key_file,
            tls_ca_file=self.tls_ca_file,
            **msgspec.structs.asdict(fit.options),
        )
        return ProcessRecord(spec=spec, reserved_bytes=fit.demand.total_bytes, reserved=fit.reserved, started_at_ms=now_ms)


def _threads(device: Device, devices: Sequence[Device]) -> int | None:
    """The cores that a worker may use; an accelerator has none of its own and leaves part of the work to the host's."""
    cores = [found.physical_cores for found in (device, *devices) if found.physical_cores]
    return min(cores[0], MAX_THREADS) if cores else None


def _path_to_open(model: StoredModel) -> str:
    """Where the file really is. The further parts of a model are found by the first one's name, which a link gives it."""
    if len(model.paths) == 1:
        return os.path.realpath(model.path)
    return str(Path(os.path.realpath(model.path.parent), model.path.name))
