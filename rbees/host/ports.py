"""A free port from the range that the operator opened for workers."""

from __future__ import annotations

import socket
from collections.abc import Collection

from rbees.protocol.errors import ErrorCode, RbeesError


def choose_port(bind: str, first: int, last: int, taken: Collection[int]) -> int:
    """The first port of the range that no worker and no other program has; 0 (the system chooses) where there is no range.

    Raises:
        RbeesError: ADDRESS_IN_USE: the whole range is taken.
    """
    if first == 0:
        return 0
    for port in range(first, max(first, last) + 1):
        if port not in taken and _is_free(bind, port):
            return port
    raise RbeesError(
        ErrorCode.ADDRESS_IN_USE, f"All ports from {first} to {last} are taken; widen `worker_port_first` to `worker_port_last`."
    )


def _is_free(bind: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind.strip("[]"), port))
        except OSError:
            return False
    return True
