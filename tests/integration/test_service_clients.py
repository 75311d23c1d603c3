"""The clients against a daemon's edge: errors, streams, correlation, deadlines, and what is never dialled."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web as http

from rbees.clients import dialer
from rbees.clients.control import read_control
from rbees.clients.dialer import Dialer
from rbees.clients.http import HttpClient
from rbees.clients.orcd import OrcdClient
from rbees.clients.poold import PooldClient
from rbees.clients.workerd import WorkerClient
from rbees.protocol import codec
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import End, Error, Event, Timings, Token, Usage
from rbees.protocol.jobs import CancelAnswer, JobAccepted, JobList, JobRequest
from rbees.protocol.pools import WorkerList
from rbees.protocol.workers import Beat, ControlInfo, ExecuteRequest
from rbees.service import logs
from rbees.service.auth import BearerAuth
from rbees.service.auth import Token as Secret
from rbees.service.sse import SseWriter, frame
from rbees.service.web import Parameter, Route, Server, read, reply
from tests.support.service_app import serving

SECRET = "rbk_" + "a" * 43


class Echo(Message, frozen=True, kw_only=True):
    correlation_id: str | None
    size: int = 0


async def echo(request: http.Request) -> http.Response:
    return reply(Echo(correlation_id=logs.correlation_id.get(), size=len(await request.read())))


def client(server: Server, **options: Any) -> HttpClient:
    return HttpClient(server.url, unreachable=ErrorCode.ORCD_UNREACHABLE, **options)


async def failure(of: HttpClient, path: str = "/x", **options: Any) -> RbeesError:
    async with of:
        with pytest.raises(RbeesError) as caught:
            await of.call("GET", path, response=Echo, **options)
    return caught.value


async def test_the_correlation_id_travels_along() -> None:
    async with serving(Route("POST", "/x", echo, "Echo.")) as server, client(server) as calls:
        token = logs.correlation_id.set("from-afar")
        try:
            answer = await calls.call("POST", "/x", {"a": 1}, Echo)
        finally:
            logs.correlation_id.reset(token)
        assert answer.correlation_id == "from-afar"


async def test_large_bodies_go_out_whole() -> None:
    async with serving(Route("POST", "/x", echo, "Echo.")) as server, client(server) as calls:
        assert (await calls.call("POST", "/x", "a" * 3_000_000, Echo)).size == 3_000_002


async def test_the_error_of_the_peer_arrives_with_code_and_details() -> None:
    async def refuse(_request: http.Request) -> http.Response:
        raise RbeesError(ErrorCode.INSUFFICIENT_VRAM, "Too large.", needed_bytes=5)

    async with serving(Route("GET", "/x", refuse, "Refuse.")) as server:
        error = await failure(client(server))
        assert (error.code, error.message, error.details) == (ErrorCode.INSUFFICIENT_VRAM, "Too large.", {"needed_bytes": 5})
        assert (await failure(client(server), "/nowhere")).code is ErrorCode.NOT_FOUND


async def test_a_token_opens_the_door() -> None:
    async with serving(Route("GET", "/x", echo, "Echo."), authenticator=BearerAuth(Secret(SECRET))) as server:
        assert (await failure(client(server))).code is ErrorCode.UNAUTHENTICATED
        async with client(server, token=SECRET) as calls:
            await calls.call("GET", "/x", response=Echo)


async def test_nobody_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        error = await failure(HttpClient(url, unreachable=ErrorCode.ORCD_UNREACHABLE))
    assert error.code is ErrorCode.ORCD_UNREACHABLE
    assert error.details == {"url": url, "reason": "connection refused"}
    assert "rbees up" in error.message
    error = await failure(HttpClient("http://no.such.name.invalid", unreachable=ErrorCode.POOL_UNREACHABLE))
    assert (error.code, error.details["reason"]) == (ErrorCode.POOL_UNREACHABLE, "the name is unknown")


@pytest.mark.parametrize("host", ["a..b", ".a", "a" * 64, "a b", "a\n", "xn--\u00ff", "\u00fc" * 63])
async def test_a_name_that_can_be_no_host_s_is_refused_at_once(host: str) -> None:
    with pytest.raises(RbeesError) as caught:
        HttpClient(f"http://{host}:9200", unreachable=ErrorCode.POOL_UNREACHABLE)
    assert caught.value.code is ErrorCode.CONFIGURATION
    assert not await dialer.answers("http://a..b:9200", 1.0)


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(RbeesError) as caught:
        HttpClient("http://me:hunter2@host:1", unreachable=ErrorCode.ORCD_UNREACHABLE)
    assert "hunter2" not in f"{caught.value}{caught.value.details}"


class Refusing(Dialer):
    """As where a resolver takes offence at a name that looked well."""

    def session(self) -> aiohttp.ClientSession:
        raise UnicodeError("label empty or too long")


async def test_what_the_resolver_takes_offence_at_is_a_host_that_cannot_be_reached() -> None:
    error = await failure(HttpClient("http://host:1", unreachable=ErrorCode.POOL_UNREACHABLE, dialer=Refusing()))
    assert error.code is ErrorCode.POOL_UNREACHABLE
    assert error.details["reason"] == "the name can be no host's"


async def test_a_header_with_a_line_break_is_refused_by_name() -> None:
    error = await failure(HttpClient("http://127.0.0.1:1", unreachable=ErrorCode.ORCD_UNREACHABLE), headers={"X-Key": "a\nb"})
    assert error.code is ErrorCode.INVALID_REQUEST
    assert "X-Key" in error.message


async def test_nobody_answers() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = await failure(HttpClient(url, unreachable=ErrorCode.WORKER_UNREACHABLE), timeout_s=0.2)
    assert (error.code, error.details["reason"]) == (ErrorCode.WORKER_UNREACHABLE, "no answer in time")


async def test_an_answer_of_another_form_is_a_difference_of_versions() -> None:
    async def other(_request: http.Request) -> http.Response:
        return reply({"something": "else"})

    async with serving(Route("GET", "/x", other, "Other.")) as server:
        assert (await failure(client(server))).code is ErrorCode.INTERNAL


async def test_redirects_are_not_followed() -> None:
    async def elsewhere(_request: http.Request) -> http.Response:
        return http.Response(status=302, headers={"Location": "http://169.254.169.254/"})

    async with serving(Route("GET", "/x", elsewhere, "Elsewhere.")) as server:
        error = await failure(client(server))
        assert error.code is ErrorCode.ORCD_UNREACHABLE
        assert error.details["http_status"] == 302


async def test_a_port_is_asked_whether_anybody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert await dialer.answers(url, 1.0)
    server.close()
    await server.wait_closed()
    assert not await dialer.answers(url, 1.0)
    dialled: list[object] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", lambda _socket, address: dialled.append(address))
    assert not await dialer.answers("http://169.254.169.254:80", 1.0)
    assert dialled == []


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "100.100.100.200"])
async def test_link_local_and_metadata_addresses_are_never_dialled(host: str) -> None:
    error = await failure(HttpClient(f"http://{host}:80", unreachable=ErrorCode.POOL_UNREACHABLE))
    assert error.code is ErrorCode.POOL_UNREACHABLE
    assert "never dialled" in error.message


class FlippingResolver(aiohttp.abc.AbstractResolver):
    """Answers with a harmless address first and with the metadata service ever after."""

    def __init__(self) -> None:
        self.answers = iter(["127.0.0.1"])

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        address = next(self.answers, "169.254.169.254")
        return [{"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": socket.AI_NUMERICHOST}]

    async def close(self) -> None:
        """Nothing to close."""


async def test_a_resolver_that_flips_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = FlippingResolver()
    monkeypatch.setattr("aiohttp.connector.DefaultResolver", lambda *_, **__: resolver)
    async with serving(Route("GET", "/x", echo, "Echo."), allowed_hosts=["flip.example"]) as server:
        async with HttpClient(f"http://flip.example:{server.port}", unreachable=ErrorCode.POOL_UNREACHABLE) as calls:
            await calls.call("GET", "/x", response=Echo)
        error = await failure(HttpClient(f"http://flip.example:{server.port}", unreachable=ErrorCode.POOL_UNREACHABLE))
        assert "never dialled" in error.message


async def test_sockets_notice_a_peer_that_vanished() -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.fail("this system has no TCP_USER_TIMEOUT; mark the test for another platform")

    async def endless(request: http.Request) -> http.StreamResponse:
        async with SseWriter(request) as out:
            await asyncio.Event().wait()
        return out.response

    async with (
        serving(Route("GET", "/s", endless, "Endless.", stream=True)) as server,
        Dialer() as dialer,
        dialer.session().get(f"{server.url}/s") as answer,
    ):
        assert answer.connection is not None
        assert answer.connection.transport is not None
        connected = answer.connection.transport.get_extra_info("socket")
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        assert ipaddress.ip_address(connected.getpeername()[0]).is_loopback


async def test_clients_share_the_connections_of_a_dialer() -> None:
    async with serving(Route("GET", "/x", echo, "Echo.")) as server, Dialer() as dialer:
        first, second = client(server, dialer=dialer), client(server, dialer=dialer)
        await first.call("GET", "/x", response=Echo)
        await first.close()
        await second.call("GET", "/x", response=Echo)
        assert not dialer.session().closed


END = End(
    choices=(),
    usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1),
    timings=Timings(prefill_ms=1.0, decode_ms=1.0),
)
EVENTS: tuple[Event, ...] = (Token(text="ü", index=0), Token(text="b", index=1), END)


def event_frame(number: int | None, event: Event | Beat) -> bytes:
    name = event.__struct_config__.tag
    assert isinstance(name, str)
    return frame(number, name, codec.encode(event))


async def test_the_events_of_a_job_resume_where_they_ended() -> None:
    asked: list[str] = []

    async def follow(request: http.Request) -> http.StreamResponse:
        after = int(request.headers.get("Last-Event-ID", "0"))
        asked.append(request.match_info["job_id"])
        async with SseWriter(request) as out:
            for number, event in enumerate(EVENTS, 1):
                if number > after:
                    await out.write(event_frame(number, event))
        return out.response

    async with (
        serving(Route("GET", "/v2/tasks/{job_id}/events", follow, "Follow.", stream=True)) as server,
        OrcdClient(server.url) as orcd,
    ):
        for after in (0, 1, 3):
            async with orcd.events("job-1", after) as events:
                assert [event async for event in events] == list(enumerate(EVENTS, 1))[after:]
        async with orcd.events("a/b?c"):
            assert asked[-1] == "a/b?c"


async def test_a_stream_that_breaks_off_is_no_end() -> None:
    async def break_off(request: http.Request) -> http.StreamResponse:
        async with SseWriter(request) as out:
            await out.write(event_frame(1, EVENTS[0]))
            await asyncio.sleep(0.1)
            assert request.transport is not None
            request.transport.abort()
        return out.response

    async with (
        serving(Route("GET", "/v2/tasks/{job_id}/events", break_off, "Break.", stream=True)) as server,
        OrcdClient(server.url) as orcd,
        orcd.events("job-1") as events,
    ):
        assert await anext(events) == (1, EVENTS[0])
        with pytest.raises(RbeesError) as caught:
            await anext(events)
        assert caught.value.code is ErrorCode.ORCD_UNREACHABLE


async def test_a_stream_that_falls_silent_is_given_up() -> None:
    async def fall_silent(request: http.Request) -> http.StreamResponse:
        async with SseWriter(request) as out:
            await asyncio.sleep(30)
        return out.response

    async with (
        serving(Route("GET", "/s", fall_silent, "Silence.", stream=True), drain_timeout_s=0.1) as server,
        client(server) as calls,
        calls.stream("GET", "/s", idle_timeout_s=0.5) as frames,
    ):
        with pytest.raises(RbeesError, match="no answer in time"):
            await anext(frames)


async def test_leaving_a_stream_early_tells_the_server() -> None:
    gone = asyncio.Event()

    async def endless(request: http.Request) -> http.StreamResponse:
        try:
            async with SseWriter(request) as out:
                await out.write(event_frame(1, EVENTS[0]))
                await asyncio.Event().wait()
            return out.response
        finally:
            gone.set()

    async with serving(Route("GET", "/s", endless, "Endless.", stream=True)) as server, client(server) as calls:
        async with calls.stream("GET", "/s") as frames:
            await anext(frames)
        await asyncio.wait_for(gone.wait(), 30)


async def test_a_worker_s_stream_has_events_and_beats() -> None:
    async def execute(request: http.Request) -> http.StreamResponse:
        asked = await read(request, ExecuteRequest)
        async with SseWriter(request) as out:
            await out.write(event_frame(None, Beat(step=asked.epoch)))
            await out.write(event_frame(1, EVENTS[0]) + event_frame(2, END))
        return out.response

    route = Route("POST", "/execute", execute, "Execute.", stream=True)
    async with (
        serving(route, authenticator=BearerAuth(Secret(SECRET))) as server,
        WorkerClient(server.url, token=SECRET) as worker,
        worker.execute(ExecuteRequest(job_id="j", epoch=3, prompt="p")) as events,
    ):
        assert [event async for event in events] == [(None, Beat(step=3)), (1, EVENTS[0]), (2, END)]


async def test_calls_go_to_the_routes_of_the_contract() -> None:
    seen: list[str] = []

    async def note(request: http.Request) -> http.Response:
        seen.append(f"{request.method} {request.path_qs}")
        answers: dict[str, object] = {
            "POST /v2/tasks": JobAccepted(job_id="j", status="queued", queue_position=1, events_url="/e", seed=1),
            "GET /v2/tasks": JobList(jobs=()),
            "DELETE /v2/tasks/{job_id}": CancelAnswer(job_id="j", status="cancelled"),
            "GET /workers": WorkerList(workers=()),
        }
        resource = request.match_info.route.resource
        assert resource is not None
        return reply(answers.get(f"{request.method} {resource.canonical}"), 200)

    async def log(_request: http.Request) -> http.Response:
        return http.Response(text="one\ntwo\nthree")

    paging = tuple(Parameter(name, "", str) for name in ("status", "model", "limit", "cursor"))
    table = (
        Route("POST", "/v2/tasks", note, "", request=JobRequest),
        Route("GET", "/v2/tasks", note, "", parameters=paging),
        Route("DELETE", "/v2/tasks/{job_id}", note, ""),
        Route("GET", "/workers", note, ""),
        Route("DELETE", "/workers/{worker_id}", note, ""),
        Route("GET", "/workers/{worker_id}/logs", log, "", parameters=(Parameter("follow", "", bool),)),
        Route("POST", "/jobs/{job_id}/ack", note, ""),
        Route("POST", "/cancel", note, ""),
        Route("POST", "/shutdown", note, ""),
    )
    async with serving(*table) as server, Dialer() as dialer:
        orcd, poold = OrcdClient(server.url, dialer=dialer), PooldClient(server.url, dialer=dialer)
        worker = WorkerClient(server.url, dialer=dialer)
        assert (await orcd.submit(JobRequest(model="haiku", prompt="p"), "key")).job_id == "j"
        await orcd.jobs(status="queued", limit=5)
        await orcd.cancel("j")
        await poold.workers()
        await poold.stop_worker("w", "a test.\r\nX-Other: \udc80 \x1b[2J")
        async with poold.logs("w", follow=True) as lines:
            assert [line async for line in lines] == ["one", "two", "three"]
        await worker.ack("j", 1, 5)
        await worker.cancel("j")
        await worker.shutdown()
    assert seen == [
        "POST /v2/tasks",
        "GET /v2/tasks?status=queued&limit=5",
        "DELETE /v2/tasks/j",
        "GET /workers",
        "DELETE /workers/w",
        "POST /jobs/j/ack",
        "POST /cancel",
        "POST /shutdown",
    ]


CONTROL = ControlInfo(worker_id="w", nonce="n", pid=1, uri="http://127.0.0.1:1", secret="rbk_x", state="loading")


@pytest.fixture
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


async def test_a_control_socket_tells_who_is_there(short_folder: Path) -> None:
    async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(codec.encode(CONTROL) + b"\n")
        writer.close()

    async with await asyncio.start_unix_server(tell, short_folder / "a"):
        assert await read_control(short_folder / "a") == CONTROL
    assert "rbk_x" not in repr(CONTROL)


async def test_a_control_socket_that_nobody_holds(short_folder: Path) -> None:
    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.close()

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"a" * 3_000_000)
        writer.close()

    over = asyncio.Event()

    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        over.set()

    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(short_folder / "stale"))
    for name in ("none", "stale"):
        with pytest.raises(RbeesError) as caught:
            await read_control(short_folder / name)
        assert caught.value.code is ErrorCode.WORKER_UNREACHABLE
    for serve in (babble, flood, stay_silent):
        async with await asyncio.start_unix_server(serve, short_folder / serve.__name__):
            with pytest.raises(RbeesError) as caught:
                await read_control(short_folder / serve.__name__, timeout_s=0.3)
            assert caught.value.code is ErrorCode.WORKER_UNREACHABLE
    await asyncio.wait_for(over.wait(), 30)


def test_error_events_hold_the_same_object() -> None:
    event = Error(error=RbeesError(ErrorCode.TIMEOUT, "Too long.").body("c"))
    back: object = codec.decode(codec.encode(event), Event)  # type: ignore[arg-type]  # A union is no type to mypy.
    assert back == event
