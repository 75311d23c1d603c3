"""Lines that somebody types, with editing, completion and a history that outlives the program; or the lines of a pipe.

readline edits (GNU's or libedit, as Python was built); a terminal that can only go on to the next line, or a Python without
it, reads lines as they are. Prompts go to stderr where stdout is no terminal.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from rbees.protocol import codec
from rbees.protocol.errors import RbeesError
from rbees.terminal.output import is_live

LONGEST_HISTORY: Final = 1_000
"""Entries that are kept."""
_LONGEST_ENTRY: Final = 100_000


class LineEditor:
    """`read` gives a line. `complete` gets what stands left of the cursor and names what its last word may become."""

    def __init__(self, history: Path | None, complete: Callable[[str], Sequence[str]]) -> None:
        self.is_asking = sys.stdin.isatty()
        """Somebody types."""
        self._history = history
        self._complete = complete
        self._readline = _readline() if self.is_asking and is_live(sys.stdout) else None
        if self._readline is not None:
            self._set_up(self._readline)

    def read(self, prompt: str) -> str:
        """The next line, without its end.

        Raises:
            EOFError: there is none.
            KeyboardInterrupt: Ctrl-C.
            UnicodeError: it is not UTF-8.
        """
        if self._readline is not None:
            line = input(prompt)
            # In an old locale what is no text comes as lone surrogates, which no request can carry.
            line.encode()
            return line
        if self.is_asking:
            sys.stderr.write(prompt)
            sys.stderr.flush()
        data = sys.stdin.buffer.readline()
        if not data:
            raise EOFError
        return data.decode().removesuffix("\n").removesuffix("\r")

    def typed(self) -> str:
        """What stood in the line that Ctrl-C took away, where that is known."""
        return self._readline.get_line_buffer() if self._readline is not None else ""

    def remember(self, message: str) -> None:
        """Have it come back with the up arrow, now and in later chats."""
        if self._readline is None or not message.strip() or len(message) > _LONGEST_ENTRY:
            return
        _add(self._readline, message)
        if self._history is not None:
            with contextlib.suppress(OSError):
                append_entry(self._history, message)

    def _set_up(self, readline: ModuleType) -> None:
        readline.set_auto_history(False)
        for entry in entries(self._history):
            _add(readline, entry)
        # Words end at blanks alone, for a file's name may hold any other sign.
        readline.set_completer_delims(" ")
        readline.set_completer(self._completion)
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
        if not is_libedit:
            # What is pasted is one message, however many lines it has.
            readline.parse_and_bind("set enable-bracketed-paste on")

    def _completion(self, _word: str, number: int) -> str | None:
        assert self._readline is not None
        found = self._complete(self._readline.get_line_buffer()[: self._readline.get_endidx()])
        return found[number] if number < len(found) else None


def _readline() -> ModuleType | None:
    try:
        return importlib.import_module("readline")
    except ImportError:
        return None


def _add(readline: ModuleType, entry: str) -> None:
    """Have readline know an entry, where this terminal's encoding has its signs.

    readline encodes as the locale says, which in the plain `C` one has no more than ASCII, while lines are read as UTF-8 there. So
    it is given the bytes that it would have read, each as the stand-in that any locale turns into that byte.
    """
    with contextlib.suppress(UnicodeEncodeError):
        readline.add_history(entry.encode(sys.stdin.encoding).decode("ascii", "surrogateescape"))


def append_entry(path: Path, entry: str) -> None:
    """One JSON text a line, so that a message of several lines stays one entry. Only its owner may read it."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
        file.write(codec.encode(entry) + b"\n")


def entries(path: Path | None) -> list[str]:
    """The newest entries, the oldest first; the file is made short again where it has grown long."""
    if path is None:
        return []
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        if len(lines) > 2 * LONGEST_HISTORY:
            short = path.with_name(f"{path.name}.{os.getpid()}")
            with os.fdopen(os.open(short, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(b"".join(lines[-LONGEST_HISTORY:]))
            short.replace(path)
    except OSError:
        return []
    found = []
    for line in lines[-LONGEST_HISTORY:]:
        # A line that was cut when a disk was full is passed over.
        with contextlib.suppress(RbeesError):
            found.append(codec.decode(line, str))
    return found
