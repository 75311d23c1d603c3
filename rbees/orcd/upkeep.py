"""`rbees orcd db`: looking through the state and copying it, whether or not an orcd has it open.

An orcd that runs holds the lock of its folder and has written its url there. It is asked over its routes, for a second process at
the file would be one too many; where the lock is free, it is taken, and the file is read in place.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from rbees.clients.orcd import OrcdClient
from rbees.orcd.state_files import DATABASE, EVENTS, LOCK
from rbees.orcd.store import queries
from rbees.orcd.store.check import check as check_open
from rbees.orcd.store.copying import copy, replacing
from rbees.orcd.store.migrations import packaged
from rbees.orcd.store.sqlite import read_aside
from rbees.protocol.database import DatabaseReport
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import auth, folders
from rbees.service.lock import ProcessLock
from rbees.service.role_settings import OrcdSettings

T = TypeVar("T")

PATIENCE_S: Final = 10.0
"""For an orcd that is starting and has told no url yet, or is ending and answers no more."""
LOOK_S: Final = 0.1
_URL: Final = re.compile(r" at (https?://\S+)$")


@dataclass(frozen=True, slots=True)
class Backup:
    """What came of a backup."""

    report: DatabaseReport
    """About the copy. Where it tells of troubles, the copy was not kept."""
    size_bytes: int


def check(settings: OrcdSettings) -> DatabaseReport:
    """Look through the state.

    Raises:
        RbeesError: CONFIGURATION where there is none, or what the orcd that has it open says.
    """
    return asyncio.run(_act(settings, _folder(settings), _look_through, lambda orcd: orcd.check_database()))


def backup(settings: OrcdSettings, file: Path, *, overwrite: bool) -> Backup:
    """Copy the state into `file`, if the copy turns out whole.

    Raises:
        RbeesError: as `check`; INVALID_REQUEST where `file` exists or cannot be written; STORAGE_FULL.
    """
    folder = _folder(settings)
    if file.resolve().parent == folder.resolve() and file.name.startswith((DATABASE, LOCK)):
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"{file} belongs to the state itself; name another file.", field="file")
    if not file.name:
        raise RbeesError(ErrorCode.INVALID_REQUEST, "The backup needs the name of a file.", field="file")
    if os.path.lexists(file) and not file.is_file():
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"{file} is no ordinary file; name another.", field="file")
    if not overwrite and os.path.lexists(file):
        raise _exists(file)
    try:
        with replacing(file, overwrite=overwrite) as part:
            made = Backup(asyncio.run(_fill(settings, folder, part)), part.stat().st_size)
            if made.report.troubles:
                raise _NotKept(made)
    except _NotKept as refused:
        return refused.backup
    except FileExistsError:
        raise _exists(file) from None
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        reason = os.strerror(error.errno or 0)
        raise RbeesError(
            ErrorCode.STORAGE_FULL if full else ErrorCode.INVALID_REQUEST,
            f"{file} cannot be written: {reason}; {'free space there or ' if full else ''}name a file elsewhere.",
            field="file",
        ) from None
    return made


class _NotKept(Exception):
    def __init__(self, backup: Backup) -> None:
        super().__init__()
        self.backup = backup


async def _fill(settings: OrcdSettings, folder: Path, part: Path) -> DatabaseReport:
    async def on_file(path: Path) -> None:
        await read_aside(path, lambda connection, pause: copy(connection, part, pause))

    async def over_routes(orcd: OrcdClient) -> None:
        # Opened anew for each try: what an orcd that died meanwhile has sent is no beginning of what the next one sends.
        with part.open("wb") as out:
            await orcd.copy_database(out.write)

    await _act(settings, folder, on_file, over_routes)
    return await _look_through(part, still=True)


async def _look_through(path: Path, *, still: bool = False) -> DatabaseReport:
    sql = queries.load()
    return await read_aside(path, lambda connection, pause: check_open(connection, packaged(), sql, pause), still=still)


async def _act(
    settings: OrcdSettings,
    folder: Path,
    on_file: Callable[[Path], Awaitable[T]],
    over_routes: Callable[[OrcdClient], Awaitable[T]],
) -> T:
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await _act_once(settings, folder, on_file, over_routes)
        except RbeesError as error:
            # One that is starting has told no url yet, one that is ending answers no more; a third reason stays and is told.
            if error.code not in {ErrorCode.ALREADY_RUNNING, ErrorCode.ORCD_UNREACHABLE} or time.monotonic() >= until_s:
                raise
        await asyncio.sleep(LOOK_S)


async def _act_once(
    settings: OrcdSettings,
    folder: Path,
    on_file: Callable[[Path], Awaitable[T]],
    over_routes: Callable[[OrcdClient], Awaitable[T]],
) -> T:
    with ExitStack() as held:
        try:
            held.enter_context(ProcessLock(folder / LOCK))
        except RbeesError as error:
            url = _URL.search(str(error.details.get("holder")))
            if url is None:
                raise
        else:
            return await on_file(folder / DATABASE)
    async with _client(settings, url[1]) as orcd:
        return await over_routes(orcd)


def _client(settings: OrcdSettings, url: str) -> OrcdClient:
    return OrcdClient(
        url,
        token=auth.read_secret(settings.token_file) if settings.token_file else None,
        ssl=auth.tls_client_context(settings.tls_ca_file),
        role="orcd",
    )


def _folder(settings: OrcdSettings) -> Path:
    """The folder that holds the state: the one that the settings name, orcd's own, or that of `rbees up`."""
    if settings.state_dir is not None:
        places = [folders.absolute(settings.state_dir)]
    else:
        own = folders.state_folder("orcd")
        places = [own, own.parent / "up" / "orcd"]
    for place in places:
        if (place / DATABASE).is_file():
            return place
    raise RbeesError(
        ErrorCode.CONFIGURATION,
        f"There is no state of an orchestrator in {places[0]}; name its folder with `--state-dir`.",
        path=str(places[0]),
    )


def latest_events(settings: OrcdSettings) -> Path:
    """The newest log of the scheduler's events. Raises RbeesError CONFIGURATION where there is none."""
    folder = _folder(settings) / EVENTS
    latest = max(folder.glob("*.events"), default=None)
    if latest is None:
        raise RbeesError(ErrorCode.CONFIGURATION, f"There is no log of events in {folder}; name a file.", path=str(folder))
    return latest


def _exists(file: Path) -> RbeesError:
    return RbeesError(ErrorCode.INVALID_REQUEST, f"{file} exists already; `--force` replaces it.", field="file")
