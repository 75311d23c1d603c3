"""What the library writes while it loads and computes: into the structured log, and remembered where a refusal needs it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import logs
from rbees.workerd.engine.llama.footprint import Footprint

_OUT_OF_MEMORY: Final = re.compile(r"(failed|unable) to allocate|out of memory|insufficient memory", re.IGNORECASE)
_HARMLESS: Final = re.compile(r"n_ctx_seq \(\d+\) > n_ctx_train")
"""With one cache for all slots the library takes its size for that of each sequence; the engine keeps those to the model's."""
_WARNING: Final = 3
_ERROR: Final = 4
_KEPT_COMPLAINTS: Final = 20


class LibraryLog:
    """Turns the library's lines into log events, and remembers whether it lacked memory."""

    def __init__(self) -> None:
        self._log = logs.logger()
        self._line = ""
        self._level = 0
        self._out_of_memory = False
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

    def refusal(self, sentence: str, **details: Any) -> RbeesError:
        """Why nothing was loaded: the sentence, unless memory was lacking."""
        if self._out_of_memory:
            return RbeesError(
                ErrorCode.INSUFFICIENT_VRAM, "The device ran out of memory while loading; ask for fewer slots or a smaller context."
            )
        return RbeesError(ErrorCode.MODEL_INCOMPATIBLE, sentence, **details)

    def _write(self, line: str) -> None:
        self.footprint.note(line)
        self._out_of_memory |= _OUT_OF_MEMORY.search(line) is not None
        if not line.strip("."):
            return
        if self._level >= _WARNING:
            self._complaints.append(line)
        level = 0 if _HARMLESS.search(line) else self._level
        write = {_WARNING: self._log.warning, _ERROR: self._log.error}.get(level, self._log.debug)
        write(line, action="llama_log")
