"""How a daemon's process begins and ends: the event loop, the two signals, the exit code."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from rbees.protocol.errors import ExitCode
from rbees.service import logs

Main = Callable[[asyncio.Event], Awaitable[int]]


def run_daemon(main: Main) -> int:
    """Run `main(stopping)` to its end and return its exit code.

    SIGTERM and SIGINT set `stopping`, upon which `main` drains and returns; a second signal ends the process at once with 130.
    An `RbeesError` that `main` raises goes to the caller, which knows how to say it.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_until_done(main))


async def _until_done(main: Main) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_stray_failure)
    stopping = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stopping.is_set():
            os._exit(ExitCode.INTERRUPTED)
        logs.logger().info("stopping", action="daemon_stop", signal=number.name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await main(stopping)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _log_stray_failure(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # asyncio's own handler prints reprs of tasks and results, which may hold a prompt; only its sentence and the frames are kept.
    error = context.get("exception")
    logs.logger().error("failure outside of any task", action="loop_failure", what=str(context["message"]), exc_info=error)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster loop of the extra `fast` where it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
