"""Which port a home listens on: its usual one, or a free one where that is taken."""

from __future__ import annotations

import socket

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.home import is_home_taken

LOOPBACK = "127.0.0.1"


def choose_port(usual: int, asked: int | None = None, taken: frozenset[int] = frozenset()) -> int:
    """A port of the loopback address that is free now. Whoever then finds it taken all the same may choose again.

    Raises:
        RbeesError: ADDRESS_IN_USE, where the port that was asked for is taken.
    """
    if asked:
        if not _is_free(asked):
            raise taken_port(asked)
        return asked
    if usual not in taken and asked is None and _is_free(usual):
        return usual
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def refuse_taken(asked: int) -> None:
    """Say at once that a port is another program's, before anything is written. Raises RbeesError ADDRESS_IN_USE.

    Where a home runs here it may be that which has the port, and whoever takes the home's file says so.
    """
    if not _is_free(asked) and not is_home_taken():
        raise taken_port(asked)


def taken_port(asked: int) -> RbeesError:
    """The refusal to exchange a port that was asked for."""
    message = f"Another program listens on port {asked}; name another with `--port`, or leave it out to take a free one."
    return RbeesError(ErrorCode.ADDRESS_IN_USE, message, port=asked)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the daemon itself does: what an earlier one left in TIME_WAIT does not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            # Two sockets may be bound to one port as long as neither listens.
            probe.listen()
        except OSError:
            return False
    return True
