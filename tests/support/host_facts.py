"""Devices and models as facts, for tests of what is decided from them."""

from __future__ import annotations

from typing import Any

from rbees.protocol.pools import Device, ModelFacts

MIB = 1 << 20
GIB = 1 << 30


def device(device_id: str = "cpu", *, total: int = 8 * GIB, free: int = 8 * GIB, **more: Any) -> Device:
    """A healthy device; its backend is the part of its id before the colon."""
    backend = device_id.partition(":")[0]
    values = {
        "backend": backend,
        "name": device_id,
        "memory_architecture": "ram" if backend == "cpu" else "vram",
        "measured_at_ms": 0,
    }
    return Device(device_id=device_id, total_bytes=total, free_bytes=free, **{**values, **more})


def model(ref: str = "m", **more: Any) -> ModelFacts:
    """A model of about 7 billion parameters, four bits each."""
    values: dict[str, Any] = {
        "sha256": "0" * 64,
        "file_name": "m.gguf",
        "size_bytes": 4 * GIB,
        "architecture": "llama",
        "parameters": 7_000_000_000,
        "quantization": "Q4_K_M",
        "context_length": 32_768,
        "vocabulary_size": 32_000,
        "layers": 32,
        "embedding_length": 4_096,
        "head_count": 32,
        "head_count_kv": 8,
        "key_length": 128,
        "value_length": 128,
        "has_chat_template": True,
    }
    return ModelFacts(ref=ref, **{**values, **more})


def scripted(ref: str = "s") -> ModelFacts:
    """A model of the scripted backend."""
    nothing = dict.fromkeys(
        ("layers", "embedding_length", "head_count", "head_count_kv", "key_length", "value_length", "parameters"), 0
    )
    return model(ref, architecture="scripted", quantization="scripted", size_bytes=100, **nothing)
