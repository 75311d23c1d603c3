"""LoRA adapters: loaded beside a model before its context is made, and in force for every token from then on."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Final

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.engine.adapter import Adapter
from rbees.workerd.engine.llama.library import NotLoaded, ll
from rbees.workerd.engine.llama.log import LibraryLog

_REASONS: Final = {
    "arch mismatch": "it was made for a model of another architecture",
    "wrong base model": "it was made for another model: its tensors do not fit this one",
    "expect general.type": "the file is no LoRA adapter",
    "expect adapter.type": "the file is no LoRA adapter",
    "not transposed": "it has a form that llama.cpp no longer reads; convert it again",
}
"""What the library writes about an adapter, by a part of it, and what that means."""


def load_adapters(model: Any, adapters: tuple[Adapter, ...], log: LibraryLog) -> list[Any]:
    """The library's handles, in order. They belong to the model and are freed with it.

    Raises:
        NotLoaded
        RbeesError: MODEL_INCOMPATIBLE
    """
    return [_load(model, number, adapter, log) for number, adapter in enumerate(adapters, 1)]


def put_in_force(context: Any, handles: list[Any], adapters: tuple[Adapter, ...]) -> None:
    """Have the context compute with the adapters."""
    if not handles:
        return
    listed = (ll.llama_adapter_lora_p_ctypes * len(handles))(*handles)
    scales = (ctypes.c_float * len(handles))(*(adapter.scale for adapter in adapters))
    failed = ll.llama_set_adapters_lora(context, listed, len(handles), scales)
    assert failed == 0, "adapters of this very model are taken"


def _load(model: Any, number: int, adapter: Adapter, log: LibraryLog) -> Any:
    handle = ll.llama_adapter_lora_init(model, os.fsencode(adapter.path))
    if not handle:
        reason = log.meaning(_REASONS) or "its file is damaged or incomplete"
        raise NotLoaded(f"LoRA adapter {number} cannot be used: {reason}.", adapter=number)
    if ll.llama_adapter_get_alora_n_invocation_tokens(handle):
        raise RbeesError(
            ErrorCode.MODEL_INCOMPATIBLE,
            f"LoRA adapter {number} is in force only after certain words, and a worker uses its adapters from the first token on.",
            adapter=number,
        )
    return handle
