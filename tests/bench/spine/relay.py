"""What orcd adds over calling the worker directly, to the first token and to each further one.

Two ways to see it. *First token*: pairs of runs with the same prompt and seed, one straight to the worker and one through orcd,
in changing order; the difference of the times from the request to the first token. *Further tokens*: one run through orcd
while a second reader attaches to the same attempt on the worker; the difference of the moments at which the same token
reaches this process by either way. Both readers are the same code.

A token is passed on only once it is durable, so one `fdatasync` of the disk is part of every figure. How long that takes here
is measured in the same run, and the scripted worker is measured once more with the state in memory: that is rbees' own part.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples
from tests.support.home import Home, wait_until
from tests.support.raw_http import Frame, request, stream
from tests.support.worker_door import WorkerDoor, door_of

FIRST_GOAL_MS = 15.0
TOKEN_GOAL_MS = 3.0
MEMORY = "/dev/shm"
SCRIPT = {"tokens_per_second": 100.0, "prefill_tokens_per_second": 200.0, "answer_tokens": 40}
MESSAGES = [{"role": "user", "content": "write a haiku with the word honey"}]


@dataclass(frozen=True)
class Site:
    """A cluster with one worker, and the way around orcd to it."""

    url: str
    model: str
    door: WorkerDoor


def measure(short: bool) -> list[Row]:
    """With a scripted worker of a steady pace, on disk and in memory, and with the embedded model."""
    pairs, watched = (5, 2) if short else (60, 15)
    rows: list[Row] = [_commit()]
    scripted = {"max_tokens": SCRIPT["answer_tokens"]}
    with _site("scripted") as site:
        rows += _rows("scripted", "a scripted worker of 100 tokens a second", site, pairs, watched, scripted)
    if Path(MEMORY).is_dir():
        with _site("scripted", parent=MEMORY) as site:
            rows += _rows("memory", "the same worker and orcd's state in memory", site, pairs, watched, scripted)
    with _site("haiku") as site:
        rows += _rows("haiku", "the embedded model", site, pairs, watched, {"max_tokens": 100, "ignore_eos": True})
    return rows


def _commit() -> Row:
    """What the disk needs to make 4 KB durable."""
    taken = []
    with Home() as home, (home.folder / "probe").open("wb", buffering=0) as file:
        for _ in range(300):
            file.write(bytes(4096))
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begun) * 1000)
    samples = Samples(tuple(taken))
    about = f"one `fdatasync` of 4 KB on this disk, p95 of {len(taken)}; median {samples.median:.1f} ms"
    return at_most("spine.disk_commit", samples.percentile(95), "ms", None, about, spread=samples.spread)


def _rows(name: str, what: str, site: Site, pairs: int, watched: int, fields: Mapping[str, Any]) -> list[Row]:
    # Only their first token is of interest, and a short run leaves the machine at rest before the next.
    first = _added_to_first_token(site, pairs, {**fields, "max_tokens": 8})
    token = Samples(tuple(delay for run in range(watched) for delay in _added_per_token(site, run, fields)))
    return [
        at_most(
            f"spine.first_token_added_{name}",
            first.percentile(95),
            "ms",
            FIRST_GOAL_MS,
            f"what orcd adds to the first token, p95 of {len(first.values)} pairs with {what}; median {first.median:.1f} ms",
            spread=first.spread,
        ),
        at_most(
            f"spine.token_added_{name}",
            token.percentile(95),
            "ms",
            TOKEN_GOAL_MS,
            f"what orcd adds to each token, p95 of {len(token.values)} tokens with {what}; median {token.median:.1f} ms",
            spread=token.spread,
        ),
    ]


# ---- pairs of runs -----------------------------------------------------------------------------------------------------


def _added_to_first_token(site: Site, pairs: int, fields: Mapping[str, Any]) -> Samples:
    _direct_first_ms(site, 0, fields)
    _relayed_first_ms(site, 0, fields)
    differences = []
    for seed in range(1, pairs + 1):
        if seed % 2:
            direct, relayed = _direct_first_ms(site, seed, fields), _relayed_first_ms(site, seed, fields)
        else:
            relayed, direct = _relayed_first_ms(site, seed, fields), _direct_first_ms(site, seed, fields)
        differences.append(relayed - direct)
    return Samples(tuple(differences))


def _direct_first_ms(site: Site, seed: int, fields: Mapping[str, Any]) -> float:
    sampling = {"seed": seed, **{name: value for name, value in fields.items() if name != "max_tokens"}}
    job = {
        "job_id": f"bench-{time.monotonic_ns()}",
        "epoch": 1,
        "messages": MESSAGES,
        "max_tokens": fields["max_tokens"],
        "sampling": sampling,
    }
    begun = time.perf_counter()
    with stream("POST", f"{site.door.uri}/execute", job, headers=site.door.headers) as frames:
        first, _ = _first_token_then_rest(frames)
    return (first - begun) * 1000


def _relayed_first_ms(site: Site, seed: int, fields: Mapping[str, Any]) -> float:
    begun = time.perf_counter()
    accepted = request("POST", f"{site.url}/v2/tasks", {"model": site.model, "messages": MESSAGES, "seed": seed, **fields})
    assert accepted.status == 202, accepted.body
    with stream("GET", f"{site.url}/v2/tasks/{accepted.json['job_id']}/events") as frames:
        first, _ = _first_token_then_rest(frames)
    return (first - begun) * 1000


def _first_token_then_rest(frames: Iterator[Frame]) -> tuple[float, list[Frame]]:
    """When the first token came, and all frames; the stream must end well."""
    seen = [frame for frame in frames if frame.event not in {"", "beat"}]
    assert seen[-1].event == "end", seen[-1].raw
    return next(frame.at_s for frame in seen if frame.event == "token"), seen


# ---- two readers of one run --------------------------------------------------------------------------------------------


def _added_per_token(site: Site, run: int, fields: Mapping[str, Any]) -> list[float]:
    """For each token after the first, how many ms later it came through orcd than from the worker."""
    job = {"model": site.model, "messages": MESSAGES, "seed": 1000 + run, **fields}
    accepted = request("POST", f"{site.url}/v2/tasks", job).json
    straight: dict[int, float] = {}
    watcher = threading.Thread(target=_watch_worker, args=(site.door, accepted["job_id"], straight))
    watcher.start()
    with stream("GET", f"{site.url}/v2/tasks/{accepted['job_id']}/events") as frames:
        _, relayed = _first_token_then_rest(frames)
    watcher.join()
    arrived = {frame.data["index"]: frame.at_s for frame in relayed if frame.event == "token"}
    return [(arrived[index] - at_s) * 1000 for index, at_s in sorted(straight.items()) if index > 0 and index in arrived]


def _watch_worker(door: WorkerDoor, job_id: str, arrived: dict[int, float]) -> None:
    """Note when each token comes from the worker. What was acknowledged before this reader came is not seen."""
    deadline = time.monotonic() + 20
    after = 0
    while time.monotonic() < deadline:
        path = f"{door.uri}/jobs/{job_id}/events?epoch=1&after={after}"
        answer = _attach(path, door, arrived)
        if answer is None:
            return
        after = answer.get("details", {}).get("acked_seq", after)
        time.sleep(0.001)


def _attach(url: str, door: WorkerDoor, arrived: dict[int, float]) -> dict[str, Any] | None:
    """Read to the end, or the error that says why not yet."""
    try:
        with stream("GET", url, headers=door.headers) as frames:
            for frame in frames:
                if frame.event == "token":
                    arrived[frame.data["index"]] = frame.at_s
    except AssertionError as refusal:
        status, body = refusal.args[0]
        assert status in {400, 404}, body
        error: dict[str, Any] = json.loads(body)["error"]
        return error
    return None


@contextmanager
def _site(model: str, parent: str = "/tmp") -> Iterator[Site]:
    """orcd, poold and one worker that has served a job already, their state below `parent`."""
    with Home(parent=parent) as home:
        models = home.folder / "models"
        models.mkdir()
        Path(models / "scripted.scripted.json").write_text(json.dumps(SCRIPT))
        home.serve_orcd()
        home.serve_poold(environ={"RBEES_POOLD_MODEL_DIRS": str(models)})
        wait_until(lambda: request("GET", f"{home.url}/v2/pools").json["pools"], what="register its pool")
        ref = "haiku" if model == "haiku" else f"file:{models}/scripted.scripted.json"
        accepted = request("POST", f"{home.url}/v2/tasks", {"model": ref, "messages": MESSAGES, "max_tokens": 2})
        assert accepted.status == 202, accepted.body
        with stream("GET", f"{home.url}/v2/tasks/{accepted.json['job_id']}/events") as frames:
            _first_token_then_rest(frames)
        yield Site(home.url, ref, door_of(home))
