"""The leash of a supervised daemon: it ends when the process that started it is gone, however that one ended.

The supervisor keeps the writing end of a pipe and never writes; the kernel closes it whatever happens to the supervisor.
Unlike Linux's PR_SET_PDEATHSIG this works on every platform and does not depend on which thread started the child.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Final

GRACE_S: Final = 40.0
"""Longer than a daemon's own drain, after which the process ends whether it is done or not."""


def end_with_parent(descriptor: int, grace_s: float = GRACE_S) -> None:
    """Watch the reading end of the pipe from a thread; at its end send this process SIGTERM, and after `grace_s` SIGKILL."""
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_wait_for_end, args=(descriptor, grace_s), name="leash", daemon=True).start()


def _wait_for_end(descriptor: int, grace_s: float) -> None:
    while True:
        try:
            if not os.read(descriptor, 1):
                break
        except OSError:
            # A descriptor that cannot be read tells nothing about the parent, and never will.
            return
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os.kill(os.getpid(), signal.SIGKILL)
