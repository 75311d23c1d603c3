"""Conversations in files: `/save` and `/load`."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Collection
from pathlib import Path

from rbees.ctl.conversation import Conversation, restored
from rbees.protocol.errors import ErrorCode, RbeesError


def read_chat(path: Path) -> Conversation:
    """Raises RbeesError: INVALID_REQUEST, where there is no such file or no chat in it."""
    try:
        return restored(path.read_bytes())
    except OSError as error:
        problem = f"cannot be read: {os.strerror(error.errno or 0)}"
    except ValueError as error:
        problem = str(error)
    raise RbeesError(ErrorCode.INVALID_REQUEST, f"{path} {problem}.", path=str(path))


def write_chat(path: Path, conversation: Conversation, own: Collection[Path]) -> Path:
    """Write it whole or not at all; only its owner may read it. A file that is neither among `own` nor a chat stays as it is.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    if path not in own and path.exists():
        try:
            read_chat(path)
        except RbeesError:
            message = f"{path} is there already and holds no chat; choose another name."
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, path=str(path)) from None
    beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(conversation.saved())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        message = f"{path} cannot be written: {os.strerror(error.errno or 0)}."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, path=str(path)) from None
    return path
