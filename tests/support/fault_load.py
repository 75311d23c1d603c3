"""Load for faults to fall into: clients that submit one job after another, follow each to its end and compare every text."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any

from tests.support.home import wait_until
from tests.support.jobs import bytes_of, check_stream, read_frames, show
from tests.support.orcd_cluster import Cluster, Follower
from tests.support.raw_http import request

Check = Callable[[str], object]


@dataclass
class Load:
    """Clients of one cluster, each with a prompt of its own, whose undisturbed text is known."""

    cluster: Cluster
    clients: int
    jobs: int | None = None
    """Of each client; None for as many as there is time for until `enough`, so that faults hit something however long they take."""
    fields: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    followers: list[Follower] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _enough: threading.Event = field(default_factory=threading.Event)

    def prepare(self) -> None:
        """Learn what each prompt is answered when nothing disturbs it."""
        ids = {prompt: self.cluster.submit(prompt, **self.fields) for prompt in self._prompts()}
        for prompt, job_id in ids.items():
            follower = Follower(self.cluster.url, job_id)
            follower.read()
            self.texts[prompt] = follower.text

    def start(self) -> None:
        """Let the clients begin."""
        for prompt in self._prompts():
            thread = threading.Thread(target=self._client, args=(prompt,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def enough(self) -> None:
        """Have the clients submit nothing more."""
        self._enough.set()

    @property
    def running(self) -> bool:
        """Some client is not done yet."""
        return any(thread.is_alive() for thread in self._threads)

    def finish(self, timeout_s: float) -> None:
        """Wait for all clients; every job has ended as it should and its stream is whole."""
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        assert not self.running, f"not done within {timeout_s} s: {[show(f.url, f.job_id) for f in self.followers if not f.ended]}"
        assert not self.problems, self.problems
        assert self.jobs is None or len(self.followers) == self.clients * self.jobs

    def in_flight(self) -> str:
        """What a fault that falls now hits; waits for the next stream where it would hit nothing, and fails where none comes."""
        streams = wait_until(lambda: self._streams() or not self.running, what="have a job in mid-stream")
        assert isinstance(streams, list), "no job is in mid-stream"
        return f"{len(streams)} streams, at tokens {streams}"

    def wait_for_streams(self, least: int = 1) -> None:
        """Wait until so many jobs are in mid-stream."""
        wait_until(lambda: self._streaming() >= least or not self.running, what=f"have {least} jobs in mid-stream")

    def wait_for_tokens(self) -> None:
        """Wait until the streams have gone on since this was called."""
        before = self._tokens()
        wait_until(lambda: self._tokens() > before or not self.running, what="stream on")

    def disturbed(self) -> list[Follower]:
        """The jobs that needed more than one attempt."""
        return [one for one in self.followers if len(show(one.url, one.job_id)["attempts"]) > 1]

    def check_replays(self) -> int:
        """Read every stream once more; how many differ from what came first by any byte."""
        return sum(bytes_of(read_frames(one.url, one.job_id)) != bytes_of(one.frames) for one in self.followers)

    def _streams(self) -> list[int]:
        """How far each has come; nothing where none has come to a token."""
        tokens = [follower.tokens for follower in list(self.followers) if follower.frames and not follower.ended]
        return tokens if any(tokens) else []

    def _streaming(self) -> int:
        return sum(follower.tokens > 0 and not follower.ended for follower in list(self.followers))

    def _tokens(self) -> int:
        return sum(follower.tokens for follower in list(self.followers))

    def _prompts(self) -> list[str]:
        return [f"client {number}" for number in range(self.clients)]

    def _client(self, prompt: str) -> None:
        for _ in count() if self.jobs is None else range(self.jobs):
            if self._enough.is_set():
                return
            try:
                follower = Follower(self.cluster.url, self._submit(prompt))
                self.followers.append(follower)
                follower.read(timeout_s=180.0)
                check_stream(follower.frames)
                if follower.frames[-1].event != "end":
                    self.problems.append(f"{follower.job_id} ended so: {follower.frames[-1].data}")
                elif follower.text != self.texts[prompt]:
                    self.problems.append(f"{follower.job_id} has another text than an undisturbed run")
            except (AssertionError, OSError) as error:
                self.problems.append(f"{prompt}: {error}")
                return

    def _submit(self, prompt: str) -> str:
        """Again wherever orcd is away, under one key, so that a lost answer makes no second job."""
        key = f"{prompt} {len(self.followers)} {time.monotonic_ns()}"
        job = {"model": self.cluster.model, "prompt": prompt, "seed": 1, **self.fields}
        until = time.monotonic() + 60.0
        while True:
            try:
                answer = request("POST", f"{self.cluster.url}/v2/tasks", job, headers={"Idempotency-Key": key})
            except OSError:
                assert time.monotonic() < until, "orcd stays away"
                time.sleep(0.05)
                continue
            assert answer.status == 202, answer.body
            job_id: str = answer.json["job_id"]
            return job_id


def two_workers(cluster: Cluster) -> None:
    """Have two workers of the cluster's model ready."""
    for _ in range(2):
        spawn_worker(cluster)
    wait_until(lambda: len(ready_workers(cluster)) >= 2, cluster.poold, "bring two workers up")


def spawn_worker(cluster: Cluster) -> None:
    """Have one more worker of the cluster's model started."""
    (pool,) = cluster.pools()
    answer = request("POST", f"{cluster.url}/v2/pools/{pool['pool_id']}/workers/spawn", {"model_ref": cluster.model})
    assert answer.status == 202, answer.body


def ready_workers(cluster: Cluster) -> list[str]:
    """Ids of the workers that orcd knows as ready."""
    workers = request("GET", f"{cluster.url}/v2/workers").json["workers"]
    return [worker["worker_id"] for worker in workers if worker["state"] == "ready"]


def jobs_queued(url: str) -> int:
    """How many jobs wait, as orcd counts them."""
    figures = request("GET", f"{url}/metrics").body.decode()
    return int(float(figures.partition('rbees_jobs{status="queued"} ')[2].partition("\n")[0]))


@contextmanager
def pulse(url: str, every_s: float = 0.02) -> Iterator[list[float]]:
    """How long each of many calls to `url` took, made one after another while the block runs."""
    times: list[float] = []
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(every_s):
            begun = time.monotonic()
            answer = request("GET", url, timeout_s=60.0)
            assert answer.status == 200
            times.append(time.monotonic() - begun)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield times
    finally:
        stop.set()
        thread.join(60.0)


def pauses_s(follower: Follower) -> list[float]:
    """Between each two tokens of a stream."""
    moments = [frame.at_s for frame in follower.frames if frame.event == "token"]
    return [later - earlier for earlier, later in pairwise(moments)]
