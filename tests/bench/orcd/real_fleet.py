"""How long jobs take in a mixed fleet of real daemons, under rbees' own rules and under simpler ones.

A real orcd, a real poold for each host, real workers that run scripts. Jobs are drawn as for the simulated fleet
(`tests/simulation/fleet.py`), only more densely, and its cost model is the same, but everything is a quarter as long: gaps,
prompts, answers, loads. Where real parts differ: a worker's process starts when it starts, a step takes `STEP_S` + 2 `STREAM_S`
however many streams it has, and reading a prompt holds up the answers beside it. Rivals decide in the place of the scheduler's
choices in the same orcd (`stand_in.py`).

Each run has a fresh installation that knows nothing. Its first `LEARNING_MINUTES` are left out of the figures: orcd learns then
how fast the hosts are, which it keeps over restarts.
"""

from __future__ import annotations

import random
import string
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from rbees.protocol.jobs import MAX_TIMEOUT_MS
from tests.bench.orcd.fleet import against_rival
from tests.bench.rows import Row
from tests.bench.timing import Samples
from tests.simulation import facts, rivals
from tests.simulation.fleet import BYTES_PER_TOKEN, LOAD_S_PER_GIB, MODELS, PREFILL_S, SPEEDS, STEP_S, STREAM_S, Order, orders
from tests.support.home import Daemon, Home, free_port, is_alive, wait_until
from tests.support.jobs import wait_ended
from tests.support.raw_http import request
from tests.support.scripted_models import write_script

ROOT: Final = Path(__file__).parents[3]
SCALE: Final = 1 / 4
"""Real seconds for a second of the trace."""
SEEDS: Final = 3
MINUTES: Final = 6.0
LEARNING_MINUTES: Final = 2.0
EVERY_S: Final = 3.0
BURST_EVERY_S: Final = 40.0
LONGEST_WAIT_S: Final = 600.0
LONGEST_PROMPT: Final = 4_096


def trace(seed: int, minutes: float) -> list[Order]:
    """The jobs of a seed, in the time of the simulation."""
    return orders(seed, minutes, every_s=EVERY_S, burst_every_s=BURST_EVERY_S)


def completion_times(rule: str | None, seed: int, minutes: float, from_minute: float) -> Samples:
    """The seconds from acceptance to completion, by orcd's clock, of every job that came after `from_minute`.

    `rule` None is rbees.
    """
    with fleet(rule) as home:
        begun, jobs = time.monotonic(), []
        for order in trace(seed, minutes):
            time.sleep(max(0.0, begun + SCALE * order.at_s - time.monotonic()))
            jobs.append((order, submit(home.url, order)))
        ended = [(order, wait_ended(home.url, job_id, LONGEST_WAIT_S)) for order, job_id in jobs]
    assert {job["status"] for _, job in ended} == {"completed"}
    counted = [job for order, job in ended if order.at_s >= 60 * from_minute]
    return Samples(tuple((job["ended_at_ms"] - job["created_at_ms"]) / 1000 for job in counted))


@contextmanager
def fleet(rule: str | None) -> Iterator[Home]:
    """orcd and a pool for each host of the simulated fleet, registered, without a worker."""
    with Home({"PYTHONPATH": str(ROOT)}) as home:
        orcd = _start(home, [] if rule is None else ["rule", rule], "orcd")
        home.url = orcd.url
        daemons = [orcd]
        for host, speed in SPEEDS.items():
            _write_models(home.folder / host, speed)
            settings = {"POOL_ID": host, "MODEL_DIRS": home.folder / host, "STATE_DIR": home.folder / f"{host}-state"}
            daemons.append(_start(home, ["host"], "poold", ORCD_URL=home.url, **settings))
        for daemon in daemons:
            wait_until(partial(is_alive, daemon.url), daemon, "answer")
        wait_until(lambda: _pools_with_models(home.url) == set(SPEEDS), orcd, "know every pool")
        yield home


def submit(url: str, order: Order) -> str:
    """The id of the accepted job."""
    spec = order.spec
    job = {
        "model": spec.model,
        "prompt": _text(spec.session_id)[: max(1, round(SCALE * spec.prompt_bytes / BYTES_PER_TOKEN))],
        "max_tokens": max(1, round(SCALE * order.tokens)),
        "seed": spec.order,
        "session_id": spec.session_id,
        "timeout_ms": MAX_TIMEOUT_MS,
    }
    answer = request("POST", f"{url}/v2/tasks", job)
    assert answer.status == 202, answer.body
    job_id: str = answer.json["job_id"]
    return job_id


def measure(short: bool) -> list[Row]:
    """Mean and p95 of all jobs of all seeds against each rival, all rules in turns."""
    seeds, minutes, from_minute = (1, 1.0, 0.0) if short else (SEEDS, MINUTES, LEARNING_MINUTES)
    rules = [None, *rivals.RIVALS]
    taken: dict[str | None, list[Samples]] = {rule: [] for rule in rules}
    for seed in range(seeds):
        for rule in [*rules[seed % len(rules) :], *rules[: seed % len(rules)]]:
            taken[rule].append(completion_times(rule, seed, minutes, from_minute))
    where = "in a fleet of real daemons and scripted workers, two hosts fast and one ten times slower"
    return [row for name in rivals.RIVALS for row in against_rival("orcd.real_fleet", where, name, taken[None], taken[name])]


def _start(home: Home, stand_in: list[str], role: str, **settings: object) -> Daemon:
    port = free_port()
    environ = {f"RBEES_{role.upper()}_{name}": str(value) for name, value in {"PORT": port, **settings}.items()}
    inside = [sys.executable, "-m", "tests.bench.orcd.stand_in", *stand_in] if stand_in else []
    daemon = home.start_in(inside, role, "serve", environ=environ)
    daemon.url = f"http://127.0.0.1:{port}"
    return daemon


def _write_models(folder: Path, speed: float) -> None:
    for model in MODELS:
        write_script(
            folder,
            model.ref,
            tokens_per_second=speed / (STEP_S + 2 * STREAM_S),
            prefill_tokens_per_second=speed / PREFILL_S,
            load_seconds=SCALE * LOAD_S_PER_GIB * model.size_bytes / facts.GIB / speed,
            answer_tokens=1_000,
            memory_bytes=model.size_bytes,
        )


def _pools_with_models(url: str) -> set[Any]:
    found = request("GET", f"{url}/v2/pools").json["pools"]
    return {pool["pool_id"] for pool in found if {model.ref for model in MODELS} <= _aliases(pool)}


def _aliases(pool: dict[str, Any]) -> set[Any]:
    return {alias for model in pool["models"] for alias in model["aliases"]}


@cache
def _text(session: str) -> str:
    """What a session's prompts are the beginnings of: one byte for each token."""
    return "".join(random.Random(session).choices(string.ascii_lowercase + " ", k=LONGEST_PROMPT))
