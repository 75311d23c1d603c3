"""One `rbees up` in a terminal: the checks before, what it says, the signals that end it."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from rbees.host.backends import library_folder, problem_of
from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.protocol.model_ref import FileRef, parse
from rbees.protocol.pools import PoolView
from rbees.service.clock import SystemClock
from rbees.service.folders import absolute, state_folder
from rbees.service.home import HomeFile
from rbees.service.lock import ProcessLock
from rbees.terminal.notes import Notes, notes
from rbees.terminal.output import print_json
from rbees.up.first_model import can_chat, first_model, make_ready
from rbees.up.home_mode import Callers, HomeMode, Place, passed_over
from rbees.up.neighbours import refuse_beside_service, wait_for_predecessors
from rbees.up.ports import choose_port, taken_port

ORCD_PORT: Final = 8080
POOLD_PORT: Final = 9200
PLACE_TRIES: Final = 4
"""So often are ports chosen: between the choice and the daemon's listening another program may take one."""
QUIET_STOP_S: Final = 1.5
"""An end that takes longer is explained."""

T = TypeVar("T")


def run(
    file: HomeFile,
    model: str | None,
    port: int | None,
    model_dirs: tuple[str, ...],
    callers: Callers,
    ctx: int | None = None,
    *,
    as_json: bool,
) -> int:
    """Run home mode until it is told to end; the exit code. `file` is held by the caller.

    Raises:
        RbeesError: ALREADY_RUNNING, ADDRESS_IN_USE, or what a daemon or the model says.
    """
    with asyncio.Runner() as runner:
        return runner.run(_run(file, model, port, folders_of_models(model, model_dirs), callers, ctx, as_json=as_json))


def folders_of_models(model: str | None, model_dirs: Sequence[str]) -> tuple[Path, ...]:
    """The folders to look for models in: those that were named, and the one that holds a model named by its file.

    Raises:
        RbeesError: INVALID_REQUEST, where `model` is no model reference.
    """
    named = [absolute(folder) for folder in model_dirs]
    reference = parse(model) if model is not None else None
    if isinstance(reference, FileRef):
        named.append(Path(reference.path).parent)
    return tuple(named)


async def _run(
    file: HomeFile,
    model: str | None,
    port: int | None,
    model_dirs: tuple[Path, ...],
    callers: Callers,
    ctx: int | None,
    *,
    as_json: bool,
) -> int:
    state = state_folder("up")
    refuse_beside_service(state.parent)
    # The runtime folder may be another one for a login without a session; the state is what must not be shared.
    with ProcessLock(state / "lock") as lock:
        return await Session(state, port, model_dirs, callers, ctx, file, lock, as_json=as_json).live(model)


class Session:
    """Home mode from its start to its end, at a place that is chosen again where its ports are lost to others."""

    def __init__(
        self,
        state: Path,
        port: int | None,
        model_dirs: tuple[Path, ...],
        callers: Callers,
        ctx: int | None,
        file: HomeFile,
        lock: ProcessLock,
        *,
        as_json: bool,
    ) -> None:
        self._state = state
        self._port = port
        self._model_dirs = model_dirs
        self._callers = callers
        self._ctx = ctx
        self._file = file
        self._lock = lock
        self._as_json = as_json
        self._clock = SystemClock()
        self._stopping, self._hurry = _on_signals()

    async def live(self, model: str | None) -> int:
        """Run until told to end; the exit code. Raises what `run` raises."""
        ignored = passed_over(os.environ)
        if ignored:
            words = f"no effect on `rbees up`, whose settings stand in {self._state / 'config.toml'} (see docs/configuration.md)"
            click.echo(f"{', '.join(ignored)}: {words}", err=True)
        with notes(silent=self._as_json) as said:
            await self._until(wait_for_predecessors(self._state, self._clock, said.note))
            for tries_left in reversed(range(PLACE_TRIES)):
                place = self._choose_place()
                try:
                    await self._live_at(place, model, said)
                    break
                except RbeesError as error:
                    if error.code is not ErrorCode.ADDRESS_IN_USE or not tries_left:
                        raise
                    if self._port and error.details.get("role") == "orcd":
                        raise taken_port(self._port) from None
        return ExitCode.OK

    def _choose_place(self) -> Place:
        orcd_port = choose_port(ORCD_PORT, self._port)
        poold_port = choose_port(POOLD_PORT, taken=frozenset({orcd_port}))
        place = Place(self._state, orcd_port, poold_port, self._model_dirs, self._callers, self._ctx)
        self._lock.describe(f"rbees up at {place.orcd_url}")
        return place

    async def _live_at(self, place: Place, model: str | None, said: Notes) -> None:
        def say(text: str) -> None:
            # A line that stays: what happened to a daemon should still be there when somebody looks.
            said.clear()
            click.echo(text, err=True)

        if self._stopping.is_set():
            return
        home = HomeMode(place, self._clock, say)
        said.note("starting orcd and poold")
        home.start()
        try:
            pool = await self._until(self._get_ready(home, place, model, said))
            if pool is not None:
                said.clear()
                self._announce(place, pool, model)
                await home.wait_end(self._stopping)
        finally:
            left = await _end(home, self._hurry, said)
            if left and not self._as_json:
                say(f"{_jobs(left)} kept and {_goes(left)} on with the next `rbees up`")

    async def _get_ready(self, home: HomeMode, place: Place, model: str | None, said: Notes) -> PoolView:
        def tell() -> None:
            self._file.write(place.home())

        pool = await home.wait_ready()
        # Asked before anybody is told the address, so that only what an earlier start left is counted.
        left = await home.unfinished_jobs()
        if left and not self._as_json:
            said.clear()
            click.echo(f"{_jobs(left)} left from an earlier `rbees up` and {_goes(left)} on", err=True)
        if model is None:
            tell()
        else:
            # A job may come while the model still loads; it waits for the same worker.
            await make_ready(home.client, pool, model, self._clock, said.note, on_known=tell)
        return pool

    async def _until(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` gives, or None where the end came first."""
        doing, told = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({doing, told}, return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else None
        finally:
            doing.cancel()
            told.cancel()

    def _announce(self, place: Place, pool: PoolView, model: str | None) -> None:
        if self._as_json:
            print_json(place.home())
            return
        # A script or a bookmark may know the usual port by heart.
        moved = self._port is None and place.orcd_port != ORCD_PORT
        why = f"port {ORCD_PORT} is taken by another program; " if moved else ""
        click.echo(f"rbees is up at {place.orcd_url} ({why}Ctrl-C ends it)")
        problem = problem_of("cpu", library_folder())
        if problem is not None:
            click.echo(f"This installation cannot run models, so jobs would wait: {problem}", err=True)
            return
        suggested = model if model is not None and can_chat(pool, model) else first_model(pool)
        if suggested is None:
            folder = place.state_dir / "poold" / "models"
            click.echo(f"No model is here yet: `rbees-pool models download tinyllama`, or put a GGUF file into {folder}.", err=True)
            return
        click.echo("In another terminal, try:", err=True)
        click.echo(f"  llorch chat --model {shlex.quote(suggested)}", err=True)
        click.echo(f"Programs that speak OpenAI's API: {place.orcd_url}/v1, with any key", err=True)


async def _end(home: HomeMode, hurry: asyncio.Event, said: Notes) -> int:
    """End it, with a word where that takes longer; how many jobs are kept for the next start."""
    ending = asyncio.create_task(home.stop(hurry))
    await asyncio.wait({ending}, timeout=QUIET_STOP_S)
    if not ending.done():
        said.note("finishing what runs; Ctrl-C again ends it at once")
    left = await ending
    said.clear()
    return left


def _jobs(number: int) -> str:
    return "1 job is" if number == 1 else f"{number} jobs are"


def _goes(number: int) -> str:
    return "goes" if number == 1 else "go"


def _on_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Set by the first and by the second signal that ends this process."""
    stopping, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stopping.is_set() else stopping).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    return stopping, hurry
