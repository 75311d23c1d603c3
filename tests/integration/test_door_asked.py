"""What routes of every foreign API read beside the body, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web as http

from rbees.orcd.api.asked import KEY, PREFER, read_asked, wait_s
from rbees.orcd.door.foreign import Foreign
from rbees.orcd.door.patience import LEAST_S
from rbees.service.web import Route, reply
from tests.support.service_app import Answer, ask, serving


class Wish(Foreign, frozen=True, kw_only=True):
    """A request for a job."""

    cancel_on_disconnect: bool | None = None


async def take(request: http.Request) -> http.Response:
    asked, headers = await read_asked(request, Wish, None, lambda _: ())
    return reply({"cancel_on_disconnect": asked.cancel_on_disconnect, "wait_s": wait_s(request)}, headers=headers)


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
    assert (await asked(body, headers)).json["cancel_on_disconnect"] is understood


@pytest.mark.parametrize(
    ("preference", "understood", "applied"),
    [
        ("wait=2", 2.0, "wait=2"),
        ("wait=1.5", 1.5, "wait=1.5"),
        ("wait=0", LEAST_S, "wait=0"),
        ("wait=-1", None, None),
        ("wait=abc", None, None),
        ("respond-async", None, None),
    ],
)
async def test_a_preference_that_was_heard_is_said_to_be(preference: str, understood: float | None, applied: str | None) -> None:
    answer = await asked({}, {"Prefer": preference})
    assert answer.json["wait_s"] == understood
    assert answer.headers.get("preference-applied") == applied
