"""A form with one file in it (`multipart/form-data`, RFC 7578), read as it comes in, so that the file is never whole in memory.

The limit for bodies does not hold here: the caller says how large the form may be. What comes must make progress instead of being
done within a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from aiohttp import BadContentDispositionHeader, BadContentDispositionParam, BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.bodies import LIMITS

T = TypeVar("T")

MAX_FIELD_BYTES: Final = 8 * 1024
MAX_FIELDS: Final = 64
ROOM_BYTES: Final = MAX_FIELD_BYTES * MAX_FIELDS
"""For all that a form holds beside its file."""
STEP_BYTES: Final = 256 * 1024
"""So much must come within the time for a body."""
_READ_BYTES: Final = 64 * 1024
_UNSOUND: Final = (
    *(ValueError, AssertionError, RuntimeError, LookupError, HttpProcessingError, web.RequestPayloadError),
    # Where a process takes warnings for errors; else such a part has no name.
    *(BadContentDispositionHeader, BadContentDispositionParam),
)
"""What the library raises about a form that is none."""
_PLAIN: Final = frozenset({"", "7bit", "8bit", "binary", "identity"})


@dataclass(slots=True)
class Form:
    """What a form said beside the content of its file."""

    file_name: str | None = None
    """As the client calls its file; None where no file came."""
    fields: dict[str, str] = field(default_factory=dict)


async def read_form(request: web.Request, file_field: str, max_bytes: int, write: Callable[[bytes], Awaitable[None]]) -> Form:
    """Read the whole form; `write` takes the content of the file, piece by piece, and may refuse it.

    Raises:
        RbeesError: INVALID_REQUEST for what is no such form or came too slowly; REQUEST_TOO_LARGE before anything is read, where
            the request says that it is larger than `max_bytes` and `ROOM_BYTES`; what `write` raises.
    """
    if request.content_type != "multipart/form-data":
        raise _invalid("Send the file as a form, with `Content-Type: multipart/form-data`.")
    if (request.content_length or 0) > max_bytes + ROOM_BYTES:
        message = f"The file is larger than {max_bytes} bytes; split it."
        raise RbeesError(ErrorCode.REQUEST_TOO_LARGE, message, limit_bytes=max_bytes)
    return await _Reading(request, file_field, write).form()


class _Reading:
    def __init__(self, request: web.Request, file_field: str, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._request = request
        self._file_field = file_field
        self._write = write
        self._allowed_s = request.app[LIMITS].body_s
        self._until_s = self._loop_s() + self._allowed_s
        self._since_step = 0
        self._made = Form()

    async def form(self) -> Form:
        parts = await self._sound(self._request.multipart())
        while (part := await self._sound(parts.next())) is not None:
            await self._take(part)
        return self._made

    async def _take(self, part: MultipartReader | BodyPartReader) -> None:
        if isinstance(part, MultipartReader) or part.name is None:
            raise _invalid("Each part of the form must be a field with a name.")
        for header in ("Content-Transfer-Encoding", "Content-Encoding"):
            if part.headers.get(header, "").lower() not in _PLAIN:
                raise _invalid(f"The form's part `{part.name[:64]}` is encoded (`{header}`); send it as it is.")
        if part.name == self._file_field:
            await self._take_file(part)
        else:
            await self._take_field(part, part.name)

    async def _take_file(self, part: BodyPartReader) -> None:
        if part.filename is None:
            raise _invalid(f"`{self._file_field}` must be a file, with a file name, not a plain field.", self._file_field)
        if self._made.file_name is not None:
            raise _invalid(f"The form holds several files as `{self._file_field}`; send one at a time.", self._file_field)
        self._made.file_name = part.filename
        while content := await self._sound(part.read_chunk(_READ_BYTES)):
            await self._write(content)

    async def _take_field(self, part: BodyPartReader, name: str) -> None:
        if part.filename is not None or len(self._made.fields) >= MAX_FIELDS:
            raise _invalid(f"The form may hold one file, as `{self._file_field}`, and {MAX_FIELDS} fields.")
        if name in self._made.fields:
            raise _invalid(f"The form holds `{name[:64]}` twice; send it once.", name[:64])
        value = bytearray()
        while content := await self._sound(part.read_chunk(_READ_BYTES)):
            value += content
            if len(value) > MAX_FIELD_BYTES:
                raise _invalid(f"The form's field `{name[:64]}` has more than {MAX_FIELD_BYTES} bytes.", name[:64])
        try:
            self._made.fields[name] = value.decode()
        except UnicodeDecodeError:
            raise _invalid(f"The form's field `{name[:64]}` is not UTF-8.", name[:64]) from None

    async def _sound(self, reading: Awaitable[T]) -> T:
        """What the library reads next; what it says of a form that is none is told in our own words."""
        try:
            async with asyncio.timeout_at(self._until_s):
                found = await reading
        except TimeoutError:
            raise _invalid(f"Less than {STEP_BYTES} bytes came within {self._allowed_s:g} s; send the file faster.") from None
        except _UNSOUND:
            raise _invalid("The form does not follow its own boundaries or headers; was it cut off?") from None
        self._count(len(found) if isinstance(found, bytes) else 0)
        return found

    def _count(self, size: int) -> None:
        self._since_step += size
        if self._since_step >= STEP_BYTES:
            self._since_step = 0
            self._until_s = self._loop_s() + self._allowed_s

    def _loop_s(self) -> float:
        return asyncio.get_running_loop().time()


def _invalid(sentence: str, name: str | None = None) -> RbeesError:
    return RbeesError(ErrorCode.INVALID_REQUEST, sentence, **({} if name is None else {"field": name}))
