"""`/v1/batches`: OpenAI's API for many requests at once that nobody waits for."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from aiohttp import web

from rbees.orcd.api.asked import KEY, read_asked
from rbees.orcd.api.openai import SHAPE
from rbees.orcd.batches.batches import Batches
from rbees.orcd.batches.objects import BatchObject, BatchObjects, BatchRequest
from rbees.protocol.errors import ErrorCode
from rbees.service.web import Parameter, Route, argument, reply

MOST: Final = 100
DEFAULT_PAGE: Final = 20
_AFTER = Parameter("after", "The `last_id` of the page before.", Annotated[str, msgspec.Meta(min_length=1, max_length=128)])
_LIMIT = Parameter("limit", f"Batches per page, {DEFAULT_PAGE} by default.", Annotated[int, msgspec.Meta(ge=1, le=MOST)])
_KEY = Parameter(
    KEY.name,
    "Any text of up to 190 characters: sending the same body under the same key again gives the same batch.",
    KEY.type_,
    where="header",
)


def routes(batches: Batches) -> list[Route]:
    """The routes about batches."""

    async def create(request: web.Request) -> web.Response:
        asked, headers = await read_asked(request, BatchRequest, None, lambda _: ())
        return reply(await batches.create(asked, argument(request, _KEY)), headers=headers)

    async def list_batches(request: web.Request) -> web.Response:
        limit: int = argument(request, _LIMIT) or DEFAULT_PAGE
        found = await batches.list(after=argument(request, _AFTER), limit=limit + 1)
        made = tuple(found[:limit])
        ends = (made[0].id, made[-1].id) if made else (None, None)
        return reply(BatchObjects(data=made, first_id=ends[0], last_id=ends[1], has_more=len(found) > limit))

    async def show(request: web.Request) -> web.Response:
        return reply(await batches.show(request.match_info["batch_id"]))

    async def cancel(request: web.Request) -> web.Response:
        return reply(await batches.cancel(request.match_info["batch_id"]))

    return [
        Route(
            "POST",
            "/v1/batches",
            create,
            "Have every line of an uploaded file run, behind the requests of those who wait.",
            request=BatchRequest,
            response=BatchObject,
            errors=(ErrorCode.FILE_NOT_FOUND, ErrorCode.IDEMPOTENCY_CONFLICT, ErrorCode.STORAGE_FULL),
            parameters=(_KEY,),
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1/batches",
            list_batches,
            "List batches, the newest first.",
            response=BatchObjects,
            parameters=(_AFTER, _LIMIT),
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1/batches/{batch_id}",
            show,
            "Show how far a batch is, and which files it wrote.",
            response=BatchObject,
            errors=(ErrorCode.BATCH_NOT_FOUND,),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/v1/batches/{batch_id}/cancel",
            cancel,
            "Begin no further line of a batch and cancel those that run; what came so far is in its files.",
            response=BatchObject,
            errors=(ErrorCode.BATCH_NOT_FOUND, ErrorCode.BATCH_ENDED, ErrorCode.STORAGE_FULL),
            error_shape=SHAPE,
        ),
    ]
