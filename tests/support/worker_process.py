"""One real worker process for a test: started with the flags that poold uses, ended by its id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from rbees.clients.control import read_control
from rbees.clients.workerd import WorkerClient
from rbees.protocol.errors import RbeesError
from rbees.protocol.workers import ControlInfo, WorkerState

START_S = 30.0


class WorkerProcess:
    """A running worker."""

    def __init__(self, process: asyncio.subprocess.Process, socket: Path, log: Path) -> None:
        self.process = process
        self.socket = socket
        self._log = log
        self.info: ControlInfo | None = None

    @property
    def log(self) -> str:
        """Everything it wrote."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def uri(self) -> str:
        """Where it listens."""
        assert self.info is not None
        return self.info.uri

    @property
    def secret(self) -> str:
        """What its routes ask for."""
        assert self.info is not None
        return self.info.secret

    @property
    def headers(self) -> dict[str, str]:
        """The header that its routes ask for."""
        return {"Authorization": f"Bearer {self.secret}"}

    async def listening(self) -> None:
        """Return once the control socket answers."""
        async with asyncio.timeout(START_S):
            while self.process.returncode is None:
                with contextlib.suppress(RbeesError):
                    self.info = await read_control(self.socket)
                    return
                await asyncio.sleep(0.02)
        raise AssertionError(f"the worker ended with {self.process.returncode}: {self.log}")

    async def ready(self) -> None:
        """Return once the model is loaded."""
        await self.listening()
        await self._until("ready")

    async def draining(self) -> None:
        """Return once it takes no more work."""
        await self._until("draining")

    async def _until(self, state: WorkerState) -> None:
        async with asyncio.timeout(START_S):
            while (await read_control(self.socket)).state != state:  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.02)

    def client(self) -> WorkerClient:
        """A client with the worker's secret."""
        return WorkerClient(self.uri, token=self.secret)

    async def ended(self, timeout_s: float = START_S) -> int:
        """The exit code, once there is one; negative for a signal."""
        async with asyncio.timeout(timeout_s):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def running_worker(
    model: Path,
    folder: Path,
    *flags: str,
    backend: str = "scripted",
    secret: str | None = None,
    address_space_bytes: int | None = None,
) -> AsyncIterator[WorkerProcess]:
    """Start a worker on `model` with its files in `folder`, and kill it at the end if it still runs."""
    runtime, log = folder / "run", folder / "worker.log"
    limit = [] if address_space_bytes is None else ["prlimit", f"--as={address_space_bytes}", "--"]
    words = [*limit, sys.executable, "-m", "rbees", "workerd", "serve", f"--model={model}", f"--backend={backend}", "--worker-id=w"]
    words += [f"--runtime-dir={runtime}", *flags]
    reading, writing = os.pipe()
    os.write(writing, (secret or secrets.token_hex(32)).encode())
    os.close(writing)
    words.append(f"--secret-fd={reading}")
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *words, stdout=file, stderr=file, pass_fds=(reading,), start_new_session=True
        )
    os.close(reading)
    try:
        yield WorkerProcess(process, runtime / "workers" / "w.sock", log)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()
