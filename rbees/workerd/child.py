"""A child process that does dangerous work for the worker and can be killed: started when first needed, replaced when it dies.

Its program calls `child_loop.serve`. It says `READY` once; then messages both ways are bytes behind four
bytes of length.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import logs
from rbees.workerd.child_loop import READY

ANSWER_TIMEOUT_S: Final = 60.0
"""Far beyond the processor time that a child allows itself for one request: on a busy host that takes many times as long."""
START_TIMEOUT_S: Final = 60.0
MAX_ANSWER_BYTES: Final = 128 * 1024 * 1024
_PASSED_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT")
# The child's memory is limited, and a pool of threads for matrices would fill that before any work is done.
_ADDED_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Child:
    """One program, run as `python -m module`; it answers one request at a time.

    It ends itself where a request takes more processor time or memory than the program allows. The clock here is for a child that
    gets no processor, or stands still for another reason, and says nothing of the request.
    """

    def __init__(self, module: str, *, timeout_s: float = ANSWER_TIMEOUT_S, start_timeout_s: float = START_TIMEOUT_S) -> None:
        self._module = module
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._one_at_a_time = asyncio.Lock()

    async def ask(self, request: bytes) -> bytes | None:
        """The answer; None if the child died of the request, which took too much processor time, memory or stack.

        Raises:
            RbeesError: WORKER_UNREACHABLE where the child did not start or answer in time: the same request may pass later.
        """
        async with self._one_at_a_time:
            answer = await self._ask(request)
        if answer is None:
            logs.logger().warning("a child was stopped", action="child_stopped", module=self._module)
        return answer

    async def close(self) -> None:
        """End the child."""
        async with self._one_at_a_time:
            await self._kill()

    async def _ask(self, request: bytes) -> bytes | None:
        reused = self._process is not None
        try:
            try:
                return await self._try(request)
            except (asyncio.IncompleteReadError, ConnectionError):
                if not reused:
                    raise
            # It may have died before it was asked, of something that this request has no part in.
            return await self._try(request)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except TimeoutError:
            raise self._too_busy(self._timeout_s) from None

    async def _try(self, request: bytes) -> bytes | None:
        finished = False
        try:
            process = await self._running()
            async with asyncio.timeout(self._timeout_s):
                try:
                    answer = await self._exchange(process, request)
                except (asyncio.IncompleteReadError, ConnectionError):
                    if await process.wait() != -signal.SIGXCPU:
                        raise
                    answer = None  # The limit is for this one request.
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
            assert self._process.stdout is not None
            # To start Python and read libraries takes seconds on a busy host, and the request has no part in that.
            try:
                async with asyncio.timeout(self._start_timeout_s):
                    await self._process.stdout.readexactly(len(READY))
            except (TimeoutError, asyncio.IncompleteReadError):
                raise self._too_busy(self._start_timeout_s) from None
        return self._process

    def _too_busy(self, timeout_s: float) -> RbeesError:
        logs.logger().warning("a child did not start or answer", action="child_silent", module=self._module, timeout_s=timeout_s)
        message = "The worker's host is too busy to prepare the answer in time; send the request again."
        return RbeesError(ErrorCode.WORKER_UNREACHABLE, message)

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
