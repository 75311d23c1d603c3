"""The bridge between asyncio and the one thread that owns the engine.

Commands go in under a lock and are carried out between two steps; outputs come back in batches, and the engine waits when too
many are under way. The engine's thread must never fail: if it does, the process ends, and its parent reports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from rbees.service import logs
from rbees.workerd.engine.backend import Backend
from rbees.workerd.engine.embedding import EmbeddingEngine, EmbedWork
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Load, Output
from rbees.workerd.engine.sequence import Work

BATCHES_UNDER_WAY: Final = 64
IDLE_TURN_S: Final = 0.5
"""An engine with nothing to compute turns this often, so that its step counter tells it from one that hangs."""
EXIT_ENGINE_DIED: Final = 70
ANSWER_PATIENCE_S: Final = 1.5
"""Longer than any step but one that hangs: who asks how a worker is must be told of that one too."""
STOP_PATIENCE_S: Final = 5.0
"""A decode call that is interrupted ends within milliseconds; one that has not ended by then never will."""

Command = Callable[[Engine], None]
Deliver = Callable[[list[Output]], None]
EndProcess = Callable[[int], object]


class EngineThread:
    """Runs an engine, and between its steps what makes vectors. All methods are called from the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        backend: Backend,
        embedding: EmbeddingEngine | None = None,
        *,
        end_process: EndProcess = os._exit,
        stop_patience_s: float = STOP_PATIENCE_S,
    ) -> None:
        self._engine = engine
        self._backend = backend
        self._embedding = embedding
        self._end_process = end_process
        self._stop_patience_s = stop_patience_s
        self._deliver: Deliver | None = None
        self._loop = asyncio.get_running_loop()
        self._log = logs.logger()
        self._commands: deque[Command] = deque()
        self._wakeup = threading.Condition()
        self._stopping = False
        self._room = threading.Semaphore(BATCHES_UNDER_WAY)
        self._turns = 0
        self._load = engine.load()
        self._cached: tuple[str, ...] = ()
        self._asked: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, deliver: Deliver) -> None:
        """Begin to turn; `deliver` gets what comes out, on the event loop."""
        self._deliver = deliver
        self._thread.start()

    async def stop(self) -> None:
        """End the thread, breaking off its current step; sequences that still run are dropped.

        A thread that does not come back takes the process with it.
        """
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify()
        # Only now: an interrupt before the word would be taken back by a turn that did not see the word yet.
        self._backend.interrupt()
        await asyncio.to_thread(self._thread.join, self._stop_patience_s)
        if self._thread.is_alive():
            self._die("the engine does not come back from a decode call", None)

    def submit(self, work: Work) -> None:
        """Hand an attempt to the engine. It must fit the context (`check_fits`)."""
        self._post(lambda engine: engine.submit(work))

    def cancel(self, key: str) -> None:
        """End an attempt, breaking off the decode call that runs if it is a long one."""
        self._post(lambda engine: engine.cancel(key))
        if key in self._engine.breakable:
            self._backend.interrupt()

    def pause(self, key: str, paused: bool) -> None:
        """Let an attempt stand or go on."""
        self._post(lambda engine: engine.pause(key, paused))

    def embed(self, work: EmbedWork) -> None:
        """Have vectors made; the model must be able to."""
        embedding = self._embedding
        assert embedding is not None
        self._post(lambda _: embedding.submit(work))

    def cancel_embed(self, key: str) -> None:
        """Forget a request for vectors, breaking off the call that computes some of them."""
        embedding = self._embedding
        assert embedding is not None
        self._post(lambda _: embedding.cancel(key))
        if key in embedding.computing:
            self._backend.interrupt()

    @property
    def step(self) -> int:
        """A counter that moves as long as the engine lives, also within one long decode call."""
        return self._turns + self._backend.progress()

    @property
    def load(self) -> Load:
        """How full the engine was after its last step."""
        return self._load

    async def cached_prefixes(self) -> tuple[str, ...]:
        """As `Engine.cached_prefixes`, after the step that runs; as of the last time where that one does not end."""
        if self._asked is None:
            self._asked = self._loop.create_future()
            self._post(self._tell_cached)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_PATIENCE_S):
                await asyncio.shield(self._asked)
        return self._cached

    def _tell_cached(self, engine: Engine) -> None:
        self._loop.call_soon_threadsafe(self._take_cached, engine.cached_prefixes())

    def _take_cached(self, cached: tuple[str, ...]) -> None:
        assert self._asked is not None
        self._cached = cached
        self._asked.set_result(None)
        self._asked = None

    def _post(self, command: Command) -> None:
        with self._wakeup:
            self._commands.append(command)
            self._wakeup.notify()

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            self._die("the engine died", error)

    def _turn(self) -> bool:
        # The order matters: an interrupt that comes after `rearm` either is seen as a command or breaks off the step.
        self._backend.rearm()
        if not self._carry_out_commands():
            return False
        ended: list[Output] = [*self._engine.take_outputs()]
        if ended:
            # What a command has ended need not wait for a step of others.
            self._load = self._engine.load()
            self._hand_over(ended)
        worked = self._engine.step()
        self._load = self._engine.load()
        outputs: list[Output] = [*self._engine.take_outputs()]
        # Where a command waits, an interrupt may be meant for the step before, and would break off this one.
        if self._embedding is not None and not self._commands:
            worked = self._embedding.step(beside_streams=self._load.slots_used > 0) or worked
            outputs += self._embedding.take_outputs()
        self._turns += 1
        if outputs:
            self._hand_over(outputs)
        elif not worked:
            self._wait()
        return True

    def _hand_over(self, outputs: list[Output]) -> None:
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._receive, outputs)

    def _carry_out_commands(self) -> bool:
        with self._wakeup:
            commands, self._commands = self._commands, deque()
            if self._stopping:
                return False
        for command in commands:
            command(self._engine)
        return True

    def _wait(self) -> None:
        with self._wakeup:
            if not self._commands and not self._stopping:
                self._wakeup.wait(IDLE_TURN_S)

    def _receive(self, outputs: list[Output]) -> None:
        self._room.release()
        assert self._deliver is not None
        try:
            self._deliver(outputs)
        except BaseException as error:
            # The loop would only log it, and jobs whose events are lost would wait for their end for ever.
            self._die("what the engine made could not be delivered", error)

    def _die(self, what: str, error: BaseException | None) -> None:
        """End the process: what it holds is unknown now. Orcd sees the connection break and goes on elsewhere."""
        self._log.critical(what, action="engine_death", exc_info=error)
        self._end_process(EXIT_ENGINE_DIED)
