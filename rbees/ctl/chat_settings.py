"""The options of a chat's jobs: as given on the command line, then as `/set` changes them."""

from __future__ import annotations

import difflib
from typing import Any, Final

import msgspec

from rbees.ctl.chat_words import IN_CHAT
from rbees.ctl.submit import job_of
from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest

_NAMES: Final = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "priority",
    "timeout_ms",
)
_TYPES: Final = {field.name: field.type for field in msgspec.structs.fields(JobRequest)}


class Settings:
    """Options by the names that jobs give them; one that nobody named keeps its default."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = dict(given)

    def options(self) -> dict[str, Any]:
        """To be given to `job_of`."""
        return dict(self._given)

    def check(self) -> None:
        """Raises RbeesError: INVALID_REQUEST, where they make no job."""
        job_of({"messages": (ChatMessage(role="user", content="?"),)}, model="m", **self._given)

    def change(self, argument: str) -> str:
        """Obey `/set ARGUMENT`; what is set now, in words.

        Raises:
            RbeesError: INVALID_REQUEST, and nothing is changed.
        """
        if not argument:
            return self._listed(_NAMES) or "nothing is set; every option has its default"
        word, _, value = argument.partition(" ")
        name = word.removeprefix("--").replace("-", "_").lower()
        if name not in _NAMES:
            close = difflib.get_close_matches(name, _NAMES, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(_NAMES)}."
            raise RbeesError(ErrorCode.INVALID_REQUEST, f"No option is called {word[:40]}. {hint}", field=IN_CHAT)
        if value.strip():
            self._set(name, value.strip())
        return self._listed([name]) or f"{name} has its default"

    def _set(self, name: str, value: str) -> None:
        before = self._given.get(name)
        self._given[name] = None if value == "-" else _typed(name, value)
        try:
            self.check()
        except RbeesError:
            self._given[name] = before
            raise

    def _listed(self, names: Any) -> str:
        return "\n".join(f"{name} {_shown(self._given[name])}" for name in names if self._given.get(name) not in (None, ()))


def _typed(name: str, value: str) -> Any:
    if name == "stop":
        return (value,)
    try:
        return msgspec.convert(value, _TYPES[name], strict=False)
    except msgspec.ValidationError as error:
        sentence = f"{name} cannot be {value[:40]}: {str(error)[:1].lower()}{str(error)[1:]}."
        raise RbeesError(ErrorCode.INVALID_REQUEST, sentence, field=IN_CHAT) from None


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
