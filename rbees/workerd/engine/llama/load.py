"""From a file to a backend that has computed once."""

from __future__ import annotations

from typing import Any

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.engine.abort_flag import make_flag
from rbees.workerd.engine.backend import CellsExhausted, DecodeFailed, LoadSpec, ProgressCallback
from rbees.workerd.engine.llama.adapters import load_adapters
from rbees.workerd.engine.llama.context import LlamaBackend, make_context
from rbees.workerd.engine.llama.devices import check_backend
from rbees.workerd.engine.llama.embedding import is_causal, make_embedder
from rbees.workerd.engine.llama.facts import check_layout
from rbees.workerd.engine.llama.free_memory import with_available
from rbees.workerd.engine.llama.library import NotLoaded, ll, open_library
from rbees.workerd.engine.llama.log import LibraryLog
from rbees.workerd.engine.llama.model import check_kind, load_model, makes_no_text
from rbees.workerd.engine.llama.residency import drop_mapped_pages
from rbees.workerd.engine.refusals import out_of_memory
from rbees.workerd.engine.shortage import Shortage


def load(spec: LoadSpec, progress: ProgressCallback) -> LlamaBackend:
    """Load the file into a context and warm it up.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE, INSUFFICIENT_VRAM, BACKEND_UNAVAILABLE
        LoadAbandoned: `progress` answered False.
    """
    log = LibraryLog()
    open_library(log)
    log.take_shortage()
    check_backend(spec)
    try:
        return _load(spec, progress, log)
    except NotLoaded as failure:
        shortage = log.take_shortage()
        if shortage is None:
            raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, failure.sentence, **failure.details) from None
        raise _too_little(shortage, spec) from None
    except MemoryError:
        raise _too_little(Shortage(), spec) from None


def _load(spec: LoadSpec, progress: ProgressCallback, log: LibraryLog) -> LlamaBackend:
    model = load_model(spec, progress)
    try:
        check_kind(model)
        adapters = load_adapters(model, spec.adapters, log)
        backend = _backend(spec, model, adapters, log)
    except (NotLoaded, RbeesError, MemoryError):
        ll.llama_model_free(model)
        raise
    if (spec.options.load_mode or "auto") in ("auto", "mmap"):
        # Before the warm-up, which brings back what is needed of them.
        drop_mapped_pages(spec.path)
    try:
        backend.warm_up()
    except RbeesError:
        backend.close()
        raise
    except (DecodeFailed, CellsExhausted, MemoryError) as failure:
        backend.close()
        if isinstance(failure, DecodeFailed) and failure.shortage is not None:
            raise _too_little(failure.shortage, spec) from None
        if isinstance(failure, MemoryError):
            raise
        raise NotLoaded("llama.cpp loads this model but cannot compute with it. The worker's log has the reason.") from None
    return backend


def _backend(spec: LoadSpec, model: Any, adapters: list[Any], log: LibraryLog) -> LlamaBackend:
    """A backend for what the model can do: make text, vectors or both."""
    flag = make_flag()
    embedder = make_embedder(spec, model, adapters, log, flag)
    log.footprint.settle()
    if embedder is not None and not embedder.generates:
        return LlamaBackend(spec, model, embedder.context, log, flag, embedder)
    try:
        if not is_causal(model):
            raise makes_no_text()
        check_layout(spec, model)
        backend = make_context(spec, model, adapters, log, flag, embedder)
    except (NotLoaded, RbeesError):
        if embedder is not None:
            ll.llama_free(embedder.context)
        raise
    return backend


def _too_little(shortage: Shortage, spec: LoadSpec) -> RbeesError:
    advice = "ask for fewer slots, a smaller context, KV types of fewer bits, or a smaller quantisation"
    return out_of_memory(with_available(shortage, spec), "loading the model", advice)
