"""llama.cpp by its low-level interface: the only user of llama_cpp.

The library ends the process on wrong arguments (a slot out of range, too many outputs, a copy onto an occupied slot), so each
is checked here before the call. All slots share one unified KV memory. What its functions say in numbers becomes an exception of
`backend` or an `RbeesError`; its log lines go to the structured log.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import Any, Final

import numpy as np
import psutil

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.workers import MemoryArchitecture
from rbees.service import logs
from rbees.service.extras import install_command
from rbees.workerd.engine.abort_flag import make_flag
from rbees.workerd.engine.backend import (
    BackendFacts,
    CellsExhausted,
    DecodeFailed,
    Interrupted,
    LoadAbandoned,
    LoadSpec,
    Logits,
    ProgressCallback,
    Rows,
    slots_for,
)

try:
    import llama_cpp as ll
except (ImportError, OSError, RuntimeError):  # Also a shared library that this machine cannot load.
    raise RbeesError(
        ErrorCode.BACKEND_UNAVAILABLE,
        f"llama.cpp is not installed here; run `{install_command('llama')}` (it needs a C++ compiler).",
    ) from None

MAX_ROWS: Final = 512
_WARM_UP_ROWS: Final = 64
_SMALLEST_CONTEXT: Final = 16
_LARGEST_PIECE_BYTES: Final = 1024
_ALL_LAYERS: Final = 10_000
_OUT_OF_MEMORY: Final = re.compile(r"(failed|unable) to allocate|out of memory|insufficient memory", re.IGNORECASE)
_HARMLESS: Final = re.compile(r"n_ctx_seq \(\d+\) > n_ctx_train")
"""With one cache for all slots the library takes its size for that of each sequence; the engine keeps those to the model's."""
_MEMORY: Final[dict[str, MemoryArchitecture]] = {"cuda": "vram", "metal": "unified"}


class LlamaBackend:
    """One model in one context."""

    def __init__(self, spec: LoadSpec, model: Any, context: Any, keep_alive: tuple[Any, ...]) -> None:
        self._spec = spec
        self._model = model
        self._context = context
        self._keep_alive = keep_alive
        self._flag = keep_alive[0]
        self._vocab = ll.llama_model_get_vocab(model)
        self._memory = ll.llama_get_memory(context)
        self._max_outputs = min(spec.slots, ll.llama_n_batch(context))
        self._facts = self._read_facts()
        self._pieces: dict[int, bytes] = {}
        self._batch = _BatchArrays(self._facts.max_rows)

    @property
    def facts(self) -> BackendFacts:
        """What is fixed since the load."""
        return self._facts

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """As `Backend.tokenize`."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 16
        while True:
            ids = (ll.llama_token * size)()
            count = ll.llama_tokenize(self._vocab, data, len(data), ids, size, add_special, parse_special)
            if count >= 0:
                return list(ids[:count])
            size = -count

    def piece(self, token: int) -> bytes:
        """As `Backend.piece`."""
        known = self._pieces.get(token)
        if known is None:
            assert 0 <= token < self._facts.vocabulary_size
            buffer = ctypes.create_string_buffer(_LARGEST_PIECE_BYTES)
            length = ll.llama_token_to_piece(self._vocab, token, buffer, _LARGEST_PIECE_BYTES, 0, False)
            known = self._pieces[token] = buffer.raw[: max(0, length)]
        return known

    def decode(self, rows: Rows) -> Logits:
        """As `Backend.decode`."""
        outputs = int(rows.wants_logits.sum())
        assert 0 < len(rows) <= self._facts.max_rows
        assert outputs <= self._max_outputs
        assert rows.slots.min() >= 0 and rows.slots.max() < self._facts.slots  # noqa: PT018 - one condition
        assert rows.tokens.min() >= 0 and rows.tokens.max() < self._facts.vocabulary_size  # noqa: PT018
        assert rows.positions.min() >= 0 and rows.positions.max() < self._facts.ctx  # noqa: PT018
        status = ll.llama_decode(self._context, self._batch.fill(rows))
        if status == 1:
            raise CellsExhausted
        if status == 2:
            raise Interrupted
        if status < -1:
            logs.logger().error("llama_decode failed", action="decode_failed", status=status, rows=len(rows))
            raise DecodeFailed
        assert status == 0, f"llama_decode refused the batch with {status}"
        width = self._facts.vocabulary_size
        if not outputs:
            return np.empty((0, width), dtype=np.float32)
        return np.ctypeslib.as_array(ll.llama_get_logits(self._context), shape=(outputs, width))

    def remove(self, slot: int, start: int) -> bool:
        """As `Backend.remove`."""
        assert 0 <= slot < self._facts.slots
        return bool(ll.llama_memory_seq_rm(self._memory, slot, start, -1))

    def share(self, source: int, target: int, start: int, stop: int) -> None:
        """As `Backend.share`."""
        assert self._facts.divisible
        assert 0 <= source < self._facts.slots
        assert 0 <= target < self._facts.slots
        assert source != target
        assert 0 <= start < stop <= self.length(source)
        assert start <= self.length(target), "no gap may be left"
        # Copying onto positions that are occupied would mix both.
        ll.llama_memory_seq_rm(self._memory, target, start, stop)
        ll.llama_memory_seq_cp(self._memory, source, target, start, stop)

    def clear(self) -> None:
        """As `Backend.clear`."""
        ll.llama_memory_clear(self._memory, False)

    def length(self, slot: int) -> int:
        """As `Backend.length`."""
        assert 0 <= slot < self._facts.slots
        return int(ll.llama_memory_seq_pos_max(self._memory, slot)) + 1

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
        """On the CPU what the process holds; on a device weights and KV cells, by their sizes."""
        if self._facts.memory_architecture == "ram":
            return int(psutil.Process().memory_info().rss)
        return int(ll.llama_model_size(self._model)) + self._kv_bytes()

    def close(self) -> None:
        """As `Backend.close`."""
        ll.llama_free(self._context)
        ll.llama_model_free(self._model)

    def warm_up(self) -> None:
        """One prompt and one token through all kernels: what kills the process shall do it before a job is here."""
        count = min(_WARM_UP_ROWS, self._facts.max_rows, self._facts.ctx - 1)
        for start, length in ((0, count), (count, 1)):
            wants = np.zeros(length, dtype=np.bool_)
            wants[-1] = True
            zeros = np.zeros(length, dtype=np.int32)
            self.decode(Rows(zeros, np.arange(start, start + length, dtype=np.int32), zeros, wants))
        self.clear()

    def _read_facts(self) -> BackendFacts:
        size = ll.llama_vocab_n_tokens(self._vocab)
        trained_for = ll.llama_model_n_ctx_train(self._model)
        ctx = min(self._spec.ctx, trained_for) if trained_for > 0 else self._spec.ctx
        template = ll.llama_model_chat_template(self._model, None)
        control = ll.LLAMA_TOKEN_ATTR_CONTROL | ll.LLAMA_TOKEN_ATTR_UNKNOWN
        return BackendFacts(
            architecture=_metadata(self._model, "general.architecture") or "unknown",
            quantization=_quantization(self._model),
            tokenizer=_metadata(self._model, "tokenizer.ggml.model") or "unknown",
            vocabulary_size=size,
            ctx=ctx,
            cells=self._spec.cells or ctx * self._spec.slots,
            slots=ll.llama_n_seq_max(self._context),
            divisible=_is_divisible(self._model),
            max_rows=ll.llama_n_batch(self._context),
            memory_architecture=_MEMORY.get(self._spec.backend, "ram"),
            chat_template=template.decode("utf-8", "replace") if template else None,
            bos_text=self._spelling(ll.llama_vocab_bos(self._vocab)),
            eos_text=self._spelling(ll.llama_vocab_eos(self._vocab)),
            adds_bos=bool(ll.llama_vocab_get_add_bos(self._vocab)),
            eog_ids=frozenset(i for i in range(size) if ll.llama_vocab_is_eog(self._vocab, i)),
            control_texts=tuple(
                text for i in range(size) if ll.llama_vocab_get_attr(self._vocab, i) & control and (text := self._spelling(i))
            ),
        )

    def _spelling(self, token: int) -> str:
        return "" if token < 0 else str(ll.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace"))

    def _kv_bytes(self) -> int:
        """Two bytes (F16) for keys and values of every head, layer and cell."""
        heads = max(1, ll.llama_model_n_head(self._model))
        width = ll.llama_model_n_embd(self._model) * ll.llama_model_n_head_kv(self._model) // heads
        return int(4 * width * ll.llama_model_n_layer(self._model) * self._facts.cells)


class _BatchArrays:
    """A `llama_batch` over numpy arrays, filled by column instead of by row."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._slots = np.zeros(capacity, dtype=np.int32)
        self._slot_counts = np.ones(capacity, dtype=np.int32)
        self._wants = np.zeros(capacity, dtype=np.int8)
        # One pointer per row, each to that row's own slot.
        self._slot_pointers = self._slots.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        self._batch = ll.llama_batch()
        for name, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._slot_counts),
            ("seq_id", self._slot_pointers),
            ("logits", self._wants),
        ):
            field_type = dict(ll.llama_batch._fields_)[name]
            setattr(self._batch, name, ctypes.cast(array.ctypes.data, field_type))

    def fill(self, rows: Rows) -> Any:
        count = len(rows)
        self._tokens[:count] = rows.tokens
        self._positions[:count] = rows.positions
        self._slots[:count] = rows.slots
        self._wants[:count] = rows.wants_logits
        self._batch.n_tokens = count
        return self._batch


def load(spec: LoadSpec, progress: ProgressCallback) -> LlamaBackend:
    """Load the file into a context and warm it up.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE, INSUFFICIENT_VRAM, BACKEND_UNAVAILABLE
        LoadAbandoned: `progress` answered False.
    """
    log = _LibraryLog()
    callback = ll.llama_log_callback(log.take)
    ll.llama_log_set(callback, None)
    _KEPT_FOR_EVER.append(callback)
    ll.llama_backend_init()
    if spec.backend != "cpu" and not ll.llama_supports_gpu_offload():
        raise _no_offload(spec.backend)
    model = _load_model(spec, progress, log)
    try:
        _check_kind(model)
        backend = _make_context(spec, model, log)
    except RbeesError:
        ll.llama_model_free(model)
        raise
    try:
        backend.warm_up()
    except (DecodeFailed, CellsExhausted):
        backend.close()
        raise log.refusal("llama.cpp loads this model but cannot compute with it.") from None
    return backend


_KEPT_FOR_EVER: Final[list[Any]] = []
"""The library holds these without saying so; collecting them would leave it a dangling pointer."""


def _load_model(spec: LoadSpec, progress: ProgressCallback, log: _LibraryLog) -> Any:
    abandoned = False

    def on_progress(share: float, _user_data: Any) -> bool:
        nonlocal abandoned
        abandoned = not progress(share)
        return not abandoned

    params = ll.llama_model_default_params()
    params.use_extra_bufts = not spec.safe_mode
    params.progress_callback = callback = ll.llama_progress_callback(on_progress)
    no_devices = (ctypes.c_void_p * 1)(None)
    if spec.backend == "cpu":
        # An empty list, so that a library built for a GPU leaves it alone.
        params.devices = ctypes.addressof(no_devices)
        params.n_gpu_layers = 0
    else:
        params.n_gpu_layers = _ALL_LAYERS
        params.split_mode = ll.LLAMA_SPLIT_MODE_NONE
        params.main_gpu = _device_index(spec.device)
    model = ll.llama_model_load_from_file(os.fsencode(spec.path), params)
    del callback, no_devices
    if model:
        return model
    if abandoned:
        raise LoadAbandoned
    raise log.refusal("llama.cpp cannot load this file: it is truncated, damaged, or of a kind that this version does not know.")


def _check_kind(model: Any) -> None:
    vocab = ll.llama_model_get_vocab(model)
    if ll.llama_vocab_type(vocab) == ll.LLAMA_VOCAB_TYPE_NONE or ll.llama_vocab_n_tokens(vocab) == 0:
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, "The file holds no tokenizer; convert the model again with one.")
    if 0 < ll.llama_model_n_ctx_train(model) < _SMALLEST_CONTEXT:
        raise RbeesError(
            ErrorCode.MODEL_INCOMPATIBLE,
            "The file's header gives the model no usable context length; convert the model again.",
        )
    if ll.llama_model_has_encoder(model) or not ll.llama_model_has_decoder(model):
        raise RbeesError(
            ErrorCode.MODEL_INCOMPATIBLE, "The model does not generate text from text alone; choose a decoder-only model."
        )


def _make_context(spec: LoadSpec, model: Any, log: _LibraryLog) -> LlamaBackend:
    flag = make_flag()
    abort = ctypes.cast(flag.function, ll.ggml_abort_callback)
    trained_for = ll.llama_model_n_ctx_train(model)
    ctx = min(spec.ctx, trained_for) if trained_for > 0 else spec.ctx
    params = ll.llama_context_default_params()
    params.n_ctx = spec.cells or ctx * spec.slots
    params.n_batch = params.n_ubatch = max(MAX_ROWS, spec.slots)
    # A recurrent state takes memory for every slot; of other memory a slot is nothing but a number.
    params.n_seq_max = slots_for(spec.slots) if _is_divisible(model) else spec.slots
    # Without this the compute buffers are sized for logits of every row of a batch. The library wants one for each slot.
    params.n_outputs_max = params.n_seq_max
    params.n_threads = params.n_threads_batch = spec.threads or _physical_cores()
    params.kv_unified = True
    params.no_perf = True
    params.offload_kqv = params.op_offload = spec.backend != "cpu"
    params.abort_callback = abort
    params.abort_callback_data = flag.address
    context = ll.llama_init_from_model(model, params)
    if not context:
        raise log.refusal("llama.cpp cannot make a context for this model; ask for fewer slots or a smaller context.")
    return LlamaBackend(spec, model, context, (flag, abort))


class _LibraryLog:
    """Turns the library's lines into log events, and remembers whether it lacked memory."""

    def __init__(self) -> None:
        self._log = logs.logger()
        self._line = ""
        self._level = 0
        self._out_of_memory = False

    def take(self, level: int, text: bytes, _user_data: Any) -> None:
        """The callback: pieces of lines, level 5 going on with the one before."""
        self._level = level if level != 5 else self._level
        self._line += text.decode("utf-8", "replace")
        if self._line.endswith("\n") or len(self._line) > 4096:
            line, self._line = self._line.strip(), ""
            self._write(line)

    def refusal(self, sentence: str) -> RbeesError:
        """Why nothing was loaded."""
        if self._out_of_memory:
            return RbeesError(
                ErrorCode.INSUFFICIENT_VRAM, "The device ran out of memory while loading; ask for fewer slots or a smaller context."
            )
        return RbeesError(ErrorCode.MODEL_INCOMPATIBLE, f"{sentence} The worker's log has the reason.")

    def _write(self, line: str) -> None:
        self._out_of_memory |= _OUT_OF_MEMORY.search(line) is not None
        if not line.strip("."):
            return
        level = 0 if _HARMLESS.search(line) else self._level
        write = {3: self._log.warning, 4: self._log.error}.get(level, self._log.debug)
        write(line, action="llama_log")


def _metadata(model: Any, key: str) -> str | None:
    buffer = ctypes.create_string_buffer(256)
    length = ll.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if length >= 0 else None


def _is_divisible(model: Any) -> bool:
    """Whether each token has cells of its own that stay.

    A recurrent state cannot be cut back, although `llama_memory_can_shift` says so of some. With a sliding window the
    library overwrites cells that fell out of their own sequence's window, but another that shares them may still need them.
    """
    recurrent = ll.llama_model_is_recurrent(model) or ll.llama_model_is_hybrid(model)
    return not recurrent and ll.llama_model_n_swa(model) == 0


def _quantization(model: Any) -> str:
    """The name of the file type that the header states, such as Q4_K_M."""
    stated = _metadata(model, "general.file_type")
    prefix = "LLAMA_FTYPE_MOSTLY_"
    names = {str(getattr(ll, name)): name.removeprefix(prefix) for name in dir(ll) if name.startswith(prefix)}
    return {"0": "F32", **names}.get(stated or "", "unknown")


def _device_index(device: str) -> int:
    _, _, index = device.partition(":")
    return int(index) if index.isdigit() else 0


def _physical_cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


def _no_offload(backend: str) -> RbeesError:
    flag = "GGML_CUDA" if backend == "cuda" else "GGML_METAL"
    return RbeesError(
        ErrorCode.BACKEND_UNAVAILABLE,
        f"This llama.cpp was built without {backend}; run "
        f"`CMAKE_ARGS=-D{flag}=on pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python`.",
    )
