"""Stopping a decode call from another thread, by a C function that the library calls at every node of its graph.

A Python callback would need the interpreter's lock hundreds of times in a prefill. A function of libc with the right shape
does not: `sem_post` answers 0 and counts, which also shows progress from outside, until its semaphore is at the limit; then it
answers -1, which stops the call. Where unnamed semaphores are missing (macOS), `strlen` on a byte that is flipped does the
stopping and there is nothing to count.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final

_SEMAPHORE_LIMIT: Final = 0x7FFFFFFF


class CountingFlag:
    """A semaphore: every call counts, and at its limit it says stop."""

    def __init__(self) -> None:
        self._libc = ctypes.PyDLL(None)
        self._semaphore = (ctypes.c_uint64 * 8)()
        self._counted = 0
        self._set(0)

    @property
    def function(self) -> Any:
        """The C function to be called with `address`."""
        return self._libc.sem_post

    @property
    def address(self) -> int:
        """Its argument."""
        return ctypes.addressof(self._semaphore)

    def stop(self) -> None:
        """Have the call that runs, or the next, stop."""
        self._counted += self._count()
        self._set(_SEMAPHORE_LIMIT)

    def rearm(self) -> None:
        """Take `stop` back, and begin to count again before the limit is near."""
        self._counted += self._count()
        self._set(0)

    def progress(self) -> int:
        """How often it was called so far."""
        return self._counted + self._count()

    def _count(self) -> int:
        value = ctypes.c_int()
        self._libc.sem_getvalue(ctypes.byref(self._semaphore), ctypes.byref(value))
        return value.value if value.value < _SEMAPHORE_LIMIT else 0

    def _set(self, value: int) -> None:
        failed = self._libc.sem_init(ctypes.byref(self._semaphore), 0, ctypes.c_uint(value))
        assert failed == 0, "an unnamed semaphore can be made"


class PlainFlag:
    """A byte: `strlen` of it is 0 or 1."""

    def __init__(self) -> None:
        self._libc = ctypes.PyDLL(None)
        self._bytes = ctypes.create_string_buffer(2)

    @property
    def function(self) -> Any:
        """The C function to be called with `address`."""
        return self._libc.strlen

    @property
    def address(self) -> int:
        """Its argument."""
        return ctypes.addressof(self._bytes)

    def stop(self) -> None:
        """Have the call that runs, or the next, stop."""
        self._bytes[0] = b"x"

    def rearm(self) -> None:
        """Take `stop` back."""
        self._bytes[0] = b"\0"

    def progress(self) -> int:
        """Nothing is counted."""
        return 0


def make_flag() -> CountingFlag | PlainFlag:
    """The flag that this platform allows."""
    return PlainFlag() if sys.platform == "darwin" else CountingFlag()
