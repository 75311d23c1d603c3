"""A real worker process with the scripted backend: exact streams, attaching, acknowledging, cancelling, ending."""

from __future__ import annotations

import asyncio
import signal
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest
import pytest_asyncio
from aiohttp import web

from rbees.clients.http import HttpClient
from rbees.protocol import codec
from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ErrorCode, ErrorEnvelope, RbeesError
from rbees.protocol.events import End, Error, Event, Speculation, Started, Token
from rbees.protocol.sampling import Sampling
from rbees.protocol.workers import Beat, ExecuteRequest, TokenizeRequest, WorkerReady
from rbees.service.sse import frame
from rbees.workerd.engine.outputs import Grown
from rbees.workerd.engine.sequence import Work
from tests.support.scripted_models import run_out, scripted_engine, write_script
from tests.support.worker_process import WorkerProcess, running_worker

SLOW_CALL_S = 0.02
"""A decode call so long that guessing pays on a busy machine too, which else sees by its own slowness that it does not."""
SECRET = "rbk_" + "s3cretS3CRET" * 3 + "abcdefg"


def job(job_id: str = "job-a", epoch: int = 1, **fields: Any) -> ExecuteRequest:
    sampling = Sampling(seed=fields.pop("seed", 7), stop=fields.pop("stop", ()), ignore_eos=fields.pop("ignore_eos", False))
    if not {"messages", "token_ids"} & fields.keys():
        fields.setdefault("prompt", "tell me of bees")
    return ExecuteRequest(job_id=job_id, epoch=epoch, sampling=sampling, **fields)


async def collect(stream: Any) -> list[tuple[int | None, Event | Beat]]:
    return [item async for item in stream]


def text(items: list[tuple[int | None, Event | Beat]]) -> str:
    return "".join(event.text for _, event in items if isinstance(event, Token))


def ids(items: list[tuple[int | None, Event | Beat]]) -> list[int]:
    return [i for _, event in items if isinstance(event, Token) for i in event.token_ids]


def numbers(items: list[tuple[int | None, Event | Beat]]) -> list[int]:
    return [seq for seq, _ in items if seq is not None]


async def run_job(worker: WorkerProcess, request: ExecuteRequest) -> list[tuple[int | None, Event | Beat]]:
    async with worker.client() as client, client.execute(request) as stream:
        return await collect(stream)


async def raw(worker: WorkerProcess, method: str, path: str, body: object = None, **fields: Any) -> tuple[int, bytes]:
    data = codec.encode(body) if body is not None else None
    headers = {**worker.headers, "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, worker.uri + path, data=data, headers=headers, **fields) as answer,
    ):
        return answer.status, await answer.read()


async def taken_up(worker: WorkerProcess, running: int = 1, waiting: int = 0) -> None:
    """Return once so many jobs run and wait. Each request comes on its own connection, so only the worker knows what it has."""
    async with worker.client() as client, asyncio.timeout(20):
        while True:
            health = await client.health()
            if (health.slots_used, health.waiting) == (running, waiting):
                return
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerProcess]:
    """One for the tests that leave it as it is and name their jobs as no other does."""
    folder = tmp_path_factory.mktemp("worker")
    async with running_worker(write_script(folder), folder) as worker:
        await worker.ready()
        yield worker


async def test_the_stream_is_exact_and_attaching_repeats_its_bytes(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path), tmp_path) as worker:
        await worker.ready()
        status, whole = await raw(worker, "POST", "/execute", job())
        assert status == 200
        engine = scripted_engine(ctx=4_096)
        engine.submit(Work("k", tuple(b"tell me of bees"), (), None, Sampling(seed=7)))
        started = Started(epoch=1, worker_id="w", model=f"file:{tmp_path}/bees.scripted.json", prompt_tokens=15)
        tokens = [
            Token(text=o.piece.text, index=o.piece.index, token_ids=o.piece.token_ids)
            for o in run_out(engine)
            if isinstance(o, Grown)
        ]
        expected = frame(1, "started", codec.encode(started))
        expected += b"".join(frame(i, "token", codec.encode(token)) for i, token in enumerate(tokens, 2))
        assert whole.startswith(expected)
        assert whole[len(expected) :].startswith(b"id: %d\nevent: end\n" % (len(tokens) + 2))
        for after in (0, 1, 17, len(tokens) + 2):
            _, tail = await raw(worker, "GET", f"/jobs/job-a/events?epoch=1&after={after}")
            assert whole.endswith(tail)
            assert tail.startswith(b"id: %d\n" % (after + 1)) or after == len(tokens) + 2
        again, joined = await raw(worker, "POST", "/execute", job())
        assert (again, joined) == (200, whole), "the same job and epoch joins what runs, or ran, already"


async def test_a_persons_slip_is_refused_by_name_and_a_newer_orcd_is_served(shared_worker: WorkerProcess) -> None:
    slipped = {"job_id": "slip", "epoch": 1, "prompt": "hum", "max_token": 3}
    for path, body in (
        ("/execute", slipped),
        ("/tokenize", {"promt": "x", "prompt": "x"}),
        ("/cancel", {"job_id": "slip", "epocs": 1}),
    ):
        status, said = await raw(shared_worker, "POST", path, body)
        assert status == 400
        assert "the nearest one that exists is" in codec.decode(said, ErrorEnvelope).error.message
    async with HttpClient(shared_worker.uri, token=shared_worker.secret, unreachable=ErrorCode.WORKER_UNREACHABLE) as orcd:
        async with orcd.stream("POST", "/execute", slipped) as frames:
            assert [f.event async for f in frames if f.event != "beat"][-1] == "end"
        with pytest.raises(RbeesError) as caught:
            await orcd.call("POST", "/execute", {**slipped, "prompt": "sing"})
    assert caught.value.code is ErrorCode.IDEMPOTENCY_CONFLICT


async def test_a_worker_asks_for_its_own_secret(shared_worker: WorkerProcess) -> None:
    for headers in ({}, {"Authorization": "Bearer rbk_other"}):
        async with aiohttp.ClientSession() as session, session.get(f"{shared_worker.uri}/health", headers=headers) as answer:
            assert answer.status == 401
            said = codec.decode(await answer.read(), ErrorEnvelope).error.message
        assert "this worker's" in said
        assert "--secret-fd" in said


async def test_guesses_change_no_event_and_are_told_of_at_the_end_in_health_and_metrics(tmp_path: Path) -> None:
    (tmp_path / "off").mkdir()
    script = write_script(tmp_path, vocabulary_size=300, copies=0.9, answer_tokens=200, call_seconds=SLOW_CALL_S)
    async with (
        running_worker(script, tmp_path) as on,
        running_worker(script, tmp_path / "off", "--speculation=off") as off,
    ):
        await on.ready()
        await off.ready()
        *items, (_, ending) = [item for item in await run_job(on, job()) if not isinstance(item[1], Beat)]
        *plain, (_, plain_ending) = [item for item in await run_job(off, job()) if not isinstance(item[1], Beat)]
        assert items == plain
        assert isinstance(ending, End)
        assert isinstance(ending.speculation, Speculation)
        assert 0 < ending.speculation.accepted_tokens <= ending.speculation.drafted_tokens
        assert isinstance(plain_ending, End)
        assert plain_ending.speculation is msgspec.UNSET
        async with on.client() as client:
            health = await client.health()
        assert health.drafted_tokens_total >= health.accepted_tokens_total >= ending.speculation.accepted_tokens
        _, figures = await raw(on, "GET", "/metrics")
        assert f"\nrbees_worker_accepted_tokens_total {float(health.accepted_tokens_total)}\n" in figures.decode()
        async with off.client() as client:
            assert (await client.health()).drafted_tokens_total == 0


async def test_a_draft_model_of_the_same_vocabulary_guesses_and_another_ends_the_worker_before_it_is_ready(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    script = write_script(tmp_path, answer_tokens=200, call_seconds=SLOW_CALL_S)
    draft = write_script(tmp_path, "draft", answer_tokens=150)
    async with running_worker(script, tmp_path, f"--draft-model={draft}", "--draft-tokens=4") as worker:
        await worker.ready()
        items = await run_job(worker, job(deterministic=True))
        again = await run_job(worker, job("job-b"))
        assert ids(again) == ids(items)
        async with worker.client() as client:
            assert (await client.health()).accepted_tokens_total > 0, "how many depends on what guessing costs here"
    another = write_script(tmp_path, "another", vocabulary_size=600)
    async with running_worker(script, tmp_path / "other", f"--draft-model={another}") as worker:
        assert await worker.ended() == 65
        error = codec.decode(worker.log.splitlines()[-1], ErrorEnvelope).error
        assert error.code == ErrorCode.MODEL_INCOMPATIBLE
        assert "number of tokens is 600 instead of 512" in error.message
    async with running_worker(script, tmp_path / "other", f"--draft-model={draft}", "--speculation=off") as worker:
        assert await worker.ended() == 78
        assert codec.decode(worker.log.splitlines()[-1], ErrorEnvelope).error.code == ErrorCode.CONFIGURATION


async def test_who_reads_attempts_to_their_end_asks_again_over_the_same_connection(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path), tmp_path) as worker:
        await worker.ready()
        ports: set[int] = set()
        async with worker.client() as client:
            for number in range(5):
                async with client.execute(job(f"job-{number}")) as stream:
                    async for _, event in stream:
                        if isinstance(event, End):
                            # Like orcd, which needs nothing behind it.
                            break
                connections = psutil.Process().net_connections("tcp4")
                ports |= {c.laddr.port for c in connections if c.raddr and f"http://127.0.0.1:{c.raddr.port}" == worker.uri}
        assert len(ports) == 1


async def test_acknowledged_events_are_forgotten_and_then_the_job(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path), tmp_path) as worker:
        await worker.ready()
        items = await run_job(worker, job())
        async with worker.client() as client:
            await client.ack("job-a", 1, 10)
            async with client.attach("job-a", 1, 10) as stream:
                assert numbers(await collect(stream)) == numbers(items)[10:]
            status, body = await raw(worker, "GET", "/jobs/job-a/events?epoch=1&after=3")
            assert (status, codec.decode(body, ErrorEnvelope).error.details["acked_seq"]) == (400, 10)
            with pytest.raises(RbeesError) as caught:
                await client.ack("job-a", 1, len(items) + 5)
            assert caught.value.code == ErrorCode.INVALID_REQUEST
            await client.ack("job-a", 1, len(items))
            with pytest.raises(RbeesError) as caught:
                await client.ack("job-a", 1, len(items))
            assert caught.value.code == ErrorCode.JOB_NOT_FOUND


async def test_a_dropped_connection_is_no_cancellation(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, tokens_per_second=100), tmp_path) as worker:
        await worker.ready()
        async with worker.client() as client:
            first: list[tuple[int | None, Event | Beat]] = []
            async with client.execute(job()) as stream:
                async for item in stream:
                    first.append(item)
                    if len(first) == 8:
                        break
            await asyncio.sleep(0.1)
            async with client.attach("job-a", 1, 8) as stream:
                rest = await collect(stream)
        assert numbers(first + rest) == list(range(1, len(numbers(first + rest)) + 1))
        assert text(first + rest) == text(await run_job(worker, job("job-b")))


async def test_a_job_that_runs_alone_and_that_nobody_acknowledges_does_not_hold_up_the_others(tmp_path: Path) -> None:
    sampling = Sampling(seed=7, ignore_eos=True, logprobs=True, top_logprobs=20)
    alone = ExecuteRequest(job_id="alone", epoch=1, prompt="bees", max_tokens=3_000, sampling=sampling, deterministic=True)
    async with running_worker(write_script(tmp_path, answer_tokens=3_000), tmp_path) as worker:
        await worker.ready()
        reading = asyncio.create_task(run_job(worker, alone))
        await taken_up(worker)
        assert isinstance((await run_job(worker, job()))[-1][1], End)
        *_, (last_seq, last) = [item for item in await reading if not isinstance(item[1], Beat)]
    assert isinstance(last, Error)
    assert last.error.code is ErrorCode.CANCELLED
    assert "nobody acknowledged its events for 5 s and others waited for it" in last.error.message
    assert last.error.details == {"acked_seq": 0, "last_seq": (last_seq or 0) - 1}


async def test_continuing_on_another_worker_gives_the_undisturbed_answer(tmp_path: Path) -> None:
    script = write_script(tmp_path)
    (tmp_path / "2").mkdir()
    async with running_worker(script, tmp_path) as one, running_worker(script, tmp_path / "2") as two:
        await asyncio.gather(one.ready(), two.ready())
        whole = await run_job(one, job())
        generated: list[int] = []
        for _, event in whole[:20]:
            generated += event.token_ids if isinstance(event, Token) else ()
        rest = await run_job(two, job(epoch=2, generated_token_ids=tuple(generated)))
        assert ids(rest) == ids(whole)[len(generated) :]
        assert text(whole[:20]) + text(rest) == text(whole)
        (_, end), (_, end_of_rest) = whole[-1], rest[-1]
        assert isinstance(end, End)
        assert isinstance(end_of_rest, End)
        assert end.usage == end_of_rest.usage


async def test_jobs_share_decode_calls(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, tokens_per_second=40), tmp_path, "--slots=16") as worker:
        await worker.ready()
        began = time.monotonic()
        answers = await asyncio.gather(*(run_job(worker, job(f"job-{i}", seed=i)) for i in range(16)))
        # Together they take little more than a second, one after the other 16 × 50 tokens at 40 a second: no less than twenty.
        assert time.monotonic() - began < 19
        assert len({text(items) for items in answers}) == 16


async def test_cancelling_ends_the_stream_with_its_code(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, tokens_per_second=2), tmp_path, "--slots=1") as worker:
        await worker.ready()
        async with worker.client() as client:
            running = asyncio.create_task(run_job(worker, job("job-a")))
            waiting = asyncio.create_task(run_job(worker, job("job-b")))
            await taken_up(worker, running=1, waiting=1)
            for name in ("job-b", "job-a", "job-a", "unknown"):
                await client.cancel(name)
            for task in (running, waiting):
                _, last = (await task)[-1]
                assert isinstance(last, Error)
                assert last.error.code == ErrorCode.CANCELLED
            assert (await client.health()).slots_used == 0


async def test_cancelling_a_long_prefill_takes_effect_at_once(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, prefill_tokens_per_second=2), tmp_path) as worker:
        await worker.ready()
        async with worker.client() as client, client.execute(job(prompt="x" * 400)) as stream:
            async for _, event in stream:
                if isinstance(event, Beat):
                    break  # By now the call that computes the prompt is under way, and it would take two hundred seconds.
            began = time.monotonic()
            await client.cancel("job-a")
            _, last = (await collect(stream))[-1]
        assert isinstance(last, Error)
        assert time.monotonic() - began < 60


async def test_a_higher_epoch_ends_the_lower_and_a_lower_one_is_refused(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, tokens_per_second=20), tmp_path) as worker:
        await worker.ready()
        first = asyncio.create_task(run_job(worker, job(epoch=2)))
        await taken_up(worker)
        second = asyncio.create_task(run_job(worker, job(epoch=3, max_tokens=4)))
        _, last = (await first)[-1]
        assert isinstance(last, Error)
        assert last.error.code == ErrorCode.CANCELLED
        assert isinstance((await second)[-1][1], End)
        ((_, refused),) = await run_job(worker, job(epoch=1))
        assert isinstance(refused, Error)


async def test_beats_come_every_second_without_numbers_also_while_waiting(tmp_path: Path) -> None:
    script = write_script(tmp_path, tokens_per_second=20, prefill_tokens_per_second=40)
    async with running_worker(script, tmp_path, "--slots=1") as worker:
        await worker.ready()
        long = asyncio.create_task(run_job(worker, job("job-a", prompt="y" * 60)))
        await taken_up(worker)
        waiting = asyncio.create_task(run_job(worker, job("job-b", max_tokens=2)))
        for task in (long, waiting):
            beats = [(seq, event.step) for seq, event in await task if isinstance(event, Beat)]
            assert len(beats) >= 3
            assert all(seq is None for seq, _ in beats)
            steps = [step for _, step in beats]
            assert steps == sorted(steps)
            assert len(set(steps)) >= 3, "the counter moves"


async def test_the_port_is_open_while_the_model_loads(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, load_seconds=3.0), tmp_path) as worker:
        await worker.listening()
        async with worker.client() as client:
            health = await client.health()
            assert health.state == "loading"
            assert health.load_progress < 1
            assert health.kv_layout is None, "nobody knows yet"
            with pytest.raises(RbeesError) as caught:
                async with client.execute(job()):
                    pass
            assert caught.value.code == ErrorCode.MODEL_LOADING
            assert caught.value.details["retry_after_s"] > 0
        await worker.ready()
        assert isinstance((await run_job(worker, job()))[-1][1], End)


@pytest.mark.parametrize("by_signal", [True, False])
async def test_draining_finishes_what_runs_refuses_the_rest_and_exits_0(tmp_path: Path, by_signal: bool) -> None:
    async with running_worker(write_script(tmp_path, tokens_per_second=20), tmp_path) as worker:
        await worker.ready()
        running = asyncio.create_task(run_job(worker, job()))
        await taken_up(worker)
        async with worker.client() as client:
            if by_signal:
                worker.process.send_signal(signal.SIGTERM)
            else:
                await client.shutdown()
            await worker.draining()
            with pytest.raises(RbeesError) as caught:
                async with client.execute(job("job-late")):
                    pass
            assert caught.value.code == ErrorCode.DRAINING
        items = await running
        assert isinstance(items[-1][1], End)
        assert len(ids(items)) == 50
        assert await worker.ended() == 0
        assert not worker.socket.exists()


async def test_a_reader_of_somebodys_own_program_that_left_early_does_not_hold_the_end_up(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, tokens_per_second=20), tmp_path) as worker:
        await worker.ready()
        headers = {**worker.headers, "Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{worker.uri}/execute", data=codec.encode(job())) as answer,
        ):
            assert answer.status == 200, await answer.text()
            await answer.content.readuntil(b"event: token")
        worker.process.send_signal(signal.SIGINT)
        assert await worker.ended() == 0
        assert "drain_timeout" not in worker.log


async def test_stopping_while_loading_exits_0(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, load_seconds=20), tmp_path) as worker:
        await worker.listening()
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ended(18) == 0


async def test_a_killed_worker_breaks_its_streams(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, tokens_per_second=20), tmp_path) as worker:
        await worker.ready()
        running = asyncio.create_task(run_job(worker, job()))
        await taken_up(worker)
        worker.process.send_signal(signal.SIGKILL)
        with pytest.raises(RbeesError) as caught:
            await running
        assert caught.value.code == ErrorCode.WORKER_UNREACHABLE


async def test_every_route_asks_for_the_secret(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path), tmp_path, secret=SECRET) as worker:
        await worker.ready()
        assert worker.secret == SECRET
        table = [("POST", "/execute"), ("GET", "/jobs/a/events"), ("POST", "/jobs/a/ack"), ("POST", "/cancel")]
        table += [("POST", "/tokenize"), ("GET", "/health"), ("POST", "/shutdown"), ("GET", "/metrics"), ("GET", "/openapi.json")]
        async with aiohttp.ClientSession() as session:
            for method, path in table:
                for headers in ({}, {"Authorization": "Bearer rbk_wrong"}):
                    async with session.request(method, worker.uri + path, headers=headers) as answer:
                        assert answer.status == 401, path
            async with session.get(worker.uri + "/livez") as answer:
                assert answer.status == 200


async def test_the_secret_is_in_no_command_line_environment_or_log(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path), tmp_path, "--log-level=debug", secret=SECRET) as worker:
        await worker.ready()
        await run_job(worker, job(prompt="canary-prompt"))
        folder = Path("/proc") / str(worker.process.pid)
        for name in ("cmdline", "environ"):
            assert SECRET.encode() not in (folder / name).read_bytes()
        assert SECRET not in worker.log
        assert "canary-prompt" not in worker.log


async def test_the_control_socket_is_private(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path), tmp_path, "--nonce=n0") as worker:
        await worker.ready()
        assert stat.S_IMODE(worker.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(worker.socket.parent.stat().st_mode) == 0o700
        await worker.listening()
        info = worker.info
        assert info is not None
        assert (info.worker_id, info.nonce, info.pid, info.state) == ("w", "n0", worker.process.pid, "ready")
        assert info.ready is not None
        assert info.ready.capabilities == ("generate", "chat")


async def test_the_callback_gets_the_ready_report(tmp_path: Path) -> None:
    reports: asyncio.Queue[tuple[str | None, WorkerReady]] = asyncio.Queue()
    statuses = [503, 204]

    async def take(request: web.Request) -> web.Response:
        reports.put_nowait((request.headers.get("Authorization"), codec.decode(await request.read(), WorkerReady)))
        return web.Response(status=statuses.pop(0))

    async with (
        Parent(take) as url,
        running_worker(write_script(tmp_path), tmp_path, f"--callback-url={url}", secret=SECRET) as worker,
    ):
        await worker.ready()
        first, again = await reports.get(), await reports.get()
        assert first == again
        authorization, report = first
        assert authorization == f"Bearer {SECRET}"
        assert (report.worker_id, report.uri, report.slots, report.ctx) == ("w", worker.uri, 4, 4_096)
        assert report.memory_bytes == 64 * 1024 * 1024


async def test_a_refused_callback_ends_the_worker_with_69(tmp_path: Path) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        refusal = RbeesError(ErrorCode.FORBIDDEN, "Not one of mine.")
        return web.Response(status=403, body=codec.encode(ErrorEnvelope(error=refusal.body())), content_type="application/json")

    async with Parent(refuse) as url, running_worker(write_script(tmp_path), tmp_path, f"--callback-url={url}") as worker:
        assert await worker.ended() == 69


@pytest.mark.parametrize(
    ("fields", "flags", "code", "error"),
    [
        ({"fail_at_load": True}, (), 65, "MODEL_INCOMPATIBLE"),
        ({"nonsense": 1}, (), 65, "MODEL_INCOMPATIBLE"),
        ({}, ("--kv-cells=64",), 78, "CONFIGURATION"),
        ({}, ("--slots=256", "--kv-layout=per_slot"), 78, "CONFIGURATION"),
        ({}, ("--bind=0.0.0.0",), 78, "CONFIGURATION"),
        ({}, ("--worker-id=../x",), 78, "CONFIGURATION"),
        ({}, ("--worker-id=.hidden",), 78, "CONFIGURATION"),
        ({}, (f"--worker-id={'w' * 65}",), 78, "CONFIGURATION"),
        ({}, ("--callback-url=ftp://127.0.0.1:1/ready",), 78, "CONFIGURATION"),
        ({}, ("--callback-url=127.0.0.1:9200/ready",), 78, "CONFIGURATION"),
        ({}, ("--callback-url=http://:9200/ready",), 78, "CONFIGURATION"),
        ({}, ("--callback-url=http://127.0.0.1:99999/ready",), 78, "CONFIGURATION"),
        ({"crash_at_load": "SIGSEGV"}, (), -signal.SIGSEGV, None),
    ],
)
async def test_a_failed_start_says_why(
    tmp_path: Path, fields: dict[str, Any], flags: tuple[str, ...], code: int, error: str | None
) -> None:
    async with running_worker(write_script(tmp_path, **fields), tmp_path, *flags) as worker:
        assert await worker.ended() == code
        if error is not None:
            last = codec.decode(worker.log.splitlines()[-1], ErrorEnvelope)
            assert last.error.code == error


async def test_safe_mode_survives_what_kills_otherwise(tmp_path: Path) -> None:
    script = write_script(tmp_path, crash_at_load="SIGILL", safe_mode_survives=True)
    async with running_worker(script, tmp_path, "--safe-mode") as worker:
        await worker.ready()
        async with worker.client() as client:
            assert (await client.health()).safe_mode


async def test_a_taken_port_is_said(tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    async with running_worker(write_script(tmp_path), tmp_path) as worker:
        await worker.listening()
        port = worker.uri.rpartition(":")[2]
        async with running_worker(write_script(tmp_path), tmp_path / "2", f"--port={port}") as second:
            assert await second.ended() == 75
            assert "ADDRESS_IN_USE" in second.log


async def test_a_marked_prompt_kills_the_worker(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, crash_on="poison"), tmp_path) as worker:
        await worker.ready()
        with pytest.raises(RbeesError):
            await run_job(worker, job(prompt="some poison here"))
        assert await worker.ended() == -signal.SIGKILL


async def test_what_cannot_be_computed_ends_the_stream_with_its_code(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, chat_template=None), tmp_path, "--ctx=64") as worker:
        await worker.ready()
        cases = {
            ErrorCode.CONTEXT_EXCEEDED: job("j1", prompt="x" * 64),
            ErrorCode.INVALID_REQUEST: job("j2", token_ids=(1, 9_999)),
            ErrorCode.MODEL_INCOMPATIBLE: job("j3", messages=(ChatMessage(role="user", content="hi"),)),
        }
        for code, request in cases.items():
            ((_, event),) = await run_job(worker, request)
            assert isinstance(event, Error)
            assert event.error.code == code
            assert event.error.correlation_id is not None


@pytest.mark.parametrize(
    "body",
    [
        {"job_id": "a", "epoch": 0, "prompt": "x"},
        {"job_id": "a", "epoch": 1},
        {"job_id": "a", "epoch": 1, "prompt": "x", "token_ids": [1]},
        {"job_id": "a/b", "epoch": 1, "prompt": "x"},
        {"job_id": "a", "epoch": 1, "prompt": "x", "sampling": {"temperature": 9}},
        {"job_id": "a", "epoch": 1, "prompt": "x", "sampling": {"stop": [""]}},
        {"job_id": "a", "epoch": 1, "prompt": "x", "sampling": {"top_logprobs": 2}},
        {"job_id": "a", "epoch": 1, "prompt": 5},
    ],
)
async def test_ill_formed_requests_are_refused_before_any_stream(shared_worker: WorkerProcess, body: dict[str, object]) -> None:
    status, answer = await raw(shared_worker, "POST", "/execute", body)
    assert status == 400
    assert codec.decode(answer, ErrorEnvelope).error.code == ErrorCode.INVALID_REQUEST


async def test_logprobs_are_the_same_bytes_in_every_replay_and_a_bias_outside_the_vocabulary_ends_the_job(
    shared_worker: WorkerProcess,
) -> None:
    sampling = Sampling(seed=7, min_p=0.02, dry_multiplier=0.8, presence_penalty=0.2, logprobs=True, top_logprobs=2)
    request = ExecuteRequest(job_id="rated", epoch=1, prompt="bees", max_tokens=12, sampling=sampling)
    _, whole = await raw(shared_worker, "POST", "/execute", request)
    _, again = await raw(shared_worker, "GET", "/jobs/rated/events?epoch=1&after=0")
    assert again == whole
    assert whole.count(b'"logprobs":[{"token_id":') == whole.count(b"event: token") > 0
    biased = ExecuteRequest(job_id="biased", epoch=1, prompt="bees", sampling=Sampling(logit_bias={1_000_000: 1.0}))
    ((_, event),) = await run_job(shared_worker, biased)
    assert isinstance(event, Error)
    assert (event.error.code, event.error.details["token_id"]) == (ErrorCode.INVALID_REQUEST, 1_000_000)


async def test_tokenize_answers_what_execute_computes(shared_worker: WorkerProcess) -> None:
    messages = (ChatMessage(role="user", content="hi <end> you"),)
    async with shared_worker.client() as client:
        by_template = (await client.tokenize(TokenizeRequest(messages=messages))).token_ids
        by_prompt = (await client.tokenize(TokenizeRequest(prompt="hi <end>"))).token_ids
    assert bytes(by_template) == b"<user>hi <end> you\n<assistant>", "no control token comes out of a message"
    assert by_prompt == (*b"hi ", 256), "in a raw prompt it does"
    _, started = (await run_job(shared_worker, job("job-t", messages=messages)))[0]
    assert isinstance(started, Started)
    assert started.prompt_tokens == len(by_template)


async def test_health_metrics_and_documents_answer(shared_worker: WorkerProcess) -> None:
    async with shared_worker.client() as client:
        health = await client.health()
    assert health.tokenizer == "bytes"
    assert (health.state, health.architecture, health.slots_total, health.ctx) == ("ready", "scripted", 4, 4_096)
    assert (health.kv_layout, health.kv_cells_total) == ("unified", 4 * 4_096)
    for path in ("/metrics", "/openapi.json", "/docs", "/readyz?verbose"):
        status, body = await raw(shared_worker, "GET", path)
        assert (status, bool(body)) == (200, True)


class Parent:
    """A stand-in for the pool daemon: one route that takes reports."""

    def __init__(self, handler: Any) -> None:
        app = web.Application()
        app.router.add_post("/internal/workers/w/ready", handler)
        self._runner = web.AppRunner(app)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        return f"http://127.0.0.1:{port}/internal/workers/w/ready"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
