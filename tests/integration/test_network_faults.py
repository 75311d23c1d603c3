"""Hosts that cannot hear each other, in network namespaces: short and long partitions, packets that vanish in mid-stream, and an
orcd that hears nobody.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from tests.support.fault_matrix import FULL, reached
from tests.support.home import Daemon, Home, free_port, wait_until
from tests.support.jobs import check_stream
from tests.support.networks import ORCD, Host, Network, network
from tests.support.raw_http import Answer, Frame, request, stream
from tests.support.scripted_models import write_script

LEASES = {} if FULL else {"HEARTBEAT_INTERVAL_S": "0.25", "SUSPECT_AFTER_S": "1", "LOST_AFTER_S": "5", "HANG_AFTER_S": "4"}
"""The default ones at full size; at the small one so short that a partition need not be long, and long enough for what TCP sends
again only seconds after the network is back, and for the second between two beats of a worker."""
SHORT_S = 3.0 if FULL else 0.5
LONG_S = 30.0 if FULL else 8.0
LOST_S = 15.0 if FULL else 5.0
RATE = 20.0 if FULL else 40.0


class Lab:
    """orcd in the test's own namespace and a pool on each host, with the cluster token that a lab needs."""

    def __init__(self, home: Home, net: Network, pools: int, answer_tokens: int) -> None:
        self.home = home
        self.net = net
        token = f"rbk_{secrets.token_urlsafe(32)}"
        self.headers = {"Authorization": f"Bearer {token}"}
        self._token_file = home.folder / "token"
        self._token_file.write_text(token)
        self._token_file.chmod(0o600)
        self.models = home.folder / "models"
        self.model = f"file:{write_script(self.models, 'steady', answer_tokens=answer_tokens, tokens_per_second=RATE)}"
        self.port = free_port()
        self.url = f"http://{ORCD}:{self.port}"
        self.orcd = self._serve("orcd", [], ORCD, self.port, {f"RBEES_ORCD_{name}": value for name, value in LEASES.items()})
        self.poolds = [self._pool(net.add_host()) for _ in range(pools)]
        wait_until(lambda: len(self.get("/v2/pools").json["pools"]) == pools, self.orcd, "have its pools")

    def _pool(self, host: Host) -> Daemon:
        environ = {
            "RBEES_POOLD_POOL_ID": f"host-{host.number}",
            "RBEES_POOLD_STATE_DIR": str(self.home.folder / f"poold-{host.number}"),
            "RBEES_POOLD_MODEL_DIRS": str(self.models),
            "RBEES_POOLD_ORCD_URL": self.url,
            "RBEES_POOLD_DEFAULT_SLOTS": "2",
        }
        return self._serve("poold", host.inside, host.address, 9200, environ)

    def _serve(self, role: str, inside: list[str], address: str, port: int, environ: dict[str, str]) -> Daemon:
        own = {"BIND": address, "PORT": str(port), "TOKEN_FILE": str(self._token_file), "INSECURE_LAN": "true"}
        environ = {**environ, **{f"RBEES_{role.upper()}_{name}": value for name, value in own.items()}}
        daemon = self.home.start_in(inside, role, "serve", environ=environ)
        daemon.url = f"http://{address}:{port}"
        wait_until(lambda: self._answers(daemon.url), daemon, "answer")
        return daemon

    def _answers(self, url: str) -> bool:
        try:
            return request("GET", f"{url}/livez", timeout_s=5.0).status == 200
        except OSError:
            return False

    def get(self, path: str) -> Answer:
        """Ask orcd."""
        return request("GET", self.url + path, headers=self.headers)

    def show(self, job_id: str) -> dict[str, Any]:
        """A job."""
        shown: dict[str, Any] = self.get(f"/v2/tasks/{job_id}").json
        return shown

    def submit(self, prompt: str, **fields: object) -> str:
        """The id of an accepted job."""
        job = {"model": self.model, "prompt": prompt, "seed": 1, **fields}
        answer = request("POST", f"{self.url}/v2/tasks", job, headers=self.headers)
        assert answer.status == 202, answer.body
        job_id: str = answer.json["job_id"]
        return job_id

    def spawn(self, host: Host) -> None:
        """Have a host's pool start a worker, and wait for it."""
        before = len(self.workers())
        path = f"{self.url}/v2/pools/host-{host.number}/workers/spawn"
        answer = request("POST", path, {"model_ref": self.model}, headers=self.headers)
        assert answer.status == 202, answer.body
        wait_until(lambda: len(self.workers()) > before, self.orcd, "have the worker")

    def workers(self) -> dict[str, int]:
        """Ids and process ids of the ready workers."""
        listed = self.get("/v2/workers").json["workers"]
        return {worker["worker_id"]: worker["pid"] for worker in listed if worker["state"] == "ready"}

    def states(self) -> dict[str, str]:
        """Of the pools."""
        return {pool["pool_id"]: pool["state"] for pool in self.get("/v2/pools").json["pools"]}

    @contextmanager
    def stream(self, job_id: str) -> Iterator[Iterator[Frame]]:
        """The events of a job as they come."""
        url = f"{self.url}/v2/tasks/{job_id}/events"
        with stream("GET", url, headers=self.headers, timeout_s=120.0) as frames:
            yield (frame for frame in frames if frame.event)

    def whole(self, job_id: str) -> list[Frame]:
        """All events of a job to its end."""
        with self.stream(job_id) as frames:
            return list(frames)


@contextmanager
def lab(pools: int, answer_tokens: int) -> Iterator[Lab]:
    """Hosts in namespaces of their own."""
    with network() as net, Home() as home:
        yield Lab(home, net, pools, answer_tokens)


def texts(frames: list[Frame]) -> list[str]:
    return [frame.data["text"] for frame in frames if frame.event == "token"]


def until_tokens(frames: Iterator[Frame], count: int) -> list[Frame]:
    """The first events, with so many tokens among them."""
    read: list[Frame] = []
    while len(texts(read)) < count:
        read.append(next(frames))
    return read


def gap_s(frames: list[Frame]) -> float:
    moments = [frame.at_s for frame in frames if frame.event == "token"]
    return max(later - earlier for earlier, later in pairwise(moments))


def test_a_short_partition_costs_nothing() -> None:
    with lab(pools=1, answer_tokens=60 if not FULL else 200) as here:
        (host,) = here.net.hosts
        undisturbed = texts(here.whole(here.submit("hum")))
        before = here.workers()
        job_id = here.submit("hum")
        with here.stream(job_id) as frames:
            read = until_tokens(frames, 15)
            print(f"cut off for {SHORT_S} s at token 15 of {len(undisturbed)}")
            host.cut_off()
            # From a thread of its own, which begins in this one's namespace: frames tell their time by when they are read.
            joining = threading.Timer(SHORT_S, host.join)
            joining.start()
            read += frames
            joining.join()
        check_stream(read)
        assert texts(read) == undisturbed
        assert gap_s(read) > SHORT_S / 2, "the partition was felt"
        assert here.workers() == before
        reached("partition", "retries_when_short", len(here.show(job_id)["attempts"]) - 1, goal=0)


def test_a_long_partition_moves_the_job_and_the_worker_is_adopted() -> None:
    with lab(pools=2, answer_tokens=100 if not FULL else 500) as here:
        first, second = here.net.hosts
        here.spawn(first)
        undisturbed = texts(here.whole(here.submit("hum")))
        here.spawn(second)
        before = here.workers()
        job_id = here.submit("hum")
        with here.stream(job_id) as frames:
            read = until_tokens(frames, 15)
            (attempt,) = here.show(job_id)["attempts"]
            host = first if attempt["pool_id"] == "host-1" else second
            print(f"{attempt['pool_id']} cut off for {LONG_S} s at token 15 of {len(undisturbed)}")
            begun = time.monotonic()
            host.cut_off()
            read += until_tokens(frames, 10)
            pause_s = gap_s(read)
            time.sleep(max(0.0, begun + LONG_S - time.monotonic()))
            wait_until(lambda: here.states()[attempt["pool_id"]] == "lost", here.orcd, "give the pool up")
            host.join()
            read += frames
        check_stream(read)
        assert texts(read) == undisturbed
        attempts = here.show(job_id)["attempts"]
        assert [one["outcome"] for one in attempts][1:] == ["completed"]
        wait_until(lambda: here.states()[attempt["pool_id"]] == "live", here.orcd, "hear the pool again")
        wait_until(lambda: here.workers() == before, here.orcd, "take the worker back, not loaded again")
        assert texts(here.whole(here.submit("hum"))) == undisturbed
        reached("partition", "retries_when_long", len(attempts) - 1, goal=1)
        reached("partition", "workers_loaded_again", len(set(here.workers().values()) - set(before.values())), goal=0)
        reached("half_open", "gap", pause_s, "s", goal=10.0 if FULL else None, strict=False)


def test_an_orcd_that_hears_nobody_moves_nothing() -> None:
    with lab(pools=3, answer_tokens=200 if not FULL else 600) as here:
        for host in here.net.hosts:
            here.spawn(host)
        before = here.workers()
        undisturbed = texts(here.whole(here.submit("hum")))
        jobs = [here.submit("hum") for _ in range(4)]
        wait_until(lambda: all(here.show(job_id)["last_seq"] > 5 for job_id in jobs), here.orcd, "stream")
        at = [here.show(job_id)["last_seq"] for job_id in jobs]
        silent_s = 1.8 * LOST_S
        assert max(at) < len(undisturbed), "each is in mid-stream"
        print(f"orcd cut off from three pools for {silent_s:.1f} s with {len(jobs)} streams, at events {at}")
        here.net.cut_off()
        time.sleep(silent_s)
        assert "lost" not in here.states().values()
        here.net.join()
        begun = time.monotonic()
        streams = [here.whole(job_id) for job_id in jobs]
        print(f"all done {time.monotonic() - begun:.1f} s after the network came back")
        for frames in streams:
            check_stream(frames)
            assert texts(frames) == undisturbed
        attempts = [here.show(job_id)["attempts"] for job_id in jobs]
        print(f"given up: {[one['reason'] for each in attempts for one in each[:-1]]}")
        reached("silence", "needless_retries", sum(len(each) - 1 for each in attempts), goal=0)
        assert here.workers() == before
