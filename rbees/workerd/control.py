"""The control socket: whoever runs as the same user on this machine learns how to talk to this worker.

A restarted pool daemon, or `rbees-pool`, connects, gets one JSON line (`ControlInfo`, the secret included) and the connection ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.workers import ControlInfo
from rbees.service import logs
from rbees.service.clock import Clock
from rbees.service.folders import make_private_folder
from rbees.service.peer import peer_uid

RESTORE_EVERY_S: Final = 2.0
_LONGEST_PATH: Final = 103


class ControlSocket:
    """Listens on `<runtime folder>/workers/<worker id>.sock`, mode 0600."""

    def __init__(self, runtime_dir: Path, worker_id: str, describe: Callable[[], ControlInfo]) -> None:
        self._runtime_dir = runtime_dir
        self._path = runtime_dir / "workers" / f"{worker_id}.sock"
        self._describe = describe
        self._server: asyncio.Server | None = None
        self._inode: int | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            RbeesError: CONFIGURATION where the folder is open to others or the path is too long for a socket; ALREADY_RUNNING
            where a worker of this id answers there.
        """
        if len(os.fsencode(self._path)) > _LONGEST_PATH:
            sentence = "The path of the control socket is too long; choose a shorter `--runtime-dir`."
            raise RbeesError(ErrorCode.CONFIGURATION, sentence)
        make_private_folder(self._runtime_dir)
        make_private_folder(self._path.parent)
        if _somebody_listens(self._path):
            sentence = "A worker with this id already runs on this machine; stop it or give this one another `--worker-id`."
            raise RbeesError(ErrorCode.ALREADY_RUNNING, sentence)
        # What a worker that was killed left behind.
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        previous = os.umask(0o177)
        try:
            listening.bind(str(self._path))
        finally:
            os.umask(previous)
        self._inode = self._path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._answer, sock=listening)

    async def keep(self, clock: Clock) -> None:
        """Listen anew wherever the socket's file has vanished, until cancelled.

        Cleaners of temporary folders take sockets for leftovers, and a restarted pool daemon has no other way to the worker.
        """
        complained = False
        while True:
            await clock.sleep(RESTORE_EVERY_S)
            if self._is_there():
                continue
            if self._server is not None:
                self._server.close()
            try:
                await self.start()
                logs.logger().warning("the control socket had vanished and is back", action="control_restored")
                complained = False
            except (OSError, RbeesError) as error:
                if not complained:
                    logs.logger().error("the control socket cannot be restored", action="control_lost", reason=str(error))
                complained = True

    def _is_there(self) -> bool:
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    async def stop(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            if self._is_there():
                self._path.unlink(missing_ok=True)

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if peer_uid(writer.get_extra_info("socket")) != os.getuid():
                logs.logger().warning("another user asked at the control socket", action="control_refused")
                return
            writer.write(encode(self._describe()) + b"\n")
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Only a full backlog could make it wait, and then somebody does listen.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True
