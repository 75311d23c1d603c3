"""The options of a chat's jobs: as given on the command line, then as `/set` changes them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import msgspec.inspect

from rbees.ctl.chat_words import IN_CHAT
from rbees.ctl.job_options import PRIORITIES
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
_PRIORITY, _STOP = "priority", "stop"


class Settings:
    """Options by the names that jobs give them; one that nobody named keeps its default."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = dict(given)

    def options(self) -> dict[str, Any]:
        """To be given to `job_of`."""
        return dict(self._given)

    def set_options(self) -> dict[str, Any]:
        """Those that `/set` knows and that have not their default."""
        return {name: self._given[name] for name in _NAMES if self._given.get(name) not in (None, ())}

    def restored(self, kept: Mapping[str, Any], *, wins: bool = True) -> Settings:
        """These with what `set_options` once gave in the place of their own; not `wins`: where they have none themselves.

        Raises:
            RbeesError: INVALID_REQUEST, where a value is none.
        """
        own = {name: value for name, value in self._given.items() if name not in _NAMES} if wins else self._given
        given = {name: value for name, value in own.items() if value not in (None, ())}
        settings = Settings({**{name: kept[name] for name in _NAMES if name in kept}, **given})
        settings.check()
        return settings

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
        return self._listed((name,)) or f"{name} has its default"

    def _set(self, name: str, value: str) -> None:
        before = self._given.get(name)
        self._given[name] = None if value == "-" else _typed(name, value)
        try:
            self.check()
        except RbeesError as error:
            self._given[name] = before
            # In a chat an option is typed without its dashes.
            sentence = error.message.replace(f"`--{name.replace('_', '-')}`", name)
            raise RbeesError(error.code, sentence, field=IN_CHAT) from None

    def _listed(self, names: Iterable[str]) -> str:
        own = self.set_options()
        return "\n".join(f"{name} {_shown(own[name])}" for name in names if name in own)


def _typed(name: str, value: str) -> Any:
    if name == _STOP:
        return (value,)
    try:
        return msgspec.convert(value, _TYPES[name], strict=False)
    except msgspec.ValidationError:
        sentence = f"{name} takes {_taken(name)}, not {value[:40]}."
        raise RbeesError(ErrorCode.INVALID_REQUEST, sentence, field=IN_CHAT) from None


def _taken(name: str) -> str:
    """What the option may be, as the job's own type has it."""
    if name == _PRIORITY:
        return " or ".join(PRIORITIES)
    number = _number(msgspec.inspect.type_info(_TYPES[name]))
    kind = "a whole number" if isinstance(number, msgspec.inspect.IntType) else "a number"
    least = f"above {_figure(number.gt)}, up to" if number.gt is not None else f"from {_figure(number.ge)} to"
    return f"{kind} {least} {_figure(number.le)}"


def _figure(bound: float | None) -> str:
    return str(int(bound)) if bound is not None and float(bound).is_integer() else str(bound)


def _number(kind: msgspec.inspect.Type) -> msgspec.inspect.IntType | msgspec.inspect.FloatType:
    """The number that a field holds where it holds anything."""
    match kind:
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return kind
        case msgspec.inspect.Metadata():
            return _number(kind.type)
        case msgspec.inspect.UnionType():
            return _number(next(one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType)))
        case _:
            raise AssertionError(kind)


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
