"""One `rbees up` in a terminal: the checks before, what it says, the signals that end it."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import click

from rbees.protocol.errors import ExitCode
from rbees.protocol.model_ref import FileRef, parse
from rbees.protocol.pools import PoolView
from rbees.service.clock import Clock, SystemClock
from rbees.service.folders import state_folder
from rbees.service.home import HomeFile
from rbees.service.lock import ProcessLock
from rbees.terminal.notes import Notes, notes
from rbees.terminal.output import print_json
from rbees.up.first_model import first_model, make_ready
from rbees.up.home_mode import HomeMode, Place
from rbees.up.neighbours import refuse_beside_service
from rbees.up.ports import choose_port

ORCD_PORT: Final = 8080
POOLD_PORT: Final = 9200
EXAMPLE_PROMPT: Final = "write a haiku with the word honey"
QUIET_STOP_S: Final = 1.5
"""An end that takes longer is explained."""


def run(model: str | None, port: int | None, model_dirs: tuple[str, ...], *, as_json: bool) -> int:
    """Run home mode until it is told to end; the exit code.

    Raises:
        RbeesError: ALREADY_RUNNING, ADDRESS_IN_USE, or what a daemon or the model says.
    """
    with asyncio.Runner() as runner:
        return runner.run(_run(model, port, folders_of_models(model, model_dirs), as_json=as_json))


def folders_of_models(model: str | None, model_dirs: Sequence[str]) -> tuple[Path, ...]:
    """The folders to look for models in: those that were named, and the one that holds a model named by its file.

    Raises:
        RbeesError: INVALID_REQUEST, where `model` is no model reference.
    """
    named = [Path(folder).expanduser().absolute() for folder in model_dirs]
    reference = parse(model) if model is not None else None
    if isinstance(reference, FileRef):
        named.append(Path(reference.path).parent)
    return tuple(named)


async def _run(model: str | None, port: int | None, model_dirs: tuple[Path, ...], *, as_json: bool) -> int:
    file = HomeFile()
    file.acquire()
    try:
        state = state_folder("up")
        refuse_beside_service(state.parent)
        # The runtime folder may be another one for a login without a session; the state is what must not be shared.
        with ProcessLock(state / "lock") as lock:
            orcd_port = choose_port(ORCD_PORT, port)
            place = Place(state, orcd_port, choose_port(POOLD_PORT, taken=frozenset({orcd_port})), model_dirs)
            lock.describe(f"rbees up at {place.orcd_url}")
            return await _live(place, file, model, as_json=as_json)
    finally:
        file.release()


async def _live(place: Place, file: HomeFile, model: str | None, *, as_json: bool) -> int:
    stopping, hurry = _on_signals()
    clock = SystemClock()
    with notes(silent=as_json) as said:

        def say(text: str) -> None:
            # A line that stays: what happened to a daemon should still be there when somebody looks.
            said.clear()
            click.echo(text, err=True)

        home = HomeMode(place, clock, say)
        said.note("starting orcd and poold")
        home.start()
        try:
            pool = await _until(stopping, _get_ready(home, model, clock, said))
            if pool is not None:
                file.write(place.home())
                said.clear()
                _announce(place, pool, model, as_json=as_json)
                await home.wait_end(stopping)
        finally:
            await _end(home, hurry, said)
    return ExitCode.OK


async def _get_ready(home: HomeMode, model: str | None, clock: Clock, said: Notes) -> PoolView:
    pool = await home.wait_ready()
    if model is not None:
        await make_ready(home.client, pool, model, clock, said.note)
    return pool


async def _until(stopping: asyncio.Event, work: Coroutine[Any, Any, PoolView]) -> PoolView | None:
    """What `work` gives, or None where the end came first."""
    doing, told = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({doing, told}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        doing.cancel()
        told.cancel()


async def _end(home: HomeMode, hurry: asyncio.Event, said: Notes) -> None:
    ending = asyncio.create_task(home.stop(hurry))
    await asyncio.wait({ending}, timeout=QUIET_STOP_S)
    if not ending.done():
        said.note("finishing what runs; Ctrl-C again ends it at once")
    await ending
    said.clear()


def _announce(place: Place, pool: PoolView, model: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json(place.home())
        return
    click.echo(f"rbees is up at {place.orcd_url} (Ctrl-C ends it)")
    suggested = model or first_model(pool)
    if suggested is None:
        click.echo(f"No model is here yet: put a GGUF file into {place.state_dir / 'poold' / 'models'}.", err=True)
        return
    click.echo("In another terminal, try:", err=True)
    click.echo(f"  llorch jobs submit --model {shlex.quote(suggested)} --prompt {shlex.quote(EXAMPLE_PROMPT)}", err=True)


def _on_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Set by the first and by the second signal that ends this process."""
    stopping, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stopping.is_set() else stopping).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    return stopping, hurry
