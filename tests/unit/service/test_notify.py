"""systemd's notifications: what the environment asks for. The socket itself is an integration matter."""

from __future__ import annotations

import os

from rbees.service.clock import ManualClock
from rbees.service.notify import Notifier


async def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.status("fine")
    notifier.stopping()
    await notifier.watchdog(ManualClock())


async def test_a_watchdog_meant_for_another_process_is_left_alone() -> None:
    await Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid() + 1)}).watchdog(ManualClock())
    await Notifier({"WATCHDOG_USEC": "soon"}).watchdog(ManualClock())
    await Notifier({"WATCHDOG_USEC": "0"}).watchdog(ManualClock())
