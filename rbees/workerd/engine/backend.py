"""What the engine asks of whatever computes the model: a small protocol, its facts and its ways to stop short.

Implemented by `llama/` and `scripted.py`. Nothing here knows of jobs, sampling or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rbees.protocol.device_options import MAX_SLOTS, NOTHING_ASKED, DeviceOptions, KvLayout
from rbees.protocol.vectors import Pooling
from rbees.protocol.workers import Backend as BackendName
from rbees.protocol.workers import MemoryArchitecture
from rbees.workerd.engine.adapter import Adapter
from rbees.workerd.engine.shortage import Shortage
from rbees.workerd.engine.spill import State

Logits: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int32]
Vectors: TypeAlias = NDArray[np.float32]

_LEAST_KEPT: Final = 16

ProgressCallback: TypeAlias = Callable[[float], bool]
"""Told the loaded share, 0 to 1; answering False gives the load up."""


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """Which file to load and into what shape."""

    path: str
    backend: BackendName
    device: str
    """`cpu`, `cuda:0`, `metal:0`: the backend's name, then its own index; several with commas between them."""
    slots: int
    ctx: int
    """Most tokens of one sequence; less where the model was trained for less."""
    cells: int | None = None
    """KV cells shared by all slots; unset: `slots` times `ctx`."""
    threads: int | None = None
    """Compute threads; unset: one per physical core this process may use."""
    safe_mode: bool = False
    """Avoid the fast kernels that are known to kill the process on some virtual machines."""
    options: DeviceOptions = NOTHING_ASKED
    """How weights and KV cells are laid on the devices."""
    adapters: tuple[Adapter, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices by name."""
        return tuple(self.device.split(","))

    pooling: Pooling | None = None
    """Make embeddings so; unset: as the file's header says, and none where it says nothing."""


def slots_for(running: int, layout: KvLayout) -> int:
    """How many slots serve `running` sequences at once.

    In a pool those that keep finished ones cost next to nothing. Otherwise each costs the cells of a whole sequence, and one more
    is needed to move the others about.
    """
    return min(MAX_SLOTS, running + (max(_LEAST_KEPT, running) if layout == "unified" else 1))


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """What is known once the model is loaded."""

    architecture: str
    quantization: str
    tokenizer: str
    """The kind of tokenizer, as the file names it."""
    vocabulary_size: int
    ctx: int
    cells: int
    slots: int
    """KV sequence ids: those that run at once and those that keep what finished ones computed."""
    divisible: bool
    """Memory can be cut anywhere and shared by slots, which is not so where a recurrent state is part of it."""
    layout: KvLayout
    max_rows: int
    """Most rows of one decode call."""
    max_outputs: int
    """Most rows of one call that want logits; no fewer than sequences run at once."""
    memory_architecture: MemoryArchitecture
    chat_template: str | None
    bos_text: str
    eos_text: str
    adds_bos: bool
    """The tokenizer itself puts the beginning-of-text token in front."""
    eog_ids: frozenset[int]
    """Every token that ends a generation."""
    control_texts: tuple[str, ...]
    """Spellings that the tokenizer turns into control tokens where special parsing is on."""
    generates: bool = True
    """Whether it makes text. Where it does not, `decode` and what belongs to it must not be called."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One decode call: row i computes `tokens[i]` at `positions[i]` of slot `slots[i]`. Positions of a slot are contiguous."""

    slots: Ids
    positions: Ids
    tokens: Ids = field(repr=False)
    wants_logits: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class EmbedderFacts:
    """What is known of a model as one that makes vectors."""

    pooling: Pooling
    dimensions: int
    """Numbers of one vector; of a score's, one for each label of the classifier."""
    ctx: int
    """Most tokens of one sequence."""
    max_rows: int
    """Most tokens of one call; where sequences are whole, at least `ctx`."""
    good_rows: int
    """Tokens of one call beyond which it takes more memory and gains no speed."""
    max_sequences: int
    """Most sequences of one call, and how many numbers they can have."""
    whole: bool
    """A sequence must be computed in one call, because each token looks at those behind it too."""
    opening: tuple[int, ...] = ()
    """Tokens that the tokenizer puts before a text."""
    between: tuple[int, ...] = ()
    """Tokens that part a query and a document."""
    closing: tuple[int, ...] = ()
    """Tokens that the tokenizer puts behind a text."""
    scores_are_probabilities: bool = False
    """A score is one already, not a logit."""
    rerank_template: str | None = None
    """How query and document are written instead, with one `{query}` and one `{document}` in it."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one sequence that a call computes: those from position `start` on."""

    sequence: int
    start: int
    tokens: Ids = field(repr=False)


class Embedder(Protocol):
    """What makes vectors: a context of its own, so that nothing here disturbs what `Backend.decode` computes."""

    @property
    def facts(self) -> EmbedderFacts:
        """What is fixed since the load."""

    def compute(self, spans: list[Span]) -> Vectors:
        """Compute at most `max_rows` tokens of at most `max_sequences` sequences, one span of each.

        Returns:
            float32 (spans, dimensions): of each span the pooled vector of its own tokens; a score is that of the last.

        Raises:
            Interrupted, DecodeFailed; then nothing is left of any sequence.
        """

    def forget(self, sequence: int) -> None:
        """Forget what was computed of a sequence, so that its number can be used for another."""


class Interrupted(Exception):
    """`interrupt` stopped the decode call. Ask `length` of every slot for what is still there."""


class CellsExhausted(Exception):
    """No KV cells for the rows; nothing was computed."""


class DecodeFailed(Exception):
    """The rows could not be computed. Their slots may hold anything, unless what lacked was memory: then nothing was computed."""

    def __init__(self, shortage: Shortage | None = None) -> None:
        super().__init__()
        self.shortage = shortage


class LoadAbandoned(Exception):
    """The progress callback gave the load up."""


class Backend(Protocol):
    """A loaded model with its KV memory. Only `interrupt`, `progress`, `tokenize` and `piece` may be called from other threads."""

    @property
    def facts(self) -> BackendFacts:
        """What is fixed since the load."""

    @property
    def embedder(self) -> Embedder | None:
        """What makes vectors of texts; None where nothing says how. Only the thread that decodes may call it."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; `add_special` adds what the model wants at the beginning, `parse_special` reads control tokens."""

    def piece(self, token: int) -> bytes:
        """The bytes of one token; empty for control tokens. A piece need not be whole UTF-8."""

    def decode(self, rows: Rows) -> Logits:
        """Compute `rows` (at most `facts.max_rows`, of them `facts.max_outputs` wanted).

        Returns:
            float32 (number of wanted rows, vocabulary), in the order of the rows; writable, valid until the next call.

        Raises:
            Interrupted, CellsExhausted, DecodeFailed
        """

    def remove(self, slot: int, start: int) -> bool:
        """Forget positions `start` and after. False where the model's memory cannot be cut there; removing all always works."""

    def share(self, source: int, target: int, start: int, stop: int) -> None:
        """Positions `start` to `stop` of `target` become the very cells of `source`; what `target` had there is forgotten.

        Only where memory is divisible, both begin with the same tokens, and `target` reaches to `start`. Where each slot has cells
        of its own, `target` must be empty and gets a copy.
        """

    def clear(self) -> None:
        """Forget all slots and begin with the first cell again, as in a fresh context."""

    def state_bytes(self, slot: int) -> int:
        """Size of the state that `save` would return; 0 where it cannot be had now."""

    def save(self, slot: int) -> State:
        """A copy of all that the memory holds of `slot`, in a form of use to this process only. Raises MemoryError."""

    def restore(self, slot: int, state: State) -> bool:
        """Have `slot`, which is empty, hold again what `save` returned; else, where that is not possible now, False."""

    def length(self, slot: int) -> int:
        """How many positions of `slot` are computed."""

    def interrupt(self) -> None:
        """Make the decode call that runs, or the next one, raise Interrupted. Any thread may call it."""

    def rearm(self) -> None:
        """Take an `interrupt` back."""

    def progress(self) -> int:
        """A number that moves while a decode call computes. Any thread may call it."""

    def memory_bytes(self) -> int:
        """Memory that weights, KV cells and buffers hold on the device."""

    def close(self) -> None:
        """Give the memory back. Nothing may be called afterwards."""
