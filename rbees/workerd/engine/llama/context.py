"""One model with one KV memory that all slots share: the backend that the engine computes with."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any, Final, Protocol

import numpy as np
import psutil

from rbees.protocol.device_options import ACCELERATORS, FlashAttention
from rbees.service import logs
from rbees.service.cores import usable_cores
from rbees.workerd.engine.abort_flag import CountingFlag, PlainFlag
from rbees.workerd.engine.backend import (
    BackendFacts,
    CellsExhausted,
    DecodeFailed,
    Embedder,
    Interrupted,
    LoadSpec,
    Logits,
    Rows,
)
from rbees.workerd.engine.llama.adapters import put_in_force
from rbees.workerd.engine.llama.batch import BatchArrays
from rbees.workerd.engine.llama.devices import chosen_devices
from rbees.workerd.engine.llama.facts import cell_count, layout_for, max_outputs, read_facts, slot_count
from rbees.workerd.engine.llama.free_memory import with_available
from rbees.workerd.engine.llama.kv_types import check_head_lengths, ggml_type
from rbees.workerd.engine.llama.library import NotLoaded, ll, swift
from rbees.workerd.engine.llama.log import LibraryLog
from rbees.workerd.engine.llama.model import makes_no_text
from rbees.workerd.engine.llama.vocabulary import Vocabulary
from rbees.workerd.engine.spill import State

MAX_ROWS: Final = 512
_WARM_UP_ROWS: Final = 64
_FLASH_ATTENTION: Final[dict[FlashAttention, str]] = {
    "auto": "LLAMA_FLASH_ATTN_TYPE_AUTO",
    "on": "LLAMA_FLASH_ATTN_TYPE_ENABLED",
    "off": "LLAMA_FLASH_ATTN_TYPE_DISABLED",
}

_seq_rm: Final = swift(ll.llama_memory_seq_rm)
_seq_cp: Final = swift(ll.llama_memory_seq_cp)
_seq_pos_max: Final = swift(ll.llama_memory_seq_pos_max)
_state_size: Final = swift(ll.llama_state_seq_get_size)
_get_small_state: Final = swift(ll.llama_state_seq_get_data)
_set_small_state: Final = swift(ll.llama_state_seq_set_data)
_SMALL_STATE_BYTES: Final = 1 << 20

Flag = CountingFlag | PlainFlag


class LlamaVectors(Embedder, Protocol):
    """An embedder of llama.cpp, which the backend warms up and closes."""

    @property
    def context(self) -> Any:
        """What it computes in."""

    def warm_up(self) -> None:
        """Some text through all kernels; refuses what computes nothing of sense."""


class LlamaBackend:
    """One model in one context. `embedder` has a context of its own, or this very one where the model makes no text."""

    def __init__(
        self,
        spec: LoadSpec,
        model: Any,
        context: Any,
        log: LibraryLog,
        flag: Flag,
        embedder: LlamaVectors | None = None,
    ) -> None:
        self._spec = spec
        self._model = model
        self._context = context
        self._log = log
        self._devices = tuple(device.name for device in chosen_devices(spec))
        self._flag = flag
        self._embedder = embedder
        self._vocabulary = Vocabulary(model)
        self._memory = ll.llama_get_memory(context)
        shared = embedder is not None and embedder.context is context
        self._facts = read_facts(spec, model, context, self._vocabulary, generates=not shared)
        self._batch = BatchArrays(self._facts.max_rows)
        # Elsewhere a state is fetched from a device, which may first finish what it computes.
        self._swift_state_bytes = 0 if spec.backend in ACCELERATORS else _SMALL_STATE_BYTES
        self._copied_from: set[int] = set()
        self._copied_to: set[int] = set()
        """Slots whose cells the next call copies, before it computes anything."""

    @property
    def facts(self) -> BackendFacts:
        """What is fixed since the load."""
        return self._facts

    @property
    def embedder(self) -> LlamaVectors | None:
        """As `Backend.embedder`."""
        return self._embedder

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """As `Backend.tokenize`."""
        return self._vocabulary.tokenize(text, add_special=add_special, parse_special=parse_special)

    def piece(self, token: int) -> bytes:
        """As `Backend.piece`."""
        return self._vocabulary.piece(token)

    def decode(self, rows: Rows) -> Logits:
        """As `Backend.decode`."""
        assert self._facts.generates
        outputs = int(rows.wants_logits.sum())
        assert 0 < len(rows) <= self._facts.max_rows
        assert outputs <= self._facts.max_outputs
        assert rows.slots.min() >= 0 and rows.slots.max() < self._facts.slots  # noqa: PT018 - one condition
        assert rows.tokens.min() >= 0 and rows.tokens.max() < self._facts.vocabulary_size  # noqa: PT018
        assert rows.positions.min() >= 0 and rows.positions.max() < self._facts.ctx  # noqa: PT018
        # What was lacking earlier and then was not needed says nothing of this call.
        self._log.take_shortage()
        self._copied_from.clear()
        self._copied_to.clear()
        status = ll.llama_decode(self._context, self._batch.fill(rows))
        if status == 1:
            raise CellsExhausted
        if status == 2:
            raise Interrupted
        if status < -1:
            logs.logger().error("llama_decode failed", action="decode_failed", status=status, rows=len(rows))
            shortage = self._log.take_shortage()
            raise DecodeFailed(with_available(shortage, self._spec) if shortage is not None else None)
        assert status == 0, f"llama_decode refused the batch with {status}"
        width = self._facts.vocabulary_size
        if not outputs:
            return np.empty((0, width), dtype=np.float32)
        return np.ctypeslib.as_array(ll.llama_get_logits(self._context), shape=(outputs, width))

    def remove(self, slot: int, start: int) -> bool:
        """As `Backend.remove`."""
        assert 0 <= slot < self._facts.slots
        return bool(_seq_rm(self._memory, slot, start, -1))

    def share(self, source: int, target: int, start: int, stop: int) -> None:
        """As `Backend.share`."""
        assert self._facts.divisible
        assert 0 <= source < self._facts.slots
        assert 0 <= target < self._facts.slots
        assert source != target
        assert 0 <= start < stop <= self.length(source)
        assert start <= self.length(target), "no gap may be left"
        if self._facts.layout == "per_slot":
            assert start == 0
            assert self.length(target) == 0
            # Only a whole slot can be copied; what the target is not to have is cut off. The cells are copied with the next call.
            _seq_cp(self._memory, source, target, -1, -1)
            _seq_rm(self._memory, target, stop, -1)
            self._copied_from.add(source)
            self._copied_to.add(target)
            return
        # Copying onto positions that are occupied would mix both.
        _seq_rm(self._memory, target, start, stop)
        _seq_cp(self._memory, source, target, start, stop)

    def state_bytes(self, slot: int) -> int:
        """As `Backend.state_bytes`: nothing of a slot that a copy is on its way to."""
        assert 0 <= slot < self._facts.slots
        return 0 if slot in self._copied_to else int(_state_size(self._context, slot))

    def save(self, slot: int) -> State:
        """As `Backend.save`."""
        assert slot not in self._copied_to
        state = np.empty(self.state_bytes(slot), dtype=np.uint8)
        get_data = _get_small_state if state.nbytes <= self._swift_state_bytes else ll.llama_state_seq_get_data
        written = get_data(self._context, _bytes_of(state), state.nbytes, slot)
        assert written == state.nbytes, "a state is as large as the library said"
        return state

    def restore(self, slot: int, state: State) -> bool:
        """As `Backend.restore`. Copies that are on their way would take the new content with them, or overwrite it."""
        assert self.length(slot) == 0
        if slot in self._copied_from | self._copied_to:
            return False
        set_data = _set_small_state if state.nbytes <= self._swift_state_bytes else ll.llama_state_seq_set_data
        with self._log.subdued():
            read = set_data(self._context, _bytes_of(state), state.nbytes, slot)
        if read != state.nbytes:
            _seq_rm(self._memory, slot, -1, -1)
            return False
        return True

    def clear(self) -> None:
        """As `Backend.clear`."""
        ll.llama_memory_clear(self._memory, False)

    def length(self, slot: int) -> int:
        """As `Backend.length`."""
        assert 0 <= slot < self._facts.slots
        return int(_seq_pos_max(self._memory, slot)) + 1

    def interrupt(self) -> None:
        """As `Backend.interrupt`."""
        self._flag.stop()

    def rearm(self) -> None:
        """As `Backend.rearm`."""
        self._flag.rearm()

    def progress(self) -> int:
        """As `Backend.progress`."""
        return int(self._flag.progress())

    def memory_bytes(self) -> int:
        """On the CPU what the process holds; on devices the buffers of weights, KV cells and computing."""
        if self._facts.memory_architecture == "ram":
            return int(psutil.Process().memory_info().rss)
        return self._log.footprint.bytes_on(self._devices)

    def close(self) -> None:
        """As `Backend.close`."""
        if self._embedder is not None and self._facts.generates:
            ll.llama_free(self._embedder.context)
        ll.llama_free(self._context)
        ll.llama_model_free(self._model)

    def warm_up(self) -> None:
        """One prompt and one token through all kernels: what kills the process shall do it before a job is here.

        Raises:
            DecodeFailed, CellsExhausted
        """
        if self._embedder is not None:
            self._embedder.warm_up()
        if not self._facts.generates:
            return
        count = min(_WARM_UP_ROWS, self._facts.max_rows, self._facts.ctx - 1)
        for start, length in ((0, count), (count, 1)):
            wants = np.zeros(length, dtype=np.bool_)
            wants[-1] = True
            zeros = np.zeros(length, dtype=np.int32)
            self.decode(Rows(zeros, np.arange(start, start + length, dtype=np.int32), zeros, wants))
        self._reserve_largest_step()
        self.clear()

    def _reserve_largest_step(self) -> None:
        """Begin the largest step and break it off at its first node, for the memory that it has taken by then.

        A step that lacks memory for the library's own lists and work space would end the process. What the largest step needs
        stays with the library, so none of the later ones asks for more.
        """
        self.clear()
        ctx = self._facts.ctx
        index = np.arange(min(self._facts.max_rows, self._facts.cells, ctx * self._spec.slots), dtype=np.int32)
        self.interrupt()
        try:
            with self._log.subdued(), contextlib.suppress(Interrupted):
                self.decode(Rows(index // ctx, index % ctx, np.zeros_like(index), index == index[-1]))
        finally:
            self.rearm()


def make_context(
    spec: LoadSpec, model: Any, adapters: list[Any], log: LibraryLog, flag: Flag, embedder: LlamaVectors | None
) -> LlamaBackend:
    """A backend over `model` with its adapters, which it takes over.

    Raises:
        NotLoaded
        RbeesError: MODEL_INCOMPATIBLE
    """
    context = text_context(spec, model, flag)
    put_in_force(context, adapters, spec.adapters)
    return LlamaBackend(spec, model, context, log, flag, embedder)


def text_context(spec: LoadSpec, model: Any, flag: Flag) -> Any:
    """The library's context that makes text.

    Raises:
        NotLoaded
        RbeesError: MODEL_INCOMPATIBLE
    """
    params = common_params(spec, model, flag)
    params.n_ctx = cell_count(spec, model)
    params.n_batch = params.n_ubatch = max(MAX_ROWS, spec.slots)
    params.n_seq_max = slot_count(spec, model)
    params.kv_unified = layout_for(spec, model) == "unified"
    # Without this the compute buffers are sized for logits of every row of a batch. The library wants one for each slot; the others
    # are there for rows that were guessed.
    params.n_outputs_max = max_outputs(spec, model)
    context = ll.llama_init_from_model(model, params)
    if not context:
        raise NotLoaded(
            "llama.cpp cannot make a context for this model; ask for fewer slots or a smaller context. "
            "The worker's log has the reason."
        )
    if not ll.llama_get_memory(context):
        # Only models of BERT's kind have none, whatever their headers say or leave out.
        ll.llama_free(context)
        raise makes_no_text()
    return context


def common_params(spec: LoadSpec, model: Any, flag: Flag) -> Any:
    """What every context of a worker has: its threads, its devices, and the flag that stops it.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE
    """
    options = spec.options
    check_head_lengths(options, model)
    params = ll.llama_context_default_params()
    params.n_threads = params.n_threads_batch = spec.threads or usable_cores()
    params.kv_unified = True
    params.flash_attn_type = getattr(ll, _FLASH_ATTENTION[options.flash_attention or "auto"])
    params.type_k, params.type_v = ggml_type(options.kv_type_k), ggml_type(options.kv_type_v)
    params.no_perf = True
    params.offload_kqv = params.op_offload = spec.backend in ACCELERATORS
    params.abort_callback = ctypes.cast(flag.function, ll.ggml_abort_callback)
    params.abort_callback_data = flag.address
    return params


def _bytes_of(state: State) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
