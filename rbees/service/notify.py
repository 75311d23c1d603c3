"""Telling systemd how a daemon does (sd_notify(3)): ready, stopping, a status line, and the watchdog's sign of life.

Without systemd (`NOTIFY_SOCKET` unset) every call does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from rbees.service.clock import Clock


class Notifier:
    """Speaks to the socket that the environment names."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environ is None else environ
        self._address = variables.get("NOTIFY_SOCKET") or None
        self._watchdog_s = _watchdog_interval_s(variables)

    def ready(self) -> None:
        """The daemon serves: units ordered after it may start."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The daemon drains."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={' '.join(text.split())}")

    async def watchdog(self, clock: Clock) -> None:
        """Give a sign of life at half the interval that the unit asks for, for as long as the loop turns; ends at once where it
        asks for none."""
        while self._watchdog_s is not None:
            self._send("WATCHDOG=1")
            await clock.sleep(self._watchdog_s / 2)

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # A leading @ stands for the null byte of an abstract socket.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.setblocking(False)
            try:
                sending.sendto(message.encode(), address)
            except OSError:
                # A supervisor that is gone or busy must not take the daemon with it.
                return


def _watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Seconds between two signs of life, where they are asked of this very process."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    meant_for = environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdigit() or int(microseconds) == 0 or meant_for != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000
