"""Who is at the other end of a Unix socket, as the kernel says."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final

_LOCAL_PEERCRED: Final = 0x001
"""`struct xucred` on macOS: version, uid, number of groups, sixteen groups."""


def peer_uid(connected: socket.socket) -> int:
    """The user id of the process that opened the other end. OSError where the kernel does not tell."""
    if sys.platform == "darwin":
        credentials = connected.getsockopt(0, _LOCAL_PEERCRED, struct.calcsize("IIh16I"))
        return int(struct.unpack_from("II", credentials)[1])
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    return int(struct.unpack("iII", credentials)[1])
