"""Answers of a daemon: a message as JSON, and any failure as the one error envelope or as another API words it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from rbees.protocol import codec
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorEnvelope, RbeesError
from rbees.service.correlation import correlation_id
from rbees.service.routes import ErrorShape, WordedError

JOBS: Final = "X-Rbees-Job-Id"
"""Header that names the jobs behind an answer, for `llorch jobs show` and the log."""


def reply(value: Any = None, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`value` as a JSON answer; None answers without a body."""
    if value is None:
        return web.Response(status=status, headers=headers)
    return web.Response(body=codec.encode(value), status=status, headers=headers, content_type="application/json")


async def reply_large(value: Message, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """As `reply`, for an answer of megabytes: it is encoded beside the event loop, on which others' streams go on meanwhile."""
    body = await asyncio.to_thread(codec.encode_in_pieces, value)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def error_response(error: RbeesError, headers: Mapping[str, str] | None = None, shape: ErrorShape | None = None) -> web.Response:
    """`error` in its envelope or in `shape`, under its status, with `Retry-After` where its details hold `retry_after_s`, and with
    the jobs that it is of."""
    worded = _enveloped(error) if shape is None else shape.word(error)
    sent = {**worded.headers, **(headers or {})}
    retry_after_s = error.details.get("retry_after_s")
    if isinstance(retry_after_s, int | float):
        sent["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if error.job_ids:
        sent[JOBS] = ", ".join(error.job_ids)
    if error.http_status == 401:
        sent["WWW-Authenticate"] = 'Bearer realm="rbees"'
    return reply(worded.body, worded.status, sent)


def _enveloped(error: RbeesError) -> WordedError:
    return WordedError(error.http_status, ErrorEnvelope(error=error.body(correlation_id.get())))
