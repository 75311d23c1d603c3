"""PURE: the memory that a worker will need, estimated from its model's facts: weights, KV cache, compute buffers.

The estimate errs on the large side. `rbees workerd memory` asks llama.cpp itself, which takes a process of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rbees.protocol.device_options import NOTHING_ASKED, DeviceOptions, kv_bytes, layout_of
from rbees.protocol.pools import ModelFacts

MICRO_BATCH: Final = 512
"""Tokens that llama.cpp computes at once where the rest of a text may come later; activations exist for so many."""
_ACTIVATION_COPIES: Final = 16
"""Vectors of the embedding's length alive at once for each token of a micro batch (feed-forward, attention, norms)."""
_EMBEDDING_SCORES: Final = 1 << 25
"""Rows times vocabulary: a call for embeddings has fewer rows where the vocabulary is large."""
_RUNTIME_BYTES: Final = 32 << 20
"""What the process and the library take beside the model."""
_MASK_BYTES: Final = 2
_SCORE_BYTES: Final = 4
_OUTPUT_MARGIN: Final = 1.5
"""The output's weights are often stored with more bits than the average."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is needed in one place, in bytes."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes

    def __add__(self, other: Demand) -> Demand:
        return Demand(
            self.weights_bytes + other.weights_bytes, self.kv_bytes + other.kv_bytes, self.compute_bytes + other.compute_bytes
        )


def demand(model: ModelFacts, *, ctx: int, slots: int, backend: str = "cpu", options: DeviceOptions = NOTHING_ASKED) -> Demand:
    """The memory of a worker that serves `model` with `slots` sequences of `ctx` KV cells each, all in one place."""
    per_cell = model.layers * model.head_count_kv

    def cache_bytes_of(cells: int) -> int:
        keys = kv_bytes(cells * per_cell * model.key_length, options.kv_type_k)
        return keys + kv_bytes(cells * per_cell * model.value_length, options.kv_type_v)

    generates = not model.capabilities or "generate" in model.capabilities
    # Slots with cells of their own take turns with a spare one.
    held = slots + (layout_of(backend, options, cache_bytes_of(ctx)) == "per_slot")
    # What makes vectors only computes each text in one call, however long it is: every token looks at all others.
    rows = MICRO_BATCH if generates else max(MICRO_BATCH, ctx)
    # What makes text and embeddings has a context of its own for these: cells for one sequence and a call.
    beside = ctx + MICRO_BATCH if model.pooling is not None else 0
    cells = ctx * held + beside if generates else rows
    row_scores = min(MICRO_BATCH * model.vocabulary_size, _EMBEDDING_SCORES) * 4 * 2 if model.pooling is not None else 0
    cache_bytes = cache_bytes_of(cells)
    activations = rows * model.embedding_length * 4 * _ACTIVATION_COPIES
    # One row of scores for each sequence, as floats, in the library and once more where they are sampled.
    scores = slots * model.vocabulary_size * 4 * 2
    mask = rows * cells * _MASK_BYTES if model.layers else 0
    # Without flash attention the scores of every head for every cell exist at once, and the mask has as many bits as they.
    heads = rows * cells * model.head_count * _SCORE_BYTES
    attention = heads + mask * (_SCORE_BYTES // _MASK_BYTES - 1) if options.flash_attention == "off" else 0
    return Demand(model.size_bytes, cache_bytes, activations + scores + row_scores + mask + attention + _RUNTIME_BYTES)


def offloaded(whole: Demand, model: ModelFacts, options: DeviceOptions) -> tuple[Demand, int]:
    """What of `whole` an accelerator takes, and how many bytes stay in main memory for the layers that it does not get.

    Layers go there from the last on, and the output counts as one of them, as llama.cpp does it.
    """
    layers = options.gpu_layers
    if layers is None or layers > model.layers:
        return whole, 0
    blocks = max(0, layers - 1)
    share = blocks / max(1, model.layers)
    output = model.vocabulary_size * model.embedding_length * model.size_bytes / max(1, model.parameters) * _OUTPUT_MARGIN
    weights_bytes = min(whole.weights_bytes, math.ceil(share * whole.weights_bytes + (output if layers else 0)))
    kept_kv_bytes = math.floor(whole.kv_bytes * (1 - share))
    part = Demand(weights_bytes, whole.kv_bytes - kept_kv_bytes, whole.compute_bytes)
    return part, math.ceil(whole.weights_bytes * (1 - share)) + kept_kv_bytes


def spread(whole: Demand, model: ModelFacts, shares: Sequence[float]) -> list[Demand]:
    """What each of several devices takes of `whole`, in proportion to `shares`: whole layers, and buffers of its own."""
    layers, total = model.layers + 1, sum(shares)
    parts = [min(1.0, math.ceil(share / total * layers) / layers) for share in shares]
    return [
        Demand(math.ceil(whole.weights_bytes * part), math.ceil(whole.kv_bytes * part), whole.compute_bytes if part else 0)
        for part in parts
    ]
