"""What the library writes while it loads and computes: into the structured log, and remembered where a refusal needs it."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from rbees.service import logs
from rbees.workerd.engine.llama.footprint import Footprint
from rbees.workerd.engine.llama.shortage import read_shortage
from rbees.workerd.engine.shortage import Shortage

_HARMLESS: Final = re.compile(r"n_ctx_seq \(\d+\) > n_ctx_train")
"""With one cache for all slots the library takes its size for that of each sequence; the engine keeps those to the model's."""
_WARNING: Final = 3
_ERROR: Final = 4
_KEPT_COMPLAINTS: Final = 20


class LibraryLog:
    """Turns the library's lines into log events, and remembers whether it lacked memory.

    The library writes to the newest of these, whichever of several models it computes with, so what it lacked is known to all.
    """

    _shortage: ClassVar[Shortage | None] = None

    def __init__(self) -> None:
        self._log = logs.logger()
        self._line = ""
        self._level = 0
        self._subdued = False
        self._complaints: deque[str] = deque(maxlen=_KEPT_COMPLAINTS)
        self.footprint = Footprint()
        """What the library has said of the sizes of its buffers."""

    def take(self, level: int, text: bytes, _user_data: Any) -> None:
        """The callback: pieces of lines, level 5 going on with the one before."""
        self._level = level if level != 5 else self._level
        self._line += text.decode("utf-8", "replace")
        if self._line.endswith("\n") or len(self._line) > 4096:
            line, self._line = self._line.strip(), ""
            self._write(line)

    def meaning(self, table: Mapping[str, str]) -> str | None:
        """What the newest complaint means that holds one of the words of `table`."""
        found = (table[word] for line in reversed(self._complaints) for word in table if word in line)
        return next(found, None)

    def take_shortage(self) -> Shortage | None:
        """The lack of memory that was told of since the last call."""
        shortage, LibraryLog._shortage = LibraryLog._shortage, None
        return shortage

    @contextlib.contextmanager
    def subdued(self) -> Iterator[None]:
        """Complaints are expected meanwhile and are no news."""
        self._subdued = True
        try:
            yield
        finally:
            self._subdued = False

    def _write(self, line: str) -> None:
        self.footprint.note(line)
        LibraryLog._shortage = read_shortage(line, LibraryLog._shortage)
        if not line.strip("."):
            return
        level = 0 if self._subdued or _HARMLESS.search(line) else self._level
        if level >= _WARNING:
            self._complaints.append(line)
        # Looked up by name: each look at the log costs as much as the line itself, and a step has a dozen lines.
        write = getattr(self._log, {_WARNING: "warning", _ERROR: "error"}.get(level, "debug"))
        write(line, action="llama_log")
