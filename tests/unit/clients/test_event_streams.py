"""Frames of orcd and of a worker back into events."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rbees.clients.events import numbered_events, worker_events
from rbees.clients.http import HttpClient
from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Token
from rbees.protocol.workers import Beat
from rbees.service.sse_parser import SseFrame

URL = "http://127.0.0.1:1"
TOKEN = Token(text="ho", index=0)


async def frames(*given: SseFrame) -> AsyncIterator[SseFrame]:
    for frame in given:
        yield frame


async def test_a_worker_s_events_have_numbers_and_its_beats_have_none() -> None:
    stream = frames(
        SseFrame(None, "beat", codec.encode(Beat(step=4))),
        SseFrame("7", "token", codec.encode(TOKEN)),
        SseFrame("8", "a-newer-kind", b"{}"),
    )
    assert [event async for event in worker_events(URL, stream)] == [(None, Beat(step=4)), (7, TOKEN)]


async def test_orcd_s_events() -> None:
    stream = frames(SseFrame("1", "token", codec.encode(TOKEN)), SseFrame(None, "message", b"hello"))
    assert [event async for event in numbered_events(URL, stream)] == [(1, TOKEN)]


@pytest.mark.parametrize(
    "frame",
    [
        SseFrame(None, "token", codec.encode(TOKEN)),
        SseFrame("one", "token", codec.encode(TOKEN)),
        SseFrame("²", "token", codec.encode(TOKEN)),
        SseFrame("9" * 5000, "token", codec.encode(TOKEN)),
        SseFrame("1", "token", b'{"type": "token", "text": 4}'),
        SseFrame("1", "token", b"canary"),
    ],
)
async def test_what_has_another_form_is_a_difference_of_versions(frame: SseFrame) -> None:
    with pytest.raises(RbeesError) as caught:
        [event async for event in numbered_events(URL, frames(frame))]
    assert caught.value.code is ErrorCode.INTERNAL
    assert "canary" not in caught.value.message


@pytest.mark.parametrize("url", ["", "orcd", "127.0.0.1:8080", "ftp://x", "http://", "http://u:p@x", "http://x?y=1", "http://[::1"])
def test_a_url_that_leads_nowhere_is_a_slip_in_the_settings(url: str) -> None:
    with pytest.raises(RbeesError) as caught:
        HttpClient(url, unreachable=ErrorCode.ORCD_UNREACHABLE)
    assert caught.value.code is ErrorCode.CONFIGURATION


def test_a_client_does_not_show_its_token() -> None:
    client = HttpClient("http://x:1/", token="rbk_canary", unreachable=ErrorCode.ORCD_UNREACHABLE)
    assert repr(client) == "HttpClient('http://x:1')"
