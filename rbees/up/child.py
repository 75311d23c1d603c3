"""One supervised daemon: started, started again when it dies, ended in order or by force.

Its output goes to a file. It sits in a session of its own, so that Ctrl-C reaches the supervisor alone, which then ends the
daemons in the right order; and it holds the reading end of the supervisor's pipe (see `service/leash.py`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.service.clock import Clock

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 30.0
STABLE_S: Final = 30.0
"""A daemon that lived for so long starts its row of delays anew."""
MAX_EARLY_DEATHS: Final = 3
"""So often may a daemon die before it was ever ready; then something is wrong that a restart does not mend."""
MAX_LOG_BYTES: Final = 16 * 1024 * 1024
LOG_TAIL_LINES: Final = 8

_HOPELESS: Final = frozenset({ExitCode.USAGE, ExitCode.BUSY, ExitCode.PERMISSION, ExitCode.CONFIGURATION})
"""Exit codes after which the same start would end the same way; a taken port stays taken."""
_CODES: Final[dict[int, ErrorCode]] = {
    ExitCode.IO_ERROR: ErrorCode.STORAGE_FULL,
    ExitCode.BUSY: ErrorCode.ADDRESS_IN_USE,
    ExitCode.PERMISSION: ErrorCode.CONFIGURATION,
    ExitCode.CONFIGURATION: ErrorCode.CONFIGURATION,
}
"""Under which code the failure to start is reported; any other exit code is a defect."""


class Child:
    """`python -m rbees ROLE serve …`."""

    def __init__(
        self,
        role: str,
        flags: Sequence[str],
        *,
        folder: Path,
        environ: Mapping[str, str],
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        self.role = role
        self.log_path = folder / f"{role}.log"
        self.is_proven = False
        """Set once the daemon has been seen to work; from then on it is started again whatever it dies of."""
        self._flags = tuple(flags)
        self._folder = folder
        self._environ = dict(environ)
        self._clock = clock
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def keep_running(self, leash: int) -> None:
        """Run the daemon until `stop`; start it again, with growing delays, whenever it dies.

        `leash` is the reading end of the supervisor's pipe.

        Raises:
            RbeesError: the daemon cannot work as it is; the end of its log is in the details.
        """
        deaths = 0
        while not self._stopping.is_set():
            began_at = self._clock.monotonic()
            status = await self._run_once(leash)
            if self._stopping.is_set():
                return
            deaths = 1 if self._clock.monotonic() - began_at >= STABLE_S else deaths + 1
            if not self.is_proven and (status in _HOPELESS or deaths >= MAX_EARLY_DEATHS):
                raise self._failure(status)
            delay_s = min(FIRST_DELAY_S * 2 ** (deaths - 1), LONGEST_DELAY_S)
            self._say(f"{self.role} ended ({how_it_ended(status)}); starting it again in {delay_s:g} s, its log is {self.log_path}")
            await self._clock.sleep(delay_s)

    async def stop(self, patience_s: float, hurry: asyncio.Event) -> None:
        """End the daemon: SIGTERM, and SIGKILL after `patience_s` or as soon as `hurry` is set. Returns once it is gone."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        gone, hurried = asyncio.create_task(process.wait()), asyncio.create_task(hurry.wait())
        await asyncio.wait({gone, hurried}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not gone.done():
            process.kill()
        await gone

    async def _run_once(self, leash: int) -> int:
        output = _open_log(self.log_path)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "rbees", "--exit-with-parent-fd", str(leash), self.role, "serve", *self._flags),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(leash,),
                env=self._environ,
                cwd=self._folder,
                start_new_session=True,
            )
        finally:
            os.close(output)
        if self._stopping.is_set():
            # `stop` came while the process was being made and could not know of it.
            self._process.kill()
        return await self._process.wait()

    def _failure(self, status: int) -> RbeesError:
        tail = log_tail(self.log_path)
        return RbeesError(
            _CODES.get(status, ErrorCode.INTERNAL),
            f"{self.role} cannot start ({how_it_ended(status)}); the whole log is {self.log_path}.",
            role=self.role,
            log=str(self.log_path),
            log_tail=tail,
        )


def how_it_ended(status: int) -> str:
    """A return code of `subprocess` in words."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def log_tail(path: Path) -> list[str]:
    """The last lines of a log, for somebody who looks at a failure."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line[:500] for line in lines[-LOG_TAIL_LINES:]]


def _open_log(path: Path) -> int:
    """A descriptor that appends to the log. One that has grown large makes way first; a single older one is kept."""
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".old.log"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
