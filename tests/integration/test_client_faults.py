"""Clients that misbehave, against a real orcd under load: they do not read, send byte by byte, leave, or ask for too much."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psutil

from rbees.orcd.jobs import GONE_AFTER_S
from tests.support.fault_load import jobs_queued, pauses_s, pulse
from tests.support.fault_matrix import FULL, quantile, reached, size
from tests.support.home import Home
from tests.support.jobs import events_url, show, wait_ended
from tests.support.orcd_cluster import Cluster, Follower, cluster, fault
from tests.support.raw_http import request
from tests.support.scripted_models import write_script

MIB = 1 << 20
WRITE_DEADLINE_S = 30.0
HEAD_DEADLINE_S = 10.0
BODY_DEADLINE_S = 30.0


def test_clients_that_never_read_hold_nobody_up() -> None:
    clients = size(120, 200)
    with Home() as home, ExitStack() as stack:
        path = write_script(home.folder / "models", "wordy", context_length=8192)
        c = Cluster(home, answer_tokens=size(100, 400))
        wordy = f"file:{path}"
        # Alternatives to each token make the stream larger than what the kernel takes for a client that does not read.
        fields: dict[str, Any] = {"ignore_eos": True, "logprobs": True, "top_logprobs": 20}
        long_id = c.submit(model=wordy, max_tokens=size(1500, 3500), **fields)
        c.warm()
        alone = Follower(c.url, c.submit())
        alone.read()
        assert wait_ended(c.url, long_id)["status"] == "completed"
        orcd = psutil.Process(c.orcd.pid)
        rss_before = orcd.memory_info().rss
        follower = Follower(c.url, c.submit())
        follower.read(until_tokens=20)
        fault(f"{clients} clients that never read", follower)
        narrow = [stack.enter_context(_deaf(c, long_id)) for _ in range(clients)]
        follower.read()
        used = (orcd.memory_info().rss - rss_before) / clients / MIB
        assert follower.text == alone.text
        reached("never_read", "clients", clients)
        reached("never_read", "memory_of_each", used, "MiB", goal=1.0)
        slower = quantile(pauses_s(follower), 0.99) / quantile(pauses_s(alone), 0.99)
        reached("never_read", "pauses_of_others_p99", slower, "× alone", goal=1.1, strict=False)
        if FULL:
            begun = time.monotonic()
            while narrow:
                assert time.monotonic() < begun + WRITE_DEADLINE_S + 20.0, f"{len(narrow)} are still connected"
                narrow = [one for one in narrow if not _was_reset(one)]
                time.sleep(0.1)
            reached("never_read", "cut_off_after", time.monotonic() - begun, "s", goal=WRITE_DEADLINE_S + 5.0, strict=False)


def _deaf(c: Cluster, job_id: str) -> socket.socket:
    """A client with the smallest receive buffer that the system gives, which asks for a long stream and reads nothing of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    connection.connect(("127.0.0.1", c.orcd_port))
    path = events_url("", job_id)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def _was_reset(connection: socket.socket) -> bool:
    """The other side has thrown the connection away, which the socket tells once."""
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def test_sockets_that_trickle_hold_nobody_up() -> None:
    sockets = size(200, 1000)
    _allow_files(4 * sockets)
    with cluster(answer_tokens=100) as c, ExitStack() as stack:
        c.warm()
        follower = Follower(c.url, c.submit())
        follower.read(until_tokens=10)
        fault(f"{sockets} sockets that trickle", follower)
        begun = time.monotonic()
        heads = [
            stack.enter_context(_begin(c, b"POST /v2/tasks HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")) for _ in range(sockets // 2)
        ]
        half = b"POST /v2/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{"
        bodies = [stack.enter_context(_begin(c, half)) for _ in range(sockets // 2)]
        ends: dict[str, float] = {}
        with pulse(f"{c.url}/livez") as times:
            until = begun + (BODY_DEADLINE_S + 10.0 if FULL else 3.0)
            while time.monotonic() < until and len(ends) < 2:
                open_by_kind = {"heads": _trickle(heads), "bodies": _trickle(bodies)}
                for kind, still_open in open_by_kind.items():
                    if not still_open:
                        ends.setdefault(kind, time.monotonic() - begun)
                time.sleep(0.5)
        follower.read()
        assert follower.frames[-1].event == "end"
        reached("slow_clients", "sockets", sockets)
        reached("slow_clients", "livez_p99", 1000 * quantile(times, 0.99), "ms", goal=100.0, strict=False)
        if FULL:
            assert set(ends) == {"heads", "bodies"}, f"still open after {BODY_DEADLINE_S + 10.0} s"
            reached("slow_clients", "heads_cut_off_after", ends["heads"], "s", goal=HEAD_DEADLINE_S + 5.0, strict=False)
            reached("slow_clients", "bodies_cut_off_after", ends["bodies"], "s", goal=BODY_DEADLINE_S + 5.0, strict=False)


def _begin(c: Cluster, first: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", c.orcd_port), timeout=20)
    connection.sendall(first)
    return connection


def _trickle(connections: list[socket.socket]) -> int:
    """Send one byte more on each that is still listened to; how many are. An answer is a refusal, for no request is whole."""
    return sum(_takes_more(connection) for connection in connections)


def _takes_more(connection: socket.socket) -> bool:
    connection.settimeout(0.0)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        with contextlib.suppress(OSError):
            connection.send(b"x")
            return True
    except OSError:
        pass
    return False


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        assert hard == resource.RLIM_INFINITY or hard >= count, f"{count} open files are needed and {hard} allowed"
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def test_a_job_whose_client_has_gone_gives_its_slot_back() -> None:
    with cluster() as c:
        c.warm()
        follower = Follower(c.url, c.submit(ignore_eos=True, max_tokens=1500, cancel_on_disconnect=True))
        follower.read(until_tokens=20)
        fault("connection closed", follower)
        closed = time.monotonic()
        while show(c.url, follower.job_id)["status"] == "running":
            assert time.monotonic() < closed + GONE_AFTER_S + 15.0, "it runs on for nobody"
            time.sleep(0.02)
        assert show(c.url, follower.job_id)["status"] == "cancelled"
        # Until then the client could have come back.
        late_ms = 1000 * (time.monotonic() - closed - GONE_AFTER_S)
        reached("client_gone", "cancelled_after_the_grace", late_ms, "ms", goal=500, strict=False)
        assert c.text(max_tokens=4), "the slot is free again"


def test_ten_times_more_than_the_queue_takes_is_refused_before_any_work() -> None:
    limit = size(30, 200)
    with Home({"RBEES_ORCD_QUEUE_LIMIT": str(limit)}) as home:
        # The script's pace decides how many jobs are done in a second, not the machine's.
        c = Cluster(home, tokens_per_second=TOKENS_OF_A_JOB / JOB_S)
        c.warm()
        orcd = psutil.Process(c.orcd.pid)
        with ThreadPoolExecutor(16) as threads:
            full = _Submissions(c)
            _keep_full(full, limit, 2 * limit, threads)
            full.follow()
            before_s = sum(orcd.cpu_times()[:2])
            over = _Submissions(c)
            _offer(over, 10 * limit, 10 * SLOTS / JOB_S, threads)
            spent_s = sum(orcd.cpu_times()[:2]) - before_s
            over.follow()
        assert over.refusal_s
        assert over.without_time == 0, "each refusal says when to come again"
        reached("overload", "submitted", 10 * limit)
        reached("overload", "refused", len(over.refusal_s))
        reached("overload", "accepted_and_failed", full.failed + over.failed, goal=0)
        reached("overload", "refusal_p99", 1000 * quantile(over.refusal_s, 0.99), "ms")
        reached("overload", "cpu_of_orcd_for_each_submission", 1000 * spent_s / (10 * limit), "ms")
        ratio = quantile(over.took_s, 0.99) / quantile(full.took_s, 0.99)
        reached("overload", "accepted_p99", ratio, "× a queue just full", goal=1.1, strict=False)


TOKENS_OF_A_JOB = 4
JOB_S = 0.1
SLOTS = 4
"""Of the one worker, by default: it is done with forty jobs in a second."""


class _Submissions:
    """What came of many short jobs."""

    def __init__(self, c: Cluster) -> None:
        self.c = c
        self.accepted: list[str] = []
        self.refusal_s: list[float] = []
        self.without_time = self.failed = 0
        self.took_s: list[float] = []

    def submit(self, number: int) -> None:
        """One more."""
        begun = time.monotonic()
        job = {"model": self.c.model, "prompt": f"flood {number}", "seed": 1, "max_tokens": TOKENS_OF_A_JOB, "ignore_eos": True}
        answer = request("POST", f"{self.c.url}/v2/tasks", job)
        if answer.status == 202:
            self.accepted.append(answer.json["job_id"])
            return
        assert (answer.status, answer.error["code"]) == (429, "QUEUE_FULL"), answer.body
        self.refusal_s.append(time.monotonic() - begun)
        self.without_time += int(answer.headers.get("retry-after", "0")) < 1

    def follow(self) -> None:
        """Wait for all that were accepted, the last one first, so that nobody asks while others still run."""
        for job_id in reversed(self.accepted):
            shown = wait_ended(self.c.url, job_id)
            self.failed += shown["status"] != "completed"
            self.took_s.append((shown["ended_at_ms"] - shown["created_at_ms"]) / 1000)


def _keep_full(submissions: _Submissions, limit: int, jobs: int, threads: ThreadPoolExecutor) -> None:
    """Fill the queue and keep it so, with hardly anything refused."""
    while len(submissions.accepted) < jobs:
        room = min(limit - jobs_queued(submissions.c.url), jobs - len(submissions.accepted))
        list(threads.map(submissions.submit, range(len(submissions.accepted), len(submissions.accepted) + room)))
        time.sleep(JOB_S / SLOTS)


def _offer(submissions: _Submissions, jobs: int, each_second: float, threads: ThreadPoolExecutor) -> None:
    """Submit at a pace that does not care for the answers."""
    begun = time.monotonic()

    def submit(number: int) -> None:
        time.sleep(max(0.0, begun + number / each_second - time.monotonic()))
        submissions.submit(number)

    list(threads.map(submit, range(jobs)))
