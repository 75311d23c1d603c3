"""Device, model and worker facts of a simulated fleet, small enough to be made by the thousand."""

from __future__ import annotations

from rbees.protocol.pools import Device, ModelFacts, WorkerFacts
from rbees.protocol.workers import WorkerState

GIB = 1 << 30


def model(name: str, size_bytes: int) -> ModelFacts:
    """A model whose sha256 is made of its name."""
    return ModelFacts(
        ref=name,
        sha256=name.encode().hex().ljust(64, "0"),
        file_name=f"{name}.gguf",
        size_bytes=size_bytes,
        architecture="llama",
        parameters=1,
        quantization="Q8_0",
        context_length=4096,
        vocabulary_size=32,
        layers=15,
        embedding_length=64,
        head_count=1,
        head_count_kv=1,
        key_length=64,
        value_length=64,
        has_chat_template=True,
    )


def device(device_id: str, total_bytes: int, free_bytes: int, *, healthy: bool = True) -> Device:
    """A CPU or, by its name, a CUDA device."""
    return Device(
        device_id=device_id,
        backend="cuda" if device_id.startswith("cuda") else "cpu",
        name=device_id,
        memory_architecture="ram",
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        healthy=healthy,
        problem=None if healthy else "It does not answer.",
        measured_at_ms=0,
    )


def worker(
    worker_id: str,
    facts: ModelFacts,
    state: WorkerState = "ready",
    *,
    device_id: str = "cpu",
    slots: int = 2,
    memory_bytes: int | None = None,
    progress: float = 0.0,
    ctx: int = 512,
) -> WorkerFacts:
    """A worker as its pool would list it."""
    return WorkerFacts(
        worker_id=worker_id,
        state=state,
        model_ref=facts.ref,
        model_sha256=facts.sha256,
        backend="cuda" if device_id.startswith("cuda") else "cpu",
        devices=(device_id,),
        slots=slots,
        ctx=ctx,
        memory_bytes=facts.size_bytes if memory_bytes is None else memory_bytes,
        load_progress=progress,
        started_at_ms=0,
    )
