"""A worker's control socket: one line of JSON upon connecting, from a process of this user or not at all."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Final

from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.workers import ControlInfo
from rbees.service.peer import peer_uid

MAX_LINE_BYTES: Final = 1024 * 1024


async def read_control(socket_path: Path, timeout_s: float = 5.0) -> ControlInfo:
    """What the worker behind the socket says of itself, its secret included.

    Raises:
        RbeesError: WORKER_UNREACHABLE, where nobody answers or what answers is no worker; FORBIDDEN, where it is another user's.
    """
    try:
        async with asyncio.timeout(timeout_s):
            line = await _first_line(socket_path)
    except (OSError, TimeoutError, ValueError):
        raise _no_worker(socket_path) from None
    try:
        return codec.decode(line, ControlInfo)
    except RbeesError:
        raise _no_worker(socket_path) from None


async def _first_line(socket_path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(socket_path), limit=MAX_LINE_BYTES)
    try:
        connected: socket.socket = writer.get_extra_info("socket")
        if peer_uid(connected) != os.getuid():
            raise RbeesError(ErrorCode.FORBIDDEN, f"The socket {socket_path} belongs to another user's process.")
        return await reader.readline()
    finally:
        writer.close()


def _no_worker(socket_path: Path) -> RbeesError:
    return RbeesError(ErrorCode.WORKER_UNREACHABLE, f"No worker answers on the control socket {socket_path}; it may have ended.")
