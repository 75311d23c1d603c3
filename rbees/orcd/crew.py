"""The tasks of the daemon: each has a name, none is lost, and one that fails by a defect ends the process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

from rbees.protocol.errors import RbeesError
from rbees.service import logs

T = TypeVar("T")


class Crew:
    """Starts tasks and keeps them. `failed` tells the main function that one of them met a defect."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failed = asyncio.Event()

    def start(self, work: Coroutine[Any, Any, Any], name: str, context: Context | None = None) -> asyncio.Task[Any]:
        """Run `work` beside everything else; `context` holds the correlation id where another than the caller's is meant."""
        task = asyncio.create_task(work, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def whole(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """What comes of `work`, which goes on to its end also where whoever waits leaves; then nobody hears of a refusal."""
        task = asyncio.create_task(work, name=name)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.start(_unheard(task), name)
            raise

    async def dismiss(self) -> None:
        """Cancel every task and wait until it is gone."""
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            logs.logger().critical("a task failed by a defect", action="task_defect", task=task.get_name(), exc_info=error)
            self.failed.set()


async def _unheard(task: asyncio.Task[Any]) -> None:
    with suppress(RbeesError):
        await task
