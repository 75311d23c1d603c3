"""Loading a model's weights, and refusing what is no model that can be served."""

from __future__ import annotations

import os
from typing import Any, Final

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.engine.backend import LoadAbandoned, LoadSpec, ProgressCallback
from rbees.workerd.engine.llama.devices import DeviceParams
from rbees.workerd.engine.llama.library import NotLoaded, ll

_SMALLEST_CONTEXT: Final = 16


def load_model(spec: LoadSpec, progress: ProgressCallback, *, without_weights: bool = False) -> Any:
    """The model in `spec.path`; the caller frees it. Without weights it can only be reckoned with, not computed with.

    Raises:
        NotLoaded
        LoadAbandoned: `progress` answered False.
    """
    abandoned = False

    def on_progress(share: float, _user_data: Any) -> bool:
        nonlocal abandoned
        abandoned = not progress(share)
        return not abandoned

    params = ll.llama_model_default_params()
    params.use_extra_bufts = not spec.safe_mode
    params.progress_callback = callback = ll.llama_progress_callback(on_progress)
    devices = DeviceParams(spec)
    devices.fill(params)
    if without_weights:
        params.no_alloc = True
        # With any other way to load, the library ends the process here.
        params.load_mode = ll.LLAMA_LOAD_MODE_NONE
    model = ll.llama_model_load_from_file(os.fsencode(spec.path), params)
    del callback, devices
    if model:
        return model
    if abandoned:
        raise LoadAbandoned
    raise NotLoaded(
        "llama.cpp cannot load this file: it is truncated, damaged, or of a kind that this version does not know. "
        "The worker's log has the reason."
    )


def check_kind(model: Any) -> None:
    """Refuse a model that turns text neither into text nor into vectors by itself.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE
    """
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
            ErrorCode.MODEL_INCOMPATIBLE,
            "The model has an encoder beside or instead of its decoder; choose a decoder-only or an embedding model.",
        )


def makes_no_text() -> RbeesError:
    """The refusal of a model of which neither is known: that it makes text, nor how it makes vectors."""
    return RbeesError(
        ErrorCode.MODEL_INCOMPATIBLE,
        "The model makes no text, and its header does not say how it makes vectors; start its worker with `--pooling mean`, "
        "`cls` or `last`, or with `--pooling rank` where it is a reranker.",
    )
