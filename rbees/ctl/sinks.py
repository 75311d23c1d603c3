"""Where the output of a command on a host goes: straight through for one host, apart by host for several."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Final, Protocol, TextIO

from rbees.ctl.hosts import Host
from rbees.terminal.board import Board
from rbees.terminal.text import visible

Write = Callable[[bytes], Coroutine[Any, Any, None]]
CHUNK_BYTES: Final = 65_536
LAST_NOTES: Final = 20


class Sink(Protocol):
    """Takes the two streams of one host."""

    feeds: bool
    """What is typed here reaches the command there."""
    inherits: bool
    """A process on this machine may have our own streams as its own."""
    lends_keys: bool
    """It may have our stdin too, because it draws on the terminal and follows its keys."""

    def out(self, data: bytes) -> None:
        """Some of its stdout."""
        ...

    def err(self, data: bytes) -> None:
        """Some of its stderr."""
        ...

    def feed(self, write: Write, end: Callable[[], None]) -> None:
        """Begin to hand what is typed to `write`, and call `end` when no more comes."""
        ...

    def finish(self) -> None:
        """Nothing more comes from the host."""
        ...


class StraightSink:
    """One host: its streams are ours, live and apart. On a terminal control characters are shown, not obeyed."""

    inherits = True

    def __init__(self, *, takes_input: bool = False, draws: bool = False) -> None:
        """`takes_input`: the command there reads its stdin to the end, so that a file or a pipe is its too. `draws`: it draws on
        the whole terminal.
        """
        self.feeds = not _is_in_background() if sys.stdin.isatty() else takes_input
        self.lends_keys = draws and sys.stdin.isatty() and not _is_in_background()
        self._out, self._err = _Through(sys.stdout), _Through(sys.stderr)

    def out(self, data: bytes) -> None:
        """See `Sink`."""
        self._out.take(data)

    def err(self, data: bytes) -> None:
        """See `Sink`."""
        self._err.take(data)

    def feed(self, write: Write, end: Callable[[], None]) -> None:
        """See `Sink`; a thread reads, which the end of this process ends."""
        import asyncio

        loop = asyncio.get_running_loop()

        def read() -> None:
            # The terminal is gone, or nobody waits for what comes any more.
            with contextlib.suppress(OSError, RuntimeError, CancelledError):
                while data := os.read(sys.stdin.fileno(), CHUNK_BYTES):
                    handing = write(data)
                    try:
                        taken = asyncio.run_coroutine_threadsafe(handing, loop)
                    except RuntimeError:
                        handing.close()
                        return
                    taken.result()
                loop.call_soon_threadsafe(end)

        threading.Thread(target=read, name="typed", daemon=True).start()

    def finish(self) -> None:
        """See `Sink`."""


class LineSink:
    """One of several hosts: whole lines, each handed on with what it came from."""

    inherits = False
    feeds = False
    lends_keys = False

    def __init__(self, on_out: Callable[[str], None], on_err: Callable[[str], None]) -> None:
        self._lines = (_Lines(on_out), _Lines(on_err))

    def out(self, data: bytes) -> None:
        """See `Sink`."""
        self._lines[0].take(data)

    def err(self, data: bytes) -> None:
        """See `Sink`."""
        self._lines[1].take(data)

    def feed(self, write: Write, end: Callable[[], None]) -> None:
        """See `Sink`; nothing is typed to several hosts at once."""

    def finish(self) -> None:
        """See `Sink`."""
        for lines in self._lines:
            lines.end()


def prefixed(host: Host) -> LineSink:
    """Lines as they come, the host's name before each."""
    return LineSink(lambda line: _say(sys.stdout, f"{host.name}: {line}"), lambda line: _say(sys.stderr, f"{host.name}: {line}"))


def as_documents(host: Host) -> LineSink:
    """For programs: each line a JSON document that names the host; what the host printed as JSON is inside as such."""

    def told(stream: TextIO, key: str) -> Callable[[str], None]:
        def tell(line: str) -> None:
            value = _parsed(line)
            inside = value if key == "said" and isinstance(value, dict) else {key: value}
            _say(stream, json.dumps({"host": host.name, **inside}, ensure_ascii=False))

        return tell

    return LineSink(told(sys.stdout, "output"), told(sys.stderr, "said"))


class Kept:
    """What a host has printed, for when the board is done: its data in full, of the rest the last lines."""

    def __init__(self) -> None:
        self.data: list[str] = []
        self.notes: deque[str] = deque(maxlen=LAST_NOTES)
        self.last = ""

    def show(self, host: Host, *, with_errors: bool) -> None:
        """Print it, the host's name before each line."""
        for line in self.data:
            _say(sys.stdout, f"{host.name}: {line}")
        for line in self.notes if with_errors else ():
            _say(sys.stderr, f"{host.name}: {line}")


def on_board(host: Host, board: Board, kept: Kept) -> LineSink:
    """The last line beside the host's name on `board`, all lines in `kept`."""

    def take(lines: list[str] | deque[str]) -> Callable[[str], None]:
        def on_line(line: str) -> None:
            lines.append(line)
            kept.last = line
            board.note(host.name, line)

        return on_line

    return LineSink(take(kept.data), take(kept.notes))


def _is_in_background() -> bool:
    """True where reading from the terminal would stop this process."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp()
    except OSError:
        return False  # Another session's terminal: nobody is stopped there.


class _Through:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = codecs.getincrementaldecoder("utf-8")(errors="replace") if stream.isatty() else None

    def take(self, data: bytes) -> None:
        if self._text is not None:
            self._stream.write(visible(self._text.decode(data)))
        else:
            self._stream.flush()
            self._stream.buffer.write(data)
        self._stream.flush()


class _Lines:
    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._begun = b""

    def take(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._on_line(visible(line.decode(errors="replace")))

    def end(self) -> None:
        if self._begun:
            self.take(b"\n")


def _say(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line
