"""Looking on at a host over SSH that ends it by itself: what its command said is passed on."""

from __future__ import annotations

import asyncio

import pytest

from rbees.ctl.hosts import Host, SshTarget
from rbees.ctl.remote_watch import watch_remote
from rbees.ctl.sinks import Sink
from rbees.protocol import codec
from rbees.protocol.errors import ErrorBody, ErrorCode, ErrorEnvelope, RbeesError

MAC = Host(name="mac", ssh=SshTarget(host="mac.home.arpa"), url=None, is_url_known=False)


async def watched(said: bytes, code: int) -> int:
    """The end of a host's command that says so much on stderr."""
    asked = []

    async def run(words: tuple[str, ...], sink: Sink, interrupted: asyncio.Event) -> int:
        asked.append(words)
        sink.err(said)
        assert not interrupted.is_set()
        return code

    try:
        return await watch_remote(MAC, 5.0, run, asyncio.Event())
    finally:
        assert asked == [("status", "--watch=5", "--json")]


async def test_the_error_of_the_hosts_command_is_ours() -> None:
    error = ErrorEnvelope(error=ErrorBody(code=ErrorCode.STORAGE_FULL, message="It is away."))
    with pytest.raises(RbeesError) as caught:
        await watched(b"a note\n" + codec.encode(error) + b"\n", 74)
    assert (caught.value.code, caught.value.message) == (ErrorCode.STORAGE_FULL, "It is away.")


@pytest.mark.parametrize(("said", "code", "shown"), [(b"", 0, ""), (b"Killed\x1b[2J\n", 137, "mac: Killed\u241b[2J\n")])
async def test_what_is_no_error_is_shown_with_the_name_of_the_host(
    said: bytes, code: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await watched(said, code) == code
    assert capsys.readouterr().err == shown


async def test_a_host_that_cannot_be_reached_is_told_as_everywhere() -> None:
    async def run(words: tuple[str, ...], sink: Sink, interrupted: asyncio.Event) -> int:
        raise RbeesError(ErrorCode.HOST_UNREACHABLE, "It broke off.")

    with pytest.raises(RbeesError, match="It broke off"):
        await watch_remote(MAC, 5.0, run, asyncio.Event())


async def test_a_round_that_is_not_understood_is_blamed_on_the_versions_and_the_host_is_told_to_end() -> None:
    told = False

    async def run(words: tuple[str, ...], sink: Sink, interrupted: asyncio.Event) -> int:
        nonlocal told
        sink.out(b'{"rooms": 3}\n')
        await interrupted.wait()
        told = True
        return 130

    with pytest.raises(RbeesError) as caught:
        await watch_remote(MAC, 5.0, run, asyncio.Event())
    assert caught.value.code is ErrorCode.HOST_VERSION
    assert told
