"""A short JSON list in the pool's state folder that several processes read and replace as a whole: never half of it is there."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from rbees.protocol.errors import ErrorCode, RbeesError

T = TypeVar("T")


def read(path: Path, kind: type[T]) -> T | None:
    """What the list holds; None where there is none, or a damaged one, which is as good as none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Between reading the list and writing it, nobody else may write: what he adds would be lost.

    Raises:
        RbeesError: STORAGE_FULL, where the list of `what` cannot be written.
    """
    try:
        with path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RbeesError(ErrorCode.STORAGE_FULL, f"The list of {what} {path} cannot be written: {reason}.") from None


def write(path: Path, value: object) -> None:
    """Replace the list; within `alone`. Raises OSError."""
    draft = path.with_suffix(f".{os.getpid()}.new")
    draft.write_bytes(msgspec.json.encode(value))
    os.replace(draft, path)
