"""A child process that does dangerous work for the worker and can be killed: started when first needed, replaced when it dies.

Its program calls `child_loop.serve`. Messages both ways are bytes behind four bytes of length.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final

from rbees.service import logs

MAX_ANSWER_BYTES: Final = 128 * 1024 * 1024
_PASSED_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT")
# The child's memory is limited, and a pool of threads for matrices would fill that before any work is done.
_ADDED_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Child:
    """One program, run as `python -m module`; it answers one request at a time."""

    def __init__(self, module: str, *, timeout_s: float) -> None:
        self._module = module
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._one_at_a_time = asyncio.Lock()

    async def ask(self, request: bytes) -> bytes | None:
        """The answer; None if there was none in time, because the request took too much time, memory or stack."""
        async with self._one_at_a_time:
            return await self._ask(request)

    async def close(self) -> None:
        """End the child."""
        async with self._one_at_a_time:
            await self._kill()

    async def _ask(self, request: bytes) -> bytes | None:
        reused = self._process is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    return await self._try(request)
                except (asyncio.IncompleteReadError, ConnectionError):
                    if not reused:
                        raise
                # It may have died before it was asked, of something that this request has no part in.
                return await self._try(request)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            logs.logger().warning("a child was stopped", action="child_stopped", module=self._module, timeout_s=self._timeout_s)
            return None

    async def _try(self, request: bytes) -> bytes | None:
        finished = False
        try:
            answer = await self._exchange(await self._running(), request)
            finished = answer is not None
            return answer
        finally:
            if not finished:
                # Also when the caller was cancelled: an answer that nobody read would be taken for the next one.
                await asyncio.shield(self._kill())

    async def _exchange(self, process: asyncio.subprocess.Process, request: bytes) -> bytes | None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(len(request).to_bytes(4, "big") + request)
        await process.stdin.drain()
        size = int.from_bytes(await process.stdout.readexactly(4), "big")
        if size > MAX_ANSWER_BYTES:
            return None
        return await process.stdout.readexactly(size)

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                # Without it the current folder comes first among places to import from, and a file there could pose as a library.
                "-P",
                "-m",
                self._module,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                # A Ctrl-C in the terminal is for the worker, which still has work for its children while it drains.
                start_new_session=True,
                env={name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ} | _ADDED_ENVIRONMENT,
            )
        return self._process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
