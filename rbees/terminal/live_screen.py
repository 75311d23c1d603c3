"""A whole terminal that is drawn again and again (ECMA-48, and the alternate screen of xterm): lines in, keys out.

Only lines that have changed are written, and nothing while the terminal still takes what came before, so a slow line gets the
newest picture and no backlog. However the program ends short of SIGKILL, the terminal is given back as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import termios
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Self, TextIO

from rbees.terminal.columns import Line, Style

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[2J"
_LEAVE: Final = "\x1b[0m\x1b[?25h\x1b[?1049l"
_END_OF_LINE: Final = "\x1b[0m\x1b[K"
_COLOURS: Final[dict[Style, str]] = {
    "plain": "",
    "heading": "\x1b[1m",
    "chosen": "\x1b[7m",
    "trouble": "\x1b[31m",
    "quiet": "\x1b[2m",
}
_NO_COLOURS: Final[dict[Style, str]] = {**_COLOURS, "trouble": "\x1b[1m"}
_KEYS: Final[dict[bytes, str]] = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}
_UNFINISHED: Final = (b"\x1b", b"\x1b[", b"\x1bO")
TERMINATED: Final = 128 + signal.SIGTERM


class LiveScreen:
    """Used as an async context manager, in which `paint` shows lines; `on_key` hears of keys, `on_change` of another size.

    Ctrl-C raises as everywhere; SIGTERM cancels the task that entered, and `terminated` says so.
    """

    def __init__(
        self,
        on_key: Callable[[str], None],
        on_change: Callable[[], None],
        *,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
    ) -> None:
        self._on_key = on_key
        self._on_change = on_change
        self._stdin = stdin or sys.stdin
        self._stdout = stdout or sys.stdout
        self._styles = _NO_COLOURS if os.environ.get("NO_COLOR") else _COLOURS
        self._output = -1
        self._before: list[Any] | None = None
        """The attributes of the terminal that keys come from."""
        self._shown: list[str] = []
        self._drawn_size = (0, 0)
        self._wanted: Sequence[Line] = ()
        self._pending = b""
        self._typed = b""
        self._task: asyncio.Task[Any] | None = None
        self.terminated = False

    @property
    def has_keys(self) -> bool:
        """Whether anybody can type."""
        return self._before is not None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        size = os.get_terminal_size(self._stdout.fileno())
        # One that does not know its size says 0.
        return size.columns or 80, size.lines or 24

    def paint(self, lines: Sequence[Line]) -> None:
        """Show these lines, no wider than `size`, instead of those before."""
        self._wanted = lines
        if self.size != self._drawn_size:
            # A process that is in no session of the terminal is not told.
            self._clear()
        if not self._pending:
            self._write(self._difference())

    # ---- begin and end -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._output = _own_description(self._stdout.fileno())
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        loop.add_signal_handler(signal.SIGWINCH, self._resized)
        loop.add_signal_handler(signal.SIGTSTP, self._stop)
        self._begin()
        if self.has_keys:
            loop.add_reader(self._stdin.fileno(), self._read)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGWINCH, signal.SIGTSTP):
            loop.remove_signal_handler(number)
        if self.has_keys:
            loop.remove_reader(self._stdin.fileno())
        loop.remove_writer(self._output)
        self._end()
        os.close(self._output)

    def _begin(self) -> None:
        if self._stdin.isatty():
            keys = self._stdin.fileno()
            self._before = termios.tcgetattr(keys)
            changed = termios.tcgetattr(keys)
            changed[3] &= ~(termios.ICANON | termios.ECHO)
            changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
            termios.tcsetattr(keys, termios.TCSANOW, changed)
        self._shown, self._drawn_size = [], self.size
        self._write(_ENTER)

    def _end(self) -> None:
        """Give the terminal back, also one that takes nothing any more: what it has not taken by now is dropped."""
        with contextlib.suppress(termios.error, OSError):
            if self._pending:
                termios.tcflush(self._output, termios.TCOFLUSH)
            self._pending = b""
            os.write(self._output, _LEAVE.encode())
        if self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._stdin.fileno(), termios.TCSANOW, self._before)

    # ---- signals -------------------------------------------------------------------------------------------------------

    def _terminate(self) -> None:
        self.terminated = True
        assert self._task is not None
        self._task.cancel()

    def _resized(self) -> None:
        self._clear()
        self._on_change()

    def _clear(self) -> None:
        self._shown, self._drawn_size = [], self.size
        self._write("\x1b[0m\x1b[2J")

    def _stop(self) -> None:
        """Ctrl-Z: the shell gets its terminal, and `fg` brings the picture back."""
        self._end()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._begin()
        self._on_change()

    # ---- bytes ---------------------------------------------------------------------------------------------------------

    def _difference(self) -> str:
        lines = [f"{self._styles[line.style]}{line.text}" for line in self._wanted]
        height = max(len(lines), len(self._shown))
        old, new = (rows + [""] * (height - len(rows)) for rows in (self._shown, lines))
        self._shown = lines
        changed = [number for number in range(height) if old[number] != new[number]]
        return "".join(f"\x1b[{number + 1};1H{new[number]}{_END_OF_LINE}" for number in changed)

    def _write(self, text: str) -> None:
        encoding = self._stdout.encoding or "utf-8"
        self._pending += text.encode(encoding, errors="replace")
        self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            try:
                taken = os.write(self._output, self._pending)
            except BlockingIOError:
                loop.add_writer(self._output, self._flush)
                return
            except OSError:
                # The terminal is gone, and with it whoever looked.
                assert self._task is not None
                self._task.cancel()
                return
            self._pending = self._pending[taken:]
        if loop.remove_writer(self._output):
            # It was slow, and there may be a newer picture by now.
            self._pending = self._difference().encode(self._stdout.encoding or "utf-8", errors="replace")
            if self._pending:
                loop.add_writer(self._output, self._flush)

    def _read(self) -> None:
        data = os.read(self._stdin.fileno(), 1024)
        if not data:
            asyncio.get_running_loop().remove_reader(self._stdin.fileno())
            return
        keys, self._typed = split_keys(self._typed + data)
        for key in keys:
            self._on_key(key)


def split_keys(typed: bytes) -> tuple[list[str], bytes]:
    """The keys in what was typed, and the beginning of one that is not complete."""
    keys: list[str] = []
    while typed and typed not in _UNFINISHED:
        known = next((code for code in _KEYS if typed.startswith(code)), None)
        keys.append(_KEYS[known] if known is not None else typed[:1].decode("latin-1"))
        typed = typed[len(known) if known is not None else 1 :]
    return keys, typed


def _own_description(terminal: int) -> int:
    """The terminal opened anew, so that not waiting for it is nothing that other programs on it would notice."""
    try:
        return os.open(os.ttyname(terminal), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        # Some terminals, such as those of another namespace or user, cannot be opened by their names. Writing to it then waits.
        return fcntl.fcntl(terminal, fcntl.F_DUPFD_CLOEXEC, 0)


async def until_one_ends(*works: Coroutine[Any, Any, object]) -> None:
    """Have all of these go on until one is over, and end the others. Raises what one of them raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
