"""The figures of the engine: a worker beside llama.cpp's own server, with the same file, slots, context and threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.bench.engine import (
    cancelling,
    decoding,
    embedding,
    equality,
    memory,
    sampling,
    sharing,
    speculation,
    stalls,
    structured,
)
from tests.bench.rows import Row

PARTS: Final[dict[str, Callable[[bool], list[Row]]]] = {
    "decoding": decoding.measure,
    "tiny": decoding.measure_tiny,
    "sharing": sharing.measure,
    "stalls": stalls.measure,
    "cancelling": cancelling.measure,
    "structured": structured.measure,
    "equality": equality.measure,
    "embedding": embedding.measure,
    "memory": memory.measure,
    "sampling": sampling.measure,
    "speculation": speculation.measure,
}
"""Each takes True for a short look, which has fewer samples."""
