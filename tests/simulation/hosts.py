"""Simulated hosts: a pool daemon, its workers and what they run. They obey commands, report facts and die as they are told.

Each token is a hash of everything before it, as the scripted backend makes them, so a wrong continuation shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rbees.orcd.scheduler.effects import SpawnWorker
from rbees.orcd.scheduler.events import PoolReported
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.events import ChoiceEnd, End, Event, Timings, Token, Usage
from rbees.protocol.pools import Device, ModelFacts, WorkerFacts
from tests.simulation import facts

if TYPE_CHECKING:
    from tests.simulation.shell import Stream

SLOTS: Final = 3
STEP_S: Final = 1.0
ACK_PATIENCE_S: Final = 60.0
OVERHEAD_BYTES: Final = 64 << 20


def next_token(state: int) -> int:
    """The token that follows a prefix whose hash is `state`; it is the new prefix's hash as well."""
    return (state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF


def script(seed: int, length: int) -> list[int]:
    """The whole answer that an undisturbed run gives."""
    tokens: list[int] = []
    state = seed
    for _ in range(length):
        state = next_token(state)
        tokens.append(state)
    return tokens


@dataclass(slots=True)
class Run:
    """An attempt inside a worker."""

    job_id: str
    epoch: int
    seed: int
    length: int
    tokens: list[int]
    """Those it was given and those it made."""
    stream: Stream | None
    begun_at_s: float
    last_ack_s: float
    deadly_at: int | None
    """The worker dies when it has made so many tokens."""
    events: list[Event] = field(default_factory=list)
    """All that it has to tell, numbered from 1; kept, so that orcd can take it up again."""

    @property
    def has_ended(self) -> bool:
        """The last event is there."""
        return isinstance(self.events[-1], End)

    def make(self, count: int) -> None:
        """So many tokens more, and the end behind the last."""
        made: list[int] = []
        state = self.tokens[-1] if self.tokens else self.seed
        for _ in range(count):
            state = next_token(state)
            made.append(state)
        if made:
            self.events.append(Token(text="", index=len(self.tokens), token_ids=tuple(made)))
            self.tokens += made
        if len(self.tokens) == self.length and not self.has_ended:
            usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=self.length)
            ends = (ChoiceEnd(finish_reason="stop"),)
            self.events.append(End(choices=ends, usage=usage, timings=Timings(prefill_ms=1.0, decode_ms=1.0)))


@dataclass(slots=True)
class SimWorker:
    """A worker process."""

    worker_id: str
    model: ModelFacts
    taken: dict[str, int]
    """Bytes by device."""
    ctx: int
    ready: bool = False
    draining: bool = False
    alive: bool = True
    hung_until_s: float = 0.0
    progress: float = 0.0
    runs: dict[str, Run] = field(default_factory=dict)
    prefixes: list[str] = field(default_factory=list)
    """Beginnings of prompts that it computed, the latest last."""

    def facts(self) -> WorkerFacts:
        """As its pool lists it."""
        state = "draining" if self.draining else "ready" if self.ready else "loading"
        return facts.worker(
            self.worker_id,
            self.model,
            state,  # type: ignore[arg-type]
            device_id=next(iter(self.taken)),
            slots=SLOTS,
            memory_bytes=sum(self.taken.values()) if self.ready else 0,
            progress=self.progress,
            ctx=self.ctx,
        )


@dataclass(slots=True)
class Host:
    """A machine with one pool daemon."""

    pool_id: str
    devices: dict[str, int]
    """Total bytes by device."""
    models: tuple[ModelFacts, ...]
    tokens_at_once: int = 1
    """How fast it is."""
    default_ctx: int = 4096
    """Of its workers."""
    boot: int = 1
    daemon_up: bool = True
    powered: bool = True
    cut_until_s: float = 0.0
    workers: dict[str, SimWorker] = field(default_factory=dict)
    _report: PoolReported | None = None

    def reachable(self, now_s: float) -> bool:
        """True where packets pass between the host and orcd."""
        return self.powered and now_s >= self.cut_until_s

    def changed(self) -> None:
        """What the next report says has changed."""
        self._report = None

    def report(self) -> PoolReported:
        """The daemon's whole state; the same object as long as nothing changes."""
        if self._report is None:
            devices = tuple(self._device(name, total) for name, total in self.devices.items())
            workers = tuple(worker.facts() for worker in self.workers.values() if worker.alive)
            self._report = PoolReported(
                self.pool_id, f"boot-{self.boot}", False, devices, self.models, workers, default_ctx=self.default_ctx
            )
        return self._report

    def free_bytes(self, device_id: str) -> int:
        """What is free on a device."""
        held = sum(worker.taken.get(device_id, 0) for worker in self.workers.values() if worker.alive)
        return self.devices[device_id] - held

    def start(self, command: SpawnWorker) -> ErrorBody | None:
        """Preflight and start; the refusal, if it is one. A repeated command starts nothing new."""
        if command.worker_id in self.workers:
            return None
        model = next((known for known in self.models if known.sha256 == command.model_sha256), None)
        if model is None:
            return ErrorBody(code=ErrorCode.MODEL_NOT_FOUND, message="The pool does not hold this model.")
        taken = self._shares(command, model.size_bytes + OVERHEAD_BYTES, model.layers)
        for device_id, needed in taken.items():
            if needed > self.free_bytes(device_id):
                numbers = {"device_id": device_id, "needed_bytes": needed, "reserve_bytes": 0}
                return ErrorBody(code=ErrorCode.INSUFFICIENT_VRAM, message="It does not fit.", details=numbers)
        self.workers[command.worker_id] = SimWorker(command.worker_id, model, taken, self.default_ctx)
        self.changed()
        return None

    def _shares(self, command: SpawnWorker, needed: int, layers: int) -> dict[str, int]:
        """What each device would have to give: main memory what the accelerator leaves, several devices by what they have free."""
        if command.gpu_layers is not None:
            there = needed * command.gpu_layers // (layers + 1)
            return {command.devices[0]: there, "cpu": needed - there}
        together = sum(self.free_bytes(device_id) for device_id in command.devices) or 1
        return {device_id: needed * self.free_bytes(device_id) // together for device_id in command.devices}

    def _device(self, name: str, total: int) -> Device:
        return facts.device(name, total, self.free_bytes(name))
