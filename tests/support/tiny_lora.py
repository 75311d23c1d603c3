"""LoRA adapters with random weights for a given GGUF model, small enough to write in a test."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray


def write_lora(
    path: Path,
    base: Path,
    *,
    seed: int = 0,
    rank: int = 4,
    strength: float = 0.5,
    tensor: str = "attn_q",
    architecture: str | None = None,
    kind: str = "adapter",
    invocation: tuple[int, ...] = (),
) -> Path:
    """Write an adapter to `path` that changes `tensor` of every layer of `base`. The same arguments give the same weights."""
    reader = gguf.GGUFReader(base)
    writer = gguf.GGUFWriter(path, architecture or reader.fields["general.architecture"].contents())
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    if invocation:
        writer.add_key_value(
            "adapter.alora.invocation_tokens", list(invocation), gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
        )
    rng = np.random.default_rng(seed)
    for found in reader.tensors:
        if found.name.endswith(f".{tensor}.weight"):
            inner, outer = (int(n) for n in found.shape[:2])
            writer.add_tensor(f"{found.name}.lora_a", _matrix(rng, rank, inner, strength))
            writer.add_tensor(f"{found.name}.lora_b", _matrix(rng, outer, rank, strength))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _matrix(rng: np.random.Generator, rows: int, columns: int, strength: float) -> NDArray[np.float32]:
    return (rng.standard_normal((rows, columns)) * strength).astype(np.float32)
