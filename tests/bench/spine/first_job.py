"""How long a newcomer waits: from typing `rbees up` to the first token of the first job."""

from __future__ import annotations

import time

from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples
from tests.support.home import Home
from tests.support.raw_http import request, stream

GOAL_S = 5.0
PROMPT = "write a haiku with the word honey"


def measure(short: bool) -> list[Row]:
    """`rbees up` in a fresh home, then a job for the embedded model as soon as the address is told."""
    runs = [_one_run() for _ in range(1 if short else 5)]
    ready = Samples(tuple(run[0] for run in runs))
    first = Samples(tuple(run[1] for run in runs))
    return [
        at_most(
            "spine.up_to_ready",
            ready.median,
            "s",
            None,
            "from starting `rbees up` in a fresh home until its address is told and ready",
            spread=ready.spread,
        ),
        at_most(
            "spine.up_to_first_token",
            first.median,
            "s",
            GOAL_S,
            "from starting `rbees up` in a fresh home to the first token of the first job, with the embedded model",
            spread=first.spread,
        ),
    ]


def _one_run() -> tuple[float, float]:
    """Seconds until ready and until the first token."""
    with Home() as home:
        begun = time.perf_counter()
        home.up()
        ready = time.perf_counter()
        job = {"model": "haiku", "messages": [{"role": "user", "content": PROMPT}]}
        accepted = request("POST", f"{home.url}/v2/tasks", job)
        assert accepted.status == 202, accepted.body
        with stream("GET", f"{home.url}/v2/tasks/{accepted.json['job_id']}/events") as frames:
            first = next(frame.at_s for frame in frames if frame.event == "token")
        return ready - begun, first - begun
