"""The way around orcd: a worker's address and secret, read from its control socket as its own user may."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rbees.clients.control import read_control
from tests.support.home import Home


@dataclass(frozen=True)
class WorkerDoor:
    """Where a worker listens and what its routes ask for."""

    worker_id: str
    uri: str
    headers: Mapping[str, str] = field(repr=False)


def door_of(home: Home) -> WorkerDoor:
    """The door of this home's one worker."""
    (worker,) = home.workers()
    words = dict(word.partition("=")[::2] for word in worker.cmdline() if word.startswith("--"))
    socket = Path(words["--runtime-dir"]) / "workers" / f"{words['--worker-id']}.sock"
    info = asyncio.run(read_control(socket))
    return WorkerDoor(info.worker_id, info.uri, {"Authorization": f"Bearer {info.secret}"})
