"""`/v1/files`: OpenAI's API for what batches read and write."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from aiohttp import web

from rbees.orcd.api import anthropic
from rbees.orcd.api.asked import IGNORED, KEY
from rbees.orcd.api.openai import SHAPE
from rbees.orcd.batches.files import Files
from rbees.orcd.batches.objects import ExpiresAfter, FileDeleted, FileObject, FileObjects
from rbees.orcd.door.foreign import refusal, told
from rbees.orcd.store.batches import FileRow
from rbees.protocol.batches import FilePurpose
from rbees.protocol.errors import ErrorCode
from rbees.service import file_answer
from rbees.service.forms import Form, read_form
from rbees.service.web import Handler, Parameter, Route, argument, reply

MOST: Final = 10_000
MAX_NAME: Final = 255
_ANCHOR: Final = "expires_after[anchor]"
_SECONDS: Final = "expires_after[seconds]"
_KNOWN: Final = frozenset({"purpose", _ANCHOR, _SECONDS})
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_AFTER = Parameter("after", "The `last_id` of the page before.", _Id)
_LIMIT = Parameter("limit", f"Files per page, {MOST} by default.", Annotated[int, msgspec.Meta(ge=1, le=MOST)])
_ORDER = Parameter("order", "`desc`, the newest first, by default.", Literal["asc", "desc"])
_Foreign = Literal["assistants", "assistants_output", "evals", "fine-tune", "fine-tune-results", "user_data", "vision"]
"""Purposes of OpenAI's files of which there are none here."""
PURPOSE: Final = Parameter("purpose", "Only files of this purpose.", FilePurpose | _Foreign)


def routes(files: Files) -> list[Route]:
    """The routes about files."""

    async def create(request: web.Request) -> web.Response:
        with files.upload() as upload:
            form = await read_form(request, "file", files.max_file_bytes, upload.write)
            name, expires_after_s = _checked(form)
            row = await upload.keep(name, "batch", expires_after_s)
        names = [field for field in form.fields if field not in _KNOWN]
        if KEY.name in request.headers:
            names.append(KEY.name)  # A second copy of a file costs its place on the disk, and expires.
        ignored = told(tuple(names))
        return reply(file_object(row), headers={} if ignored is None else {IGNORED: ignored})

    async def list_files(request: web.Request) -> web.Response:
        limit: int = argument(request, _LIMIT) or MOST
        rows = await files.list(
            after=argument(request, _AFTER),
            purpose=argument(request, PURPOSE),
            limit=limit + 1,
            newest_first=argument(request, _ORDER) != "asc",
        )
        made = tuple(file_object(row) for row in rows[:limit])
        ends = (made[0].id, made[-1].id) if made else (None, None)
        return reply(FileObjects(data=made, first_id=ends[0], last_id=ends[1], has_more=len(rows) > limit))

    async def show(request: web.Request) -> web.Response:
        return reply(file_object(await files.row(request.match_info["file_id"])))

    async def content(request: web.Request) -> web.StreamResponse:
        row = await files.row(request.match_info["file_id"])
        with await files.open(row.file_id) as file:
            # What a file holds never changes, so its id says which bytes these are.
            span = file_answer.span_of(request, row.size_bytes, f'"{row.file_id}"')
            return await file_answer.send(request, file, span, file_answer.plain_headers(span, row.file_id))

    async def delete(request: web.Request) -> web.Response:
        file_id = request.match_info["file_id"]
        await files.delete(file_id)
        return reply(FileDeleted(id=file_id))

    return [
        Route(
            "POST",
            "/v1/files",
            _unless_foreign(create),
            "Upload a file of requests for a batch, as a form: `file`, `purpose`, and `expires_after` where it is wanted.",
            response=FileObject,
            errors=(ErrorCode.NOT_FOUND, ErrorCode.REQUEST_TOO_LARGE, ErrorCode.STORAGE_FULL),
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1/files",
            _unless_foreign(list_files),
            "List files, the newest first.",
            response=FileObjects,
            errors=(ErrorCode.NOT_FOUND,),
            parameters=(_AFTER, _LIMIT, _ORDER, PURPOSE),
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1/files/{file_id}",
            _unless_foreign(show),
            "Show a file.",
            response=FileObject,
            errors=(ErrorCode.FILE_NOT_FOUND,),
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1/files/{file_id}/content",
            _unless_foreign(content),
            "What a file holds, or a range of it.",
            further_statuses=(206,),
            errors=(ErrorCode.FILE_NOT_FOUND, ErrorCode.RANGE_NOT_SATISFIABLE),
            content_type="application/octet-stream",
            error_shape=SHAPE,
        ),
        Route(
            "DELETE",
            "/v1/files/{file_id}",
            _unless_foreign(delete),
            "Delete a file.",
            response=FileDeleted,
            errors=(ErrorCode.FILE_NOT_FOUND, ErrorCode.FILE_IN_USE, ErrorCode.STORAGE_FULL),
            error_shape=SHAPE,
        ),
    ]


def _unless_foreign(handler: Handler) -> Handler:
    """The same for all but Anthropic's clients, whose API has other files on these paths and reads no object of these."""

    async def checked(request: web.Request) -> web.StreamResponse:
        anthropic.refuse_files(request)
        return await handler(request)

    return checked


def file_object(row: FileRow) -> FileObject:
    """A file as clients see it."""
    return FileObject(
        id=row.file_id,
        bytes=row.size_bytes,
        created_at=row.created_at_ms // 1000,
        expires_at=None if row.expires_at_ms is None else row.expires_at_ms // 1000,
        filename=row.name,
        purpose=row.purpose,
    )


def _checked(form: Form) -> tuple[str, int | None]:
    """The file's name and how long it is kept. Raises RbeesError INVALID_REQUEST."""
    if form.file_name is None:
        raise refusal("The form holds no `file`; send the requests as one.", "file")
    purpose = form.fields.get("purpose")
    if purpose is None:
        raise refusal("The form holds no `purpose`; send `batch`.", "purpose")
    if purpose != "batch":
        raise refusal("Files are kept for batches only; send the `purpose` `batch`.", "purpose")
    name = form.file_name.encode("utf-8", "replace").decode()
    return name[:MAX_NAME] or "file", _expires_after_s(form)


def _expires_after_s(form: Form) -> int | None:
    sent = {"anchor": form.fields.get(_ANCHOR), "seconds": form.fields.get(_SECONDS)}
    if not any(sent.values()):
        return None
    try:
        return msgspec.convert(sent, ExpiresAfter, strict=False).seconds
    except msgspec.ValidationError:
        sentence = "`expires_after` has `anchor`: `created_at` and `seconds`: 3600 to 2592000; send both so, or neither."
        raise refusal(sentence, "expires_after") from None
