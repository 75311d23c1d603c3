"""JSON in and out: the base classes of all messages, and decoding that answers bad input with a path and a reason.

Two bases, because machines are upgraded one at a time: what a client sends (`Request`) must not hold unknown fields, what
roles send each other (`Message`) may. Where people call a role's inner routes too, `decode_known` tells them of a slip.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from rbees.protocol.errors import ErrorCode, RbeesError

MAX_JSON_DEPTH: Final = 64
"""Deepest nesting of arrays and objects that is accepted; Python's recursion limit is never what stops a document."""

T = TypeVar("T")
M = TypeVar("M", bound="Message")
_SURROGATE = "surrogate"
"""In what the library says of half a pair of escapes."""
# Possessive and closed by the end of input too, so that hostile quoting costs linear time.
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message between roles: immutable, keyword-only, unknown fields ignored. `private` fields never show in `repr`."""

    private: ClassVar[frozenset[str]] = frozenset()
    hints: ClassVar[Mapping[str, str]] = {}
    """What to do about a field that other interfaces have in this place, for the refusal of an unknown one."""

    def __repr__(self) -> str:
        shown = (
            f"{name}=<hidden>" if name in self.private else f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Request(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message from a client: like `Message`, but an unknown field is refused, by name where it has the form of one."""


def encode(value: Any) -> bytes:
    """`value` as compact UTF-8 JSON; the same value always gives the same bytes."""
    return msgspec.json.encode(value)


def encode_in_pieces(value: Message) -> bytes:
    """The same bytes as `encode` gives, made in many short calls: the messages and lists in the tuples of `value` one by one.

    The library holds the interpreter's lock as long as a call lasts, so a thread that encodes megabytes in one call stops all
    others; between two calls they have their turn.
    """
    return encode(_with_raw_items(value))


def _with_raw_items(value: Any) -> Any:
    """`value` with each message and each list in its tuples encoded already, which the library then only copies."""
    if isinstance(value, tuple):
        return tuple(msgspec.Raw(encode(item)) if isinstance(item, Message | tuple) else item for item in value)
    if not isinstance(value, Message):
        return value
    fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
    return msgspec.structs.replace(value, **{name: _with_raw_items(held) for name, held in fields})


def decode(data: bytes | str, type_: type[T]) -> T:
    """Decode what a peer or a client sent.

    Raises:
        RbeesError: INVALID_REQUEST, with the path of the offending field; never with the field's content.
    """
    raw = data.encode() if isinstance(data, str) else data
    check_depth(raw)
    try:
        value: T = _decoder(type_).decode(raw)  # type: ignore[arg-type]  # Types have a hash, also those with a metaclass.
    except msgspec.ValidationError as error:
        from rbees.protocol import validation  # Only a refusal pays for this import.

        raise RbeesError(ErrorCode.INVALID_REQUEST, f"The JSON does not fit: {validation.sentence(error, type_)}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"The body is not valid JSON: {_where(error, raw)}.") from None
    return value


@functools.cache
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    """Kept, because the library would look at a union's members anew for each document, which takes longer than most documents."""
    return msgspec.json.Decoder(type_)


def decode_known(data: bytes | str, type_: type[M]) -> M:
    """The same for a `Message` that comes from a person's own program, whose misspelt field must not go unnoticed.

    Raises:
        RbeesError: INVALID_REQUEST, also for a field of the outermost object that `type_` does not have.
    """
    value = decode(data, type_)
    # The library's own list of fields would have their types evaluated, which takes longer than to run a short job.
    known = type_.__struct_encode_fields__
    name = next((name for name in msgspec.json.decode(data, type=dict[str, msgspec.Raw]) if name not in known), None)
    if name is not None:
        from rbees.protocol import validation

        raise RbeesError(ErrorCode.INVALID_REQUEST, f"The JSON does not fit: {validation.unknown_field(name, type_)}.")
    return value


def check_depth(data: bytes) -> None:
    """Refuse JSON nested deeper than `MAX_JSON_DEPTH` before any parser recurses into it.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_JSON_DEPTH:
        return
    depth = 0
    for match in _STRUCTURE.finditer(data):
        character = match.group()[:1]
        if character in b"[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise RbeesError(ErrorCode.INVALID_REQUEST, f"The JSON is nested deeper than {MAX_JSON_DEPTH} levels; flatten it.")
        elif character in b"]}":
            depth -= 1


def _where(error: Exception, raw: bytes) -> str:
    if not raw.strip():
        return "it is empty"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {_first_foreign(raw)} is not UTF-8; send it in that encoding"
    said = str(error).rstrip(".")
    return f"{said}; a text was cut within a character, such as an emoji" if _SURROGATE in said else said


def _first_foreign(raw: bytes) -> int:
    """The place of the first byte that is not UTF-8; the library tells its place in a text somewhere within."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return error.start
    raise AssertionError
