"""The one import of llama_cpp, and what is done once with the library before anything else is asked of it."""

from __future__ import annotations

import ctypes
from typing import Any, Final

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.extras import install_command
from rbees.workerd.engine.llama.log import LibraryLog

try:
    import llama_cpp as ll
    from llama_cpp._ggml import libggml as ggml
except (ImportError, OSError, RuntimeError):  # Also a shared library that this machine cannot load.
    raise RbeesError(
        ErrorCode.BACKEND_UNAVAILABLE,
        f"llama.cpp is not installed here; run `{install_command('llama')}` (it needs a C++ compiler).",
    ) from None

__all__ = ["NotLoaded", "ggml", "ll", "open_library", "swift"]

_KEPT_FOR_EVER: Final[list[Any]] = []
"""The library holds these without saying so; collecting them would leave it a dangling pointer."""


def swift(function: Any) -> Any:
    """A function of the library that returns within microseconds, called without giving way to other threads.

    Through ctypes every call does, and gets its turn back only when another that is busy with Python lets go, up to 5 ms later: the
    engine's thread would stand still again and again in the midst of what it has to do before the next step.
    """
    kind = ctypes.PYFUNCTYPE(function.restype, *function.argtypes)
    return kind(ctypes.cast(function, ctypes.c_void_p).value or 0)


class NotLoaded(Exception):
    """The library answered with nothing: the sentence says what is wrong with the file, unless memory was lacking."""

    def __init__(self, sentence: str, **details: Any) -> None:
        super().__init__()
        self.sentence = sentence
        self.details = details


def open_library(log: LibraryLog) -> None:
    """Have the library write to `log` from now on, and make its backends ready."""
    callback = ll.llama_log_callback(log.take)
    ll.llama_log_set(callback, None)
    _KEPT_FOR_EVER.append(callback)
    ll.llama_backend_init()
