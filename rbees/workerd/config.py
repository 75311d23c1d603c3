"""What a worker process is told when it starts: one frozen object, made from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rbees.protocol.device_options import DeviceOptions
from rbees.protocol.vectors import Pooling
from rbees.protocol.workers import Backend
from rbees.workerd.engine.adapter import Adapter

DRAIN_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The flags of `rbees workerd serve`."""

    worker_id: str
    nonce: str
    model: Path
    model_ref: str
    model_sha256: str | None
    backend: Backend
    device: str
    slots: int
    ctx: int
    kv_cells: int | None
    threads: int | None
    safe_mode: bool
    options: DeviceOptions
    adapters: tuple[Adapter, ...]
    bind: str
    port: int
    callback_url: str | None
    runtime_dir: Path
    tls_cert_file: str | None
    tls_key_file: str | None
    tls_ca_file: str | None
    insecure_lan: bool
    speculation: Literal["auto", "off"]
    draft_model: Path | None
    draft_tokens: int
    cache_ram: int | None = None
    """MiB of main memory for what the KV memory forgets; unset: as much as `loading.spill_bytes` finds."""
    allowed_host: str | None = None
    pooling: Pooling | None = None
