"""The estimate of a worker's memory beside what llama.cpp says, for models of many shapes and ways to serve them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from rbees.host.gguf import read_header
from rbees.host.model_facts import facts, shape_of
from rbees.protocol.demand import Demand, demand
from rbees.protocol.device_options import NOTHING_ASKED, DeviceOptions
from rbees.protocol.pools import ModelFacts
from rbees.protocol.vectors import Pooling
from rbees.workerd.engine.backend import LoadSpec
from tests.support.sparse_gguf import SparseShape

GOAL_SHARE: Final = 0.05
GOAL_BYTES: Final = 100 << 20


@dataclass(frozen=True)
class Serving:
    """How a model is served."""

    ctx: int
    slots: int
    options: DeviceOptions = NOTHING_ASKED
    pooling: Pooling | None = None


_EIGHT_BITS: Final = DeviceOptions(kv_type_k="q8_0", kv_type_v="q8_0")
SERVINGS: Final[dict[str, Serving]] = {
    "usual": Serving(4_096, 4),
    "alone": Serving(4_096, 1),
    "long": Serving(16_384, 1),
    "many": Serving(512, 64),
    "eight bits": Serving(8_192, 2, _EIGHT_BITS),
    "mixed types": Serving(2_048, 3, DeviceOptions(kv_type_k="q8_0", kv_type_v="q4_0")),
    "floats": Serving(1_024, 2, DeviceOptions(kv_type_k="f32", kv_type_v="f32")),
    "a pool": Serving(1_024, 8, DeviceOptions(kv_layout="unified")),
    "without flash attention": Serving(2_048, 2, DeviceOptions(flash_attention="off")),
    "odd": Serving(1_000, 3),
    "vectors too": Serving(2_048, 4, pooling="mean"),
}


def ways_of(shape: SparseShape) -> list[str]:
    """The names of those that llama.cpp can serve the shape in: compressed keys hold the values, so they have one type."""
    return [name for name in SERVINGS if not shape.latent or name != "mixed types"]


@dataclass(frozen=True)
class Compared:
    """What was expected, and what there was, in bytes."""

    expected_bytes: int
    taken_bytes: int
    what: str = field(default="", compare=False)

    @property
    def off_bytes(self) -> int:
        """By how much too large, or too small, the estimate is."""
        return self.expected_bytes - self.taken_bytes

    @property
    def off_share(self) -> float:
        """The same as a share of what there was, without its sign."""
        return abs(self.off_bytes) / self.taken_bytes

    @property
    def of_goal(self) -> float:
        """The error as a share of what is allowed: 5 % or 100 MiB, whichever is more."""
        return abs(self.off_bytes) / max(GOAL_SHARE * self.taken_bytes, GOAL_BYTES)


def facts_of(path: Path) -> ModelFacts:
    """What a pool would report of the file."""
    header = read_header(path)
    return facts(shape_of(header), ref=f"file:{path}", aliases=(), sha256="", file_name=path.name, size_bytes=header.file_bytes)


def spec_of(path: Path, serving: Serving) -> LoadSpec:
    """The same for the worker."""
    return LoadSpec(str(path), "cpu", "cpu", serving.slots, serving.ctx, None, 1, options=serving.options, pooling=serving.pooling)


def expected(model: ModelFacts, serving: Serving) -> Demand:
    """The estimate. Pools pass on the pooling of the header; one that a person asks for stands in its place."""
    pooled = msgspec.structs.replace(model, pooling=serving.pooling or model.pooling)
    return demand(pooled, ctx=min(serving.ctx, model.context_length), slots=serving.slots, options=serving.options)


def buffers_bytes(needed: Demand) -> int:
    """What of an estimate llama.cpp knows of: not the process."""
    return needed.total_bytes - needed.runtime_bytes
