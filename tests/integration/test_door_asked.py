"""What routes of every foreign API read beside the body, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web as http

from rbees.orcd.api.asked import KEY, PREFER, read_asked
from rbees.orcd.door.foreign import Foreign
from rbees.service.web import Route, reply
from tests.support.service_app import Answer, ask, serving


class Wish(Foreign, frozen=True, kw_only=True):
    """A request for a job."""

    cancel_on_disconnect: bool | None = None


async def take(request: http.Request) -> http.Response:
    asked, headers = await read_asked(request, Wish, None, lambda _: ())
    return reply({"cancel_on_disconnect": asked.cancel_on_disconnect}, headers=headers)


async def asked(body: Mapping[str, Any], headers: Mapping[str, str]) -> Answer:
    route = Route("POST", "/wish", take, "Take a wish.", parameters=(KEY, PREFER))
    async with serving(route) as server:
        return await ask(server, "POST", "/wish", {"Content-Type": "application/json", **headers}, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "headers", "understood"),
    [
        ({}, {}, None),
        ({}, {"Idempotency-Key": "k"}, False),
        ({"cancel_on_disconnect": None}, {"Idempotency-Key": "k"}, False),
        ({"cancel_on_disconnect": True}, {"Idempotency-Key": "k"}, True),
        ({"cancel_on_disconnect": False}, {}, False),
    ],
)
async def test_a_job_under_a_key_goes_on_without_its_client(
    body: Mapping[str, Any], headers: Mapping[str, str], understood: bool | None
) -> None:
    assert (await asked(body, headers)).json == {"cancel_on_disconnect": understood}
