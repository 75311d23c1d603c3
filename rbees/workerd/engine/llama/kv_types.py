"""How keys and values are stored: the library's number of each type, and which models a quantised one fits."""

from __future__ import annotations

from typing import Any, Final

from rbees.protocol.device_options import DEFAULT_KV_TYPE, DeviceOptions, KvType, fits_heads
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.engine.llama.facts import head_lengths
from rbees.workerd.engine.llama.library import ll

_BF16: Final = 30
"""GGML_TYPE_BF16 of ggml.h, which llama-cpp-python leaves out."""


def ggml_type(kv_type: KvType | None) -> int:
    """The library's number of the type."""
    return _BF16 if kv_type == "bf16" else int(getattr(ll, f"GGML_TYPE_{(kv_type or DEFAULT_KV_TYPE).upper()}"))


def check_head_lengths(options: DeviceOptions, model: Any) -> None:
    """Refuse a quantised type whose blocks are longer than, or no part of, what one head of the model stores.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE
    """
    key_length, value_length = head_lengths(model)
    for field, kv_type, length in (("kv_type_k", options.kv_type_k, key_length), ("kv_type_v", options.kv_type_v, value_length)):
        if not fits_heads(kv_type, length):
            raise RbeesError(
                ErrorCode.MODEL_INCOMPATIBLE,
                f"The model's heads are {length} long, which {kv_type} cannot store in whole blocks; store its "
                f"{'keys' if field == 'kv_type_k' else 'values'} as f16.",
                field=field,
                head_length=length,
            )
