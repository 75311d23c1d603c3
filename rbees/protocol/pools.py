"""Facts that pool hosts report upwards and commands that orcd sends down to them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from rbees.protocol.codec import Message, Request
from rbees.protocol.device_options import DeviceOptions
from rbees.protocol.errors import ErrorCode
from rbees.protocol.vectors import Capability, Pooling
from rbees.protocol.workers import Amount, Backend, MemoryArchitecture, WorkerReady, WorkerState

PoolState = Literal["live", "suspect", "lost"]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
ExitCode = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 32)]


class NumaNode(Message, frozen=True, kw_only=True):
    """A part of main memory that some processors are nearer to than others."""

    node: Amount
    processors: str
    """As the kernel lists them: `0-15,32-47`; empty where the memory has none of its own."""
    total_bytes: Amount
    free_bytes: Amount


class Device(Message, frozen=True, kw_only=True):
    """One place where weights can live, as measured at `measured_at_ms`."""

    device_id: str
    """`cpu`, `cuda:0`, `metal:0`: the backend's name, then its own index, or the uuid where MIG divides a GPU of the host."""
    backend: Backend
    name: str
    memory_architecture: MemoryArchitecture
    total_bytes: Amount
    free_bytes: Amount
    healthy: bool = True
    problem: str | None = None
    """Why it is unhealthy, in one sentence."""
    measured_at_ms: Amount
    age_ms: Amount | None = None
    """How long ago that was when this was said, by a clock that nobody sets."""
    utilization: float | None = None
    """0 to 1."""
    temperature_celsius: float | None = None
    driver_version: str | None = None
    compute_capability: str | None = None
    """What kernels are built for: `8.6`, `gfx1100`, `metal3`."""
    physical_cores: Amount | None = None
    """Those that this host's workers may use."""
    logical_cores: Amount | None = None
    """The same with each thread of a core counted."""
    vendor: str | None = None
    """Of an accelerator: `nvidia`, `amd`, `apple`."""
    uuid: str | None = None
    """What `CUDA_VISIBLE_DEVICES` takes."""
    features: tuple[str, ...] = ()
    """Of a processor, those that matter to kernels: `avx2`, `avx512f`, `amx_int8`, `neon`."""
    numa: tuple[NumaNode, ...] = ()
    """Those that may be used, where main memory has several."""


class IdleAccelerator(Message, frozen=True, kw_only=True):
    """An accelerator on which no worker can run, as measured: shown to people, and left out of every decision."""

    name: str
    vendor: str
    driver: str | None = None
    """Of the kernel: `amdgpu`, `i915`, `xe`."""
    address: str | None = None
    """On the PCI bus."""
    memory_architecture: MemoryArchitecture
    total_bytes: Amount | None = None
    """None where the driver does not say, and where it has no memory of its own."""
    free_bytes: Amount | None = None
    utilization: float | None = None
    """0 to 1."""
    temperature_celsius: float | None = None
    compute_capability: str | None = None
    reason: str
    """Why it lies idle, in one sentence."""


class MemoryFacts(Message, frozen=True, kw_only=True):
    """What of a model's header decides how much memory a worker takes beside the weights; `demand.py` reckons with it."""

    key_elements: Amount
    """Of one KV cell, in all layers together that keep keys."""
    value_elements: Amount
    state_bytes: Amount = 0
    """Of the recurrent state of one sequence, in all layers together."""
    row_elements: Amount
    """Numbers alive at once for each token that is computed, in the step of a layer that needs most."""
    masks: Amount = 1
    """Attention masks alive at once: two where some layers look back a window only."""
    divisible: bool = True
    """Whether its memory can be cut anywhere, which is not so with a recurrent state or a sliding window."""
    embedding_bytes: Amount = 0
    """Weights that stay in main memory beside an accelerator: the embedding of the input."""
    output_bytes: Amount = 0
    """Weights of the output, which goes where the last layer goes; a copy of the embedding where the file has none of its own."""
    is_tied: bool = False
    """The output is such a copy."""


class ModelFacts(Message, frozen=True, kw_only=True):
    """A model file that a pool holds: its identity (sha256) and what its GGUF header says."""

    ref: str
    """Canonical reference on this pool: `hf:…`, `file:…` or the alias of a packaged model."""
    aliases: tuple[str, ...] = ()
    sha256: str
    file_name: str
    size_bytes: Amount
    architecture: str
    parameters: Amount
    quantization: str
    context_length: Amount
    vocabulary_size: Amount
    layers: Amount
    embedding_length: Amount
    head_count: Amount
    head_count_kv: Amount
    key_length: Amount
    value_length: Amount
    has_chat_template: bool
    pooling: Pooling | None = None
    """How it makes vectors, where its header or its tensors say so."""
    capabilities: tuple[Capability, ...] = ()
    """What it can do by its header; empty where the pool does not say."""
    memory: MemoryFacts | None = None
    """Absent where the pool does not say: of a scripted model, or by a pool of an earlier version."""
    template_words: tuple[str, ...] = ()
    """Of the words that tell what a chat template takes, those that it holds: `tools`, `enable_thinking`, `</think>` and others."""

    @property
    def thinks(self) -> bool:
        """Whether the template speaks of thoughts."""
        return any(word != "tools" for word in self.template_words)


STOPPED_BY: Final = "X-Stopped-By"
"""Header of `DELETE /workers/{id}`: who wants the worker ended, and why. A pool that does not know it stops the worker as well."""
LONGEST_STOPPED_BY: Final = 500


class WorkerEnd(Message, frozen=True, kw_only=True):
    """How a worker ended, as far as it can be known."""

    code: ErrorCode | None = None
    """None where it was stopped as somebody asked."""
    message: str
    exit_code: ExitCode | None = None
    signal: str | None = None
    """Name such as `SIGKILL`; absent together with `exit_code` where nobody was there to take its status."""
    ended_at_ms: Amount
    """When its end was seen."""
    last_sign_at_ms: Amount | None = None
    """Where nobody watched: when it last wrote to its log. It ended between the two."""
    log_tail: tuple[str, ...] = ()


class WorkerFacts(Message, frozen=True, kw_only=True):
    """A worker process as its pool sees it."""

    worker_id: str
    state: WorkerState
    model_ref: str
    model_sha256: str
    backend: Backend
    devices: tuple[str, ...]
    slots: Amount
    ctx: Amount
    pid: Amount | None = None
    uri: str | None = None
    memory_bytes: Amount = 0
    """What it holds, as it measured that; until its model is loaded, what is set aside for it."""
    load_progress: float = 0.0
    safe_mode: bool = False
    adopted: bool = False
    held_bytes: dict[str, Amount] = {}
    """What its process was seen to hold, by device id. Mapped weights count in main memory, also where workers share them."""
    started_at_ms: Amount
    end: WorkerEnd | None = None
    """Of one that has ended."""

    @property
    def seen_bytes(self) -> int:
        """What it holds now on its devices: what its process was seen to hold, else `memory_bytes`."""
        return sum(self.held_bytes.get(device, 0) for device in self.devices) or self.memory_bytes


class UnusableModel(Message, frozen=True, kw_only=True):
    """A file that looks like a model and cannot be served, under one of its names: why, for somebody who asks for it."""

    name: str
    """Reference or alias."""
    code: ErrorCode
    message: str


class RegisterRequest(Message, frozen=True, kw_only=True):
    """`POST /v2/pools/register`: a pool comes up, comes back, or meets an orcd that has forgotten it."""

    pool_id: str
    endpoint: str
    version: str
    boot_id: str
    """Changes whenever the pool daemon starts; a heartbeat of another boot asks for a new registration."""
    devices: tuple[Device, ...]
    models: tuple[ModelFacts, ...]
    workers: tuple[WorkerFacts, ...]
    ready: tuple[WorkerReady, ...] = ()
    """One for each worker that is ready, with the secret of its routes."""
    unusable: tuple[UnusableModel, ...] = ()
    default_ctx: Amount = 0
    """Context of a worker that is started without one being asked for, unless its model was trained for less; 0: not told."""


class AnnounceRequest(Message, frozen=True, kw_only=True):
    """`POST /register-with` on a pool: orcd tells where it is; the answer is the pool's `RegisterRequest`.

    A pool that asks its callers for no token leaves `ready` out and registers at `orcd_url` itself to hand it over.
    """

    orcd_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^/\s?#@]+$", max_length=300)]


class RegisterAnswer(Message, frozen=True, kw_only=True):
    """What orcd expects of a registered pool."""

    heartbeat_interval_ms: int


class Heartbeat(Message, frozen=True, kw_only=True):
    """`POST /v2/pools/{id}/heartbeat`; answered 204, or 404 `POOL_NOT_FOUND`, which means: register again."""

    sent_at_ms: Amount
    """By the wall clock of the pool, for people who compare logs; leases go by when it was received."""
    boot_id: str
    seq: Amount
    """Counts those of one boot, so that one that was overtaken on its way is known by it and left out."""
    devices: tuple[Device, ...]
    models: tuple[ModelFacts, ...]
    workers: tuple[WorkerFacts, ...]
    unusable: tuple[UnusableModel, ...] = ()
    default_ctx: Amount = 0
    """Context of a worker that is started without one being asked for, unless its model was trained for less; 0: not told."""


class SpawnCommand(DeviceOptions, frozen=True, kw_only=True):
    """`POST /workers/spawn` on a pool; asking again with the same `worker_id` starts nothing new."""

    model_ref: str
    worker_id: str | None = None
    """Chosen by orcd so that a repeated command is harmless; the pool makes one up if absent."""
    model_sha256: str | None = None
    backend: Backend | None = None
    devices: tuple[str, ...] = ()
    """Ids of the devices to use; several spread the model over them."""
    ctx: Annotated[int, msgspec.Meta(ge=64, le=16_777_216)] | None = None
    """KV cells per sequence; default: the model's trained length, within the pool's limit."""
    slots: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None


class SpawnRequest(SpawnCommand, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v2/pools/{id}/workers/spawn`: the same as a client sends it to orcd, which refuses a slip instead of passing it on."""


class SpawnAnswer(Message, frozen=True, kw_only=True):
    """The 202: preflight passed and the process was started."""

    worker_id: str


class WorkerReadyReport(Message, frozen=True, kw_only=True):
    """`POST /v2/internal/workers/ready`: passed on by the pool at once."""

    pool_id: str
    facts: WorkerFacts
    ready: WorkerReady


class WorkerFailedReport(Message, frozen=True, kw_only=True):
    """`POST /v2/internal/workers/failed`: the process ended without being asked to."""

    pool_id: str
    worker_id: str
    model_ref: str
    model_sha256: str
    while_loading: bool
    code: ErrorCode
    message: str
    exit_code: ExitCode | None = None
    signal: str | None = None
    """Name such as `SIGKILL`; absent together with `exit_code` when an adopted process left no status."""
    log_tail: tuple[str, ...] = ()


class PoolModels(Message, frozen=True, kw_only=True):
    """`GET /models` of a pool."""

    models: tuple[ModelFacts, ...]
    unusable: dict[str, str] = {}
    """Files that look like models and are not served: reference and reason."""


class PoolStatus(Message, frozen=True, kw_only=True):
    """`GET /status` of a pool."""

    pool_id: str
    version: str
    boot_id: str
    orcd_url: str | None
    registered: bool
    devices: tuple[Device, ...]
    idle_accelerators: tuple[IdleAccelerator, ...] = ()
    device_problems: tuple[str, ...] = ()
    """Of each source of device facts that fails or does not answer, why, in a sentence."""
    models: tuple[ModelFacts, ...]
    workers: tuple[WorkerFacts, ...]


class HostStatus(Message, frozen=True, kw_only=True):
    """What can be said of a host on which no pool daemon runs."""

    version: str
    devices: tuple[Device, ...]
    models: tuple[ModelFacts, ...]
    workers: tuple[WorkerFacts, ...]
    daemon: bool = False


class AddPoolRequest(Request, frozen=True, kw_only=True):
    """`POST /v2/pools`: the operator names a pool host; orcd calls it and completes the registration."""

    endpoint: Annotated[str, msgspec.Meta(pattern=r"^https?://[^/\s?#@]+$", max_length=300)]


class PoolView(Message, frozen=True, kw_only=True):
    """A pool as orcd sees it."""

    pool_id: str
    endpoint: str
    state: PoolState
    drains: bool = False
    """An operator wants no new work there; what runs goes on."""
    version: str
    last_heartbeat_age_ms: int
    clock_ahead_ms: int | None = None
    """How far its wall clock was ahead of orcd's at its last heartbeat. Nothing is decided by it, but logs differ by as much."""
    devices: tuple[Device, ...]
    models: tuple[ModelFacts, ...]
    workers: tuple[WorkerFacts, ...]


class PoolList(Message, frozen=True, kw_only=True):
    """`GET /v2/pools`."""

    pools: tuple[PoolView, ...]


class WorkerList(Message, frozen=True, kw_only=True):
    """`GET /workers` of a pool, `GET /v2/workers` of orcd."""

    workers: tuple[WorkerFacts, ...]


class ModelView(Message, frozen=True, kw_only=True):
    """A model as orcd sees it over all pools."""

    facts: ModelFacts
    pools: tuple[str, ...]
    ready_workers: int
    served_ctx: Amount = 0
    """Largest context of a ready worker; where none is ready, of one that would be started; 0 where no pool says."""

    @property
    def context_length(self) -> int:
        """The context to be had: as it is served, else as the model was trained for."""
        return self.served_ctx or self.facts.context_length


class ModelList(Message, frozen=True, kw_only=True):
    """`GET /v2/models`."""

    models: tuple[ModelView, ...]
