"""A small cluster for tests of orcd: real daemons over scripted models, and faults that are known to have hit something.

The scripted backend derives each token from a hash of the whole prefix, so a text that equals that of an undisturbed run
proves that nothing was lost, doubled or replayed wrongly.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from tests.support.home import Daemon, Home, free_port, wait_until
from tests.support.jobs import events_url, read_frames, text_of
from tests.support.raw_http import Frame, request, stream
from tests.support.scripted_models import write_script

MODEL = "file:{path}"
TOKENS = 120
TOKENS_PER_SECOND = 60.0


class Cluster:
    """One orcd and one poold of a home, and the scripted models that the pool holds."""

    def __init__(self, home: Home, **script: Any) -> None:
        self.home = home
        self.models = home.folder / "models"
        fields = {"answer_tokens": TOKENS, "tokens_per_second": TOKENS_PER_SECOND, **script}
        self.model = f"file:{write_script(self.models, 'steady', **fields)}"
        self.orcd_port = free_port()
        self.poold_port = free_port()
        self.orcd = self.start_orcd()
        self.poold = self.start_poold()
        wait_until(self.pools, self.poold, "register")

    def start_orcd(self, **environ: str) -> Daemon:
        """orcd on its own port, until it answers."""
        self.orcd = self.home.serve_orcd(self.orcd_port, {f"RBEES_ORCD_{name}": value for name, value in environ.items()})
        return self.orcd

    def start_poold(self) -> Daemon:
        """poold on its own port, until it answers."""
        self.poold = self.home.serve_poold(self.poold_port, {"RBEES_POOLD_MODEL_DIRS": str(self.models)})
        return self.poold

    @property
    def url(self) -> str:
        """Of orcd."""
        return self.home.url

    def pools(self) -> list[dict[str, Any]]:
        """`GET /v2/pools`, those that hold models."""
        return [pool for pool in request("GET", f"{self.url}/v2/pools").json["pools"] if pool["models"]]

    def submit(self, prompt: str = "say something", **fields: Any) -> str:
        """The id of an accepted job with a raw prompt and seed 1."""
        job = {"model": self.model, "prompt": prompt, "seed": 1, **fields}
        answer = request("POST", f"{self.url}/v2/tasks", job)
        assert answer.status == 202, answer.body
        job_id: str = answer.json["job_id"]
        return job_id

    def text(self, prompt: str = "say something", **fields: Any) -> str:
        """What an undisturbed run of the same job answers."""
        return text_of(read_frames(self.url, self.submit(prompt, **fields)))

    def warm(self) -> None:
        """Have a worker loaded."""
        self.text(max_tokens=1)


@contextmanager
def cluster(**script: Any) -> Iterator[Cluster]:
    """A cluster in a home of its own, whose database must be whole in the end, whatever happened to it."""
    with Home() as home:
        yield Cluster(home, **script)
        checked = home.run("orcd", "db", "check")
        assert checked.returncode == 0, checked.said


class Follower:
    """Reads a job's stream frame by frame, over breaks of orcd, the way a client with `Last-Event-ID` does."""

    def __init__(self, url: str, job_id: str) -> None:
        self.url = url
        self.job_id = job_id
        self.frames: list[Frame] = []
        self.tokens = 0
        """How many token events were seen; counted along, for loads ask it of all their streams all the time."""
        self.breaks = 0

    @property
    def position(self) -> int:
        """The last event seen."""
        return self.frames[-1].id or 0 if self.frames else 0

    @property
    def ended(self) -> bool:
        """The terminal event was seen."""
        return bool(self.frames) and self.frames[-1].event in {"end", "error"}

    def read(self, until_tokens: int | None = None, timeout_s: float = 60.0) -> None:
        """Read on until so many tokens were seen, or to the end; resumes wherever the stream breaks."""
        deadline = time.monotonic() + timeout_s
        while not self.ended and (until_tokens is None or self.tokens < until_tokens):
            assert time.monotonic() < deadline, f"stuck at event {self.position} after {self.breaks} breaks"
            try:
                self._read_once(until_tokens)
            except OSError:
                self.breaks += 1
                time.sleep(0.05)

    def _read_once(self, until_tokens: int | None) -> None:
        headers = {"Last-Event-ID": str(self.position)} if self.frames else {}
        with stream("GET", events_url(self.url, self.job_id), headers=headers, timeout_s=30.0) as frames:
            for frame in frames:
                if frame.event:
                    self.frames.append(frame)
                    self.tokens += frame.event == "token"
                if until_tokens is not None and self.tokens >= until_tokens:
                    return

    @property
    def text(self) -> str:
        """The text of all tokens seen."""
        return text_of(self.frames)

    def longest_gap_s(self) -> float:
        """Between two tokens."""
        moments = [frame.at_s for frame in self.frames if frame.event == "token"]
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)


def in_flight(cluster: Cluster, job_id: str) -> int:
    """Tokens of a job that are journaled by now; asserts that it is in mid-stream, for a fault that hits nothing proves nothing."""
    answer = request("GET", f"{cluster.url}/v2/tasks/{job_id}").json
    assert answer["status"] == "running", f"the fault would hit a job that is {answer['status']}"
    tokens: int = answer["last_seq"]
    return tokens


def fault(what: str, follower: Follower) -> None:
    """Print when a fault falls and what it hits."""
    assert 0 < follower.tokens < TOKENS, f"{what}: not in mid-stream"
    assert not follower.ended
    print(f"{what} at event {follower.position}, {follower.tokens} of {TOKENS} tokens seen")
