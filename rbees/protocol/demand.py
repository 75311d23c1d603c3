"""PURE: the memory that a worker will need, estimated from its model's facts: weights, KV cells, buffers.

The one estimate of all roles: a pool's preflight, what `rbees pool fit` shows and the orchestrator's placement ask here. How far
it is from what llama.cpp allocates is measured (docs/benchmarks.md) and kept by a test. `rbees workerd memory` asks llama.cpp
itself, which takes a process of its own.

The library computes a call step by step and lets what a step needs take the place of what earlier ones needed, so of the buffers
for computing the largest step counts and not their sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rbees.protocol.device_options import MAX_SLOTS, NOTHING_ASKED, DeviceOptions, kv_bytes, layout_of, outputs_for
from rbees.protocol.pools import MemoryFacts, ModelFacts

MICRO_BATCH: Final = 512
"""Tokens that llama.cpp computes at once where the rest of a text may come later; activations exist for so many."""
VECTOR_SEQUENCES: Final = 64
"""Texts of one call that makes vectors."""
VECTOR_STATES: Final = 8
"""The same where each takes memory for a recurrent state."""
_VECTOR_SCORES: Final = 1 << 25
"""Rows times vocabulary: a call for vectors has fewer rows where the vocabulary is large."""
_CELLS_AT_ONCE: Final = 256
"""KV cells come in multiples of this."""
_RUNTIME_BYTES: Final = 32 << 20
"""What the process and the library take beside the model."""
_FLOAT_BYTES: Final = 4
_MASK_BYTES: Final = 2
_MOST_BYTES: Final = 1 << 60
"""What no machine has: a header may multiply to more than a message can hold."""
_OUTPUT_MARGIN: Final = 1.5
"""The output's weights are often stored with more bits than the average."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is needed in one place, in bytes."""

    weights_bytes: int
    kv_bytes: int
    """Cells of keys and values, and recurrent states."""
    compute_bytes: int
    """What a call computes in, and the scores that it gives out."""
    runtime_bytes: int = 0
    """The process itself, without the interpreter and the libraries that all workers share."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.runtime_bytes

    def __add__(self, other: Demand) -> Demand:
        return Demand(
            self.weights_bytes + other.weights_bytes,
            self.kv_bytes + other.kv_bytes,
            self.compute_bytes + other.compute_bytes,
            self.runtime_bytes + other.runtime_bytes,
        )


@dataclass(frozen=True, slots=True)
class _Call:
    """The largest call of one context: its tokens, the cells that each of them looks at, and the rows whose scores it gives."""

    rows: int
    seen_cells: int
    outputs: int


def demand(model: ModelFacts, *, ctx: int, slots: int, backend: str = "cpu", options: DeviceOptions = NOTHING_ASKED) -> Demand:
    """The memory of a worker that serves `model` with `slots` sequences of `ctx` KV cells each, all in one place."""
    memory = memory_of(model)
    kv = compute = 0
    if not model.capabilities or "generate" in model.capabilities:
        kv, compute = _for_text(model, memory, ctx, slots, backend, options)
    if model.pooling is not None:
        # Vectors are made in a context of their own; one that also makes text has a second one, with cells of its own.
        more_kv, more_compute = _for_vectors(model, memory, ctx, options)
        kv, compute = kv + more_kv, compute + more_compute
    return Demand(model.size_bytes, min(kv, _MOST_BYTES), min(compute, _MOST_BYTES), _RUNTIME_BYTES)


def memory_of(model: ModelFacts) -> MemoryFacts:
    """What the pool says, else what follows from the plainest kind of model with these numbers."""
    if model.memory is not None:
        return model.memory
    per_cell = model.layers * model.head_count_kv
    output = math.ceil(
        model.vocabulary_size * model.embedding_length * model.size_bytes / max(1, model.parameters) * _OUTPUT_MARGIN
    )
    return MemoryFacts(
        key_elements=per_cell * model.key_length,
        value_elements=per_cell * model.value_length,
        # Three of the feed-forward's vectors, which are about four times as long as the embedding's.
        row_elements=16 * model.embedding_length,
        output_bytes=min(model.size_bytes, output),
    )


def _for_text(
    model: ModelFacts, memory: MemoryFacts, ctx: int, slots: int, backend: str, options: DeviceOptions
) -> tuple[int, int]:
    """Bytes of KV memory and of buffers."""
    # As the worker divides its cells: by the numbers of the plainest kind of model.
    per_slot = ctx * model.layers * model.head_count_kv
    slot_bytes = kv_bytes(per_slot * model.key_length, options.kv_type_k) + kv_bytes(
        per_slot * model.value_length, options.kv_type_v
    )
    if memory.divisible and slots < MAX_SLOTS and layout_of(backend, options, slot_bytes) == "per_slot":
        # Slots with cells of their own take turns with a spare one, and none looks at another's.
        seen = _whole(ctx)
        cells = seen * (slots + 1)
    else:
        seen = cells = _whole(ctx * slots)
    outputs = outputs_for(slots) if memory.divisible else slots
    call = _Call(MICRO_BATCH, seen, outputs)
    scores = outputs * model.vocabulary_size * _FLOAT_BYTES
    return _cells_bytes(memory, cells, options) + memory.state_bytes * slots, _computing(model, memory, call, options) + scores


def _for_vectors(model: ModelFacts, memory: MemoryFacts, ctx: int, options: DeviceOptions) -> tuple[int, int]:
    """Bytes of KV memory and of buffers."""
    sequences = VECTOR_STATES if memory.state_bytes else VECTOR_SEQUENCES
    good = vector_rows(model.vocabulary_size)
    generates = not model.capabilities or "generate" in model.capabilities
    # What makes vectors only computes each text in one call, however long it is: every token looks at all others.
    rows = good if generates else -(-max(ctx, good) // sequences) * sequences
    cells = _whole(ctx + good) if generates else rows
    scores = sequences * (model.vocabulary_size + model.embedding_length) * _FLOAT_BYTES
    compute = _computing(model, memory, _Call(rows, cells, rows if generates else 0), options) + scores
    return _cells_bytes(memory, cells, options) + memory.state_bytes * sequences, compute


def vector_rows(vocabulary_size: int) -> int:
    """Tokens of one call that makes vectors, where the rest of a text may come later.

    The library keeps room for the scores of every row, though nobody asks for them, and wants as many rows for each sequence.
    """
    rows = max(VECTOR_SEQUENCES, min(MICRO_BATCH, _VECTOR_SCORES // max(1, vocabulary_size)))
    return rows // VECTOR_SEQUENCES * VECTOR_SEQUENCES


def _computing(model: ModelFacts, memory: MemoryFacts, call: _Call, options: DeviceOptions) -> int:
    """The masks, which live through the whole call, and the largest of its steps."""
    queries = model.head_count * model.key_length
    fused = options.flash_attention != "off"
    # Without flash attention the scores of every head for every cell exist at once, and the mask has as many bits as they.
    mask = memory.masks * call.seen_cells * (_MASK_BYTES if fused else _FLOAT_BYTES) if model.head_count else 0
    heads = 0 if fused else call.seen_cells * model.head_count
    attention = heads + 2 * model.embedding_length + 4 * queries
    steps = (
        call.rows * attention,
        call.rows * memory.row_elements,
        call.outputs * (model.vocabulary_size + 3 * model.embedding_length),
    )
    return call.rows * mask + max(steps) * _FLOAT_BYTES


def _cells_bytes(memory: MemoryFacts, cells: int, options: DeviceOptions) -> int:
    return kv_bytes(cells * memory.key_elements, options.kv_type_k) + kv_bytes(cells * memory.value_elements, options.kv_type_v)


def _whole(cells: int) -> int:
    return -(-cells // _CELLS_AT_ONCE) * _CELLS_AT_ONCE


def layers_on(model: ModelFacts, options: DeviceOptions) -> int:
    """How many of the model's layers accelerators take, the output not counted."""
    asked = options.gpu_layers
    return model.layers if asked is None or asked > model.layers else max(0, asked - 1)


def offloaded(whole: Demand, model: ModelFacts, options: DeviceOptions) -> tuple[Demand, Demand]:
    """What of `whole` accelerators take, and what stays in main memory: the embedding, and the layers that they do not get.

    Layers go there from the last on, and the output counts as one of them, as llama.cpp does it.
    """
    memory = memory_of(model)
    own_output = 0 if memory.is_tied else memory.output_bytes
    inside = max(0, whole.weights_bytes - memory.embedding_bytes - own_output)
    share = layers_on(model, options) / max(1, model.layers)
    kept_bytes = math.ceil(inside * (1 - share)) + memory.embedding_bytes + (own_output if options.gpu_layers == 0 else 0)
    kept_kv_bytes = math.floor(whole.kv_bytes * (1 - share))
    part = Demand(
        math.ceil(inside * share) + _output_bytes(memory, options),
        whole.kv_bytes - kept_kv_bytes,
        whole.compute_bytes,
        whole.runtime_bytes,
    )
    return part, Demand(kept_bytes, kept_kv_bytes, 0)


def spread(part: Demand, model: ModelFacts, options: DeviceOptions, shares: Sequence[float]) -> list[tuple[int, Demand]]:
    """What each of several devices takes of `part`, in proportion to `shares`: its number of whole layers, and the bytes.

    The output counts as the last of the layers while they are dealt out; each device has buffers of its own.
    """
    layers = layers_on(model, options)
    counts = _dealt(layers + 1, shares)
    last = max(i for i, count in enumerate(counts) if count)
    output = _output_bytes(memory_of(model), options)
    inside = max(0, part.weights_bytes - output)
    places = []
    for i, count in enumerate(counts):
        own = count - (i == last)
        share = own / max(1, layers)
        weights_bytes = math.ceil(inside * share) + (output if i == last else 0)
        buffers = (part.compute_bytes, part.runtime_bytes) if count else (0, 0)
        places.append((own, Demand(weights_bytes, math.ceil(part.kv_bytes * share), *buffers)))
    return places


def _output_bytes(memory: MemoryFacts, options: DeviceOptions) -> int:
    """Of the output, where an accelerator takes it."""
    return memory.output_bytes if options.gpu_layers != 0 else 0


def _dealt(layers: int, shares: Sequence[float]) -> list[int]:
    """How many of so many layers each device takes: from where the earlier shares end to where its own does."""
    ends = [math.ceil(sum(shares[: i + 1]) / sum(shares) * layers) for i in range(len(shares))]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
