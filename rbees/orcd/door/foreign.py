"""PURE: reads a request of another API, whose clients send more than anybody here knows.

A field is honoured (the struct declares it), refused by name (`refused` says why), or passed over, and then the answer names it.
Types and ranges are checked as in every other request; null is what a client writes that leaves a field open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Generic, TypeVar

import msgspec

from rbees.protocol.chat import TOOL_NAME_PATTERN
from rbees.protocol.codec import Message, decode, encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.sampling import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS
from rbees.service.passed_over import told

__all__ = [
    "AnyStops",
    "Foreign",
    "ManyStops",
    "Reading",
    "Refused",
    "described",
    "read_foreign",
    "read_object",
    "refusal",
    "stops_of",
    "told",
]

_PATH: Final = re.compile(r"at (?:`key` in )?`\$\.([\w.\[\]]+)`")
_SOME_KEY: Final = "[...]"
"""Of an object whose keys are free, for the library does not tell which one it means."""
_FLOAT: Final = "got `float`"
_EXACT: Final = 2.0**53
"""Up to which a float is the number that was written."""
_TOO_LONG: Final = re.compile(r"Expected `(\w+)` of length <= (\d+) - at `\$\.([\w.\[\]]+)`\.$")
_PATTERN: Final = re.compile(r"Expected `str` matching regex (.+?) - at `")
_STEP: Final = re.compile(r"\w+")
_PARTS: Final = {"array": "entries", "object": "entries", "str": "characters"}
_MISSING: Final = re.compile(r"missing required field `(\w+)`(?: - at `\$\.([\w.\[\]]+)`)?")

_AnyStop = Annotated[str, msgspec.Meta(max_length=MAX_STOP_CHARACTERS)]
ManyStops = Annotated[tuple[_AnyStop, ...], msgspec.Meta(max_length=MAX_STOP_STRINGS)]
AnyStops = _AnyStop | ManyStops


def refusal(sentence: str, field: str) -> RbeesError:
    """INVALID_REQUEST about one field."""
    return RbeesError(ErrorCode.INVALID_REQUEST, sentence, field=field)


@dataclass(frozen=True, slots=True)
class Refused:
    """A field that is known and cannot be honoured."""

    why: str
    """One sentence that says what to do."""
    unless: tuple[Any, ...] = ()
    """Values that ask for what happens anyhow."""


class Foreign(Message, frozen=True, kw_only=True):
    """Part of a request of another API."""

    refused: ClassVar[Mapping[str, Refused]] = {}
    extras: ClassVar[frozenset[str]] = frozenset()
    """Fields that are honoured though the API itself does not have them."""
    passed_over: ClassVar[Mapping[str, str]] = {}
    """Fields that clients send as a matter of course and nobody here reads: why, for the documentation."""


F = TypeVar("F", bound=Foreign)


@dataclass(frozen=True, slots=True)
class Reading(Generic[F]):
    """A request, and the fields of it that nobody here knows, by path."""

    request: F
    passed_over: tuple[str, ...]


def read_foreign(data: bytes, type_: type[F]) -> Reading[F]:
    """The body as `type_`.

    Raises:
        RbeesError: INVALID_REQUEST, with the path of what does not fit as its `field`, or for a field that is refused.
    """
    try:
        request, sent = _read(data, type_)
    except RbeesError as error:
        raise _advised(located(error), data) from None
    return Reading(request, tuple(_passed_over(request, sent, "")))


def _read(data: bytes, type_: type[F]) -> tuple[F, dict[str, Any]]:
    """The request, and all that was sent. Raises RbeesError INVALID_REQUEST."""
    try:
        # What is passed over has to be sound JSON too: the library looks at numbers and texts only where it keeps them.
        return decode(data, type_), decode(data, dict[str, Any])
    except RbeesError as error:
        if _FLOAT not in error.message:
            raise
    # Whole numbers with a fraction of nothing, `100.0`: some languages write all of theirs so, and JSON knows no difference.
    whole = encode(_whole(decode(data, dict[str, Any])))
    return decode(whole, type_), decode(whole, dict[str, Any])


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    return [_whole(one) for one in value] if isinstance(value, list) else value


def read_object(text: str, place: str, advice: str) -> dict[str, Any]:
    """The JSON object that a field of a request holds as a text.

    Raises:
        RbeesError: INVALID_REQUEST about the field at `place`, with `advice`.
    """
    try:
        return decode(text, dict[str, Any])
    except RbeesError:
        message = f"`{place}` is a text that holds no JSON object, or one nested too deeply; {advice}."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field=place) from None


def stops_of(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The texts that stop an answer; front ends send the field of a form that nobody filled in as an empty one."""
    return tuple(filter(None, (stop,) if isinstance(stop, str) else stop or ()))


def described(type_: type[Foreign]) -> Iterator[tuple[str, str]]:
    """Each field that is honoured, and what becomes of it, for the documentation."""
    for field in msgspec.structs.fields(type_):
        yield field.encode_name, str(msgspec.json.schema(field.type).get("description", ""))


def _passed_over(value: Any, sent: Any, path: str) -> Iterator[str]:
    """Paths of what `sent` holds beyond `value`, which was read from it. Raises RbeesError for what is refused."""
    if isinstance(value, Foreign):
        known = {*value.__struct_fields__, value.__struct_config__.tag_field}
        for name, content in sent.items():
            if content is None:
                continue
            if name in value.refused:
                _refuse(value.refused[name], content, f"{path}{name}")
            elif name not in known:
                yield f"{path}{name}"
        for name in value.__struct_fields__:
            if name in sent:
                yield from _passed_over(getattr(value, name), sent[name], f"{path}{name}.")
    elif isinstance(value, tuple) and value and isinstance(value[0], Foreign):
        for number, (one, its) in enumerate(zip(value, sent, strict=True)):
            yield from _passed_over(one, its, f"{path[:-1]}[{number}].")


def _refuse(refused: Refused, content: Any, path: str) -> None:
    if content not in refused.unless:
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"`{path}` is not supported: {refused.why}", field=path)


def located(error: RbeesError) -> RbeesError:
    """The same with the path that its sentence names as a detail, which other APIs have a place for."""
    missing, place = _MISSING.search(error.message), _PATH.search(error.message)
    if missing is not None:
        error.details["field"] = f"{missing[2]}.{missing[1]}" if missing[2] else missing[1]
    elif place is not None:
        error.details["field"] = place[1].partition(_SOME_KEY)[0]
    return error


def _advised(error: RbeesError, data: bytes) -> RbeesError:
    """The same with what to do where the library's sentence leaves that open: how much there is too much, how names look."""
    too_long, pattern = _TOO_LONG.search(error.message), _PATTERN.search(error.message)
    if too_long is not None:
        kind, most, place = too_long.groups()
        there = _length(data, place)
        _add(error, f"it has {there} {_PARTS[kind]}, send at most {most}" if there else f"send at most {most} {_PARTS[kind]}")
    elif pattern is not None and pattern[1][1:-1] == TOOL_NAME_PATTERN:
        _add(error, "write 1 to 128 letters, digits, `_`, `-`, `.` or `:`")
    return error


def _length(data: bytes, place: str) -> int | None:
    """Of what stands at `place`; None where the place does not say which of several it is."""
    try:
        sent: Any = decode(data, dict[str, Any])
    except RbeesError:
        return None  # Something else is wrong too, which the library has not come to.
    if _SOME_KEY in place:
        return None
    for step in _STEP.findall(place):
        if isinstance(sent, list) and step.isdecimal():
            sent = sent[int(step)]
        elif isinstance(sent, dict) and step in sent:
            sent = sent[step]
        else:
            return None
    return len(sent) if isinstance(sent, list | dict | str) else None


def _add(error: RbeesError, advice: str) -> None:
    error.message = f"{error.message.removesuffix('.')}; {advice}."
