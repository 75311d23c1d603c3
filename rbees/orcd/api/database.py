"""`/v2/database`: what an operator asks of the state itself while orcd has it open."""

from __future__ import annotations

import asyncio
from base64 import b64encode

from aiohttp import web

from rbees.orcd.store.copying import PIECE_BYTES
from rbees.orcd.store.jobs import JobStore
from rbees.protocol.database import DatabaseReport
from rbees.protocol.errors import ErrorCode
from rbees.service.web import Route, reply


def routes(store: JobStore) -> list[Route]:
    """The routes about the database. Each is a POST: it costs work, and no page of a browser can make one in passing."""

    async def check(_request: web.Request) -> web.Response:
        return reply(await store.check())

    async def backup(request: web.Request) -> web.StreamResponse:
        copy = await store.copy()
        with copy.file as file:
            file.seek(0)
            digest = b64encode(copy.sha256).decode()
            # Told ahead (RFC 9530), so that a copy that was cut or changed on its way is known from a whole one.
            response = web.StreamResponse(headers={"Repr-Digest": f"sha-256=:{digest}:"})
            response.content_type = "application/vnd.sqlite3"
            response.content_length = copy.size_bytes
            await response.prepare(request)
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                await response.write(piece)
        return response

    return [
        Route(
            "POST",
            "/v2/database/check",
            check,
            "Look through the database: the file, its schema, and every job's course.",
            response=DatabaseReport,
        ),
        Route(
            "POST",
            "/v2/database/backup",
            backup,
            "A consistent copy of the database, with its length and SHA-256 (`Repr-Digest`) ahead of it.",
            errors=(ErrorCode.STORAGE_FULL,),
            content_type="application/vnd.sqlite3",
        ),
    ]
