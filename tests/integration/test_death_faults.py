"""Processes that are killed again and again under load: workers, poold, orcd. Every text is compared with that of a run which
nothing disturbed, and every kill has hit streams.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from tests.support.fault_load import Load, jobs_queued, ready_workers, spawn_worker, two_workers
from tests.support.fault_matrix import quantile, reached, size
from tests.support.home import Home, wait_until
from tests.support.jobs import show
from tests.support.orcd_cluster import Cluster, Follower, cluster, fault
from tests.support.raw_http import request
from tests.support.scripted_models import write_script

CLIENTS = 8
SLOTS = 4
"""Of each worker, by default."""
SCHEMA: dict[str, Any] = {
    "type": "json_schema",
    "schema": {
        "type": "object",
        "properties": {"title": {"type": "string", "minLength": 60, "maxLength": 90}, "count": {"type": "integer"}},
        "required": ["title", "count"],
        "additionalProperties": False,
    },
}


def test_workers_killed_under_load() -> None:
    draw = random.Random(11)
    with cluster(answer_tokens=80, tokens_per_second=100.0) as c:
        two_workers(c)
        load = Load(c, CLIENTS, size(3, 100))
        load.prepare()
        load.start()
        kills = 0
        for _ in range(size(1, 12)):
            wait_until(lambda: len(ready_workers(c)) > 1 or not load.running, c.poold, "have two workers again")
            worker = draw.choice(c.home.workers())  # Looked for before, for that takes a while where many processes run.
            # More than one worker has slots for, so whichever is killed has some.
            load.wait_for_streams(SLOTS + 1)
            if not load.running:
                break
            print(f"worker killed with {load.in_flight()}")
            worker.kill()
            kills += 1
            # One device gets one worker from orcd itself; two are what this row is about.
            spawn_worker(c)
            time.sleep(size(0, 8))
        load.finish(size(60, 600))
        disturbed = load.disturbed()
        assert len(disturbed) >= kills > 0, "each kill has hit somebody"
        reached("worker_death", "kills", kills)
        reached("worker_death", "jobs", len(load.followers))
        reached("worker_death", "jobs_moved", len(disturbed))
        reached("worker_death", "failed", len(load.problems), goal=0)
        reached("worker_death", "gap_p99", quantile((one.longest_gap_s() for one in disturbed), 0.99), "s", goal=2.0, strict=False)


def test_workers_killed_in_mid_document() -> None:
    documents = size(3, 100)
    with cluster(answer_tokens=200, tokens_per_second=60.0) as c:
        two_workers(c)
        undisturbed = {f"document {n}": c.text(f"document {n}", response_format=SCHEMA) for n in range(size(1, 4))}
        assert all(set(json.loads(text)) == {"title", "count"} for text in undisturbed.values())
        hit = valid = 0
        with ThreadPoolExecutor(len(undisturbed)) as threads:
            for _ in range(3 * documents):
                if hit >= documents:
                    break
                followers = [Follower(c.url, c.submit(prompt, response_format=SCHEMA)) for prompt in undisturbed]
                list(threads.map(lambda one: one.read(until_tokens=5), followers))
                print(f"workers killed at tokens {[one.tokens for one in followers]}")
                _kill_workers_of(c, followers)
                list(threads.map(Follower.read, followers))
                for prompt, one in zip(undisturbed, followers, strict=True):
                    # One that was done before its worker was told to be is no proof of anything.
                    moved = len(show(c.url, one.job_id)["attempts"]) > 1
                    hit += moved
                    valid += moved and one.text == undisturbed[prompt]
        assert hit >= documents, "most kills came too late"
        reached("schema_death", "documents", hit)
        reached("schema_death", "not_the_same_valid_document", hit - valid, goal=0)


def _kill_workers_of(c: Cluster, followers: list[Follower]) -> None:
    serving = {show(c.url, one.job_id)["attempts"][-1]["worker_id"] for one in followers}
    for worker in request("GET", f"{c.url}/v2/workers").json["workers"]:
        if worker["worker_id"] in serving:
            psutil.Process(worker["pid"]).kill()


def test_poold_killed_again_and_again_under_load() -> None:
    with cluster(answer_tokens=100, tokens_per_second=60.0) as c:
        two_workers(c)
        workers = {process.pid for process in c.home.workers()}
        load = Load(c, CLIENTS)
        load.prepare()
        load.start()
        back_s = []
        for _ in range(size(2, 20)):
            load.wait_for_tokens()
            load.wait_for_streams()
            print(f"poold killed with {load.in_flight()}")
            c.poold.kill()
            begun = time.monotonic()
            c.start_poold()
            wait_until(lambda: _adopted(c) == workers, c.poold, "adopt both workers")
            back_s.append(time.monotonic() - begun)
        load.enough()
        load.finish(60)
        assert {process.pid for process in c.home.workers()} == workers
        reached("poold_death", "kills", len(back_s))
        reached("poold_death", "jobs_moved", len(load.disturbed()), goal=0)
        reached("poold_death", "workers_started_again", len({p.pid for p in c.home.workers()} - workers), goal=0)
        reached("poold_death", "adopted_after", max(back_s), "s", goal=2.0, strict=False)


def _adopted(c: Cluster) -> set[int]:
    """Process ids of the workers that poold itself lists as ready."""
    try:
        listed = request("GET", f"{c.poold.url}/workers").json["workers"]
    except OSError:
        return set()
    return {worker["pid"] for worker in listed if worker["state"] == "ready"}


def test_poold_loses_its_state_in_mid_stream() -> None:
    with cluster(answer_tokens=120, tokens_per_second=60.0) as c:
        two_workers(c)
        workers = {process.pid for process in c.home.workers()}
        undisturbed = c.text()
        follower = Follower(c.url, c.submit())
        follower.read(until_tokens=30)
        fault("poold killed and its state erased", follower)
        c.poold.kill()
        shutil.rmtree(c.home.folder / "poold")
        c.start_poold()
        follower.read()
        assert follower.text == undisturbed
        wait_until(lambda: _adopted(c) == workers, c.poold, "find both workers")
        assert c.text() == undisturbed
        assert len(show(c.url, follower.job_id)["attempts"]) == 1
        reached("poold_state", "second_copies", len(c.home.workers()) - len(workers), goal=0)


def test_orcd_killed_again_and_again_with_a_queue() -> None:
    queued = size(150, 10_000)
    with Home({"RBEES_ORCD_QUEUE_LIMIT": "0"}) as home:
        # What waits for a model that is still loading waits at every kill, and takes no turn from the streams.
        slow = f"file:{write_script(home.folder / 'models', 'slow', load_seconds=3600.0)}"
        c = Cluster(home, answer_tokens=110, tokens_per_second=60.0)
        two_workers(c)
        load = Load(c, 4)
        load.prepare()
        (pool,) = c.pools()
        with ThreadPoolExecutor(8) as threads:
            waiting = set(threads.map(lambda n: c.submit(f"wait {n}", model=slow), range(queued)))
        load.start()
        load.wait_for_streams()
        ready_s = []
        for _ in range(size(3, 50)):
            load.wait_for_tokens()
            load.wait_for_streams()
            print(f"orcd killed with {load.in_flight()}, {jobs_queued(c.url)} queued")
            c.orcd.kill()
            begun = time.monotonic()
            c.start_orcd()
            ready_s.append(time.monotonic() - begun)
        load.enough()
        load.finish(60)
        kept = _listed(c, "queued")
        reached("orcd_death", "kills", len(ready_s))
        reached("orcd_death", "queued", queued)
        reached("orcd_death", "lost", len(waiting - kept), goal=0)
        reached("orcd_death", "streams_that_changed", load.check_replays(), goal=0)
        reached("orcd_death", "jobs_moved", len(load.disturbed()), goal=0)
        reached("orcd_death", "mostly_ready_after", quantile(ready_s, 0.5), "s")
        reached("orcd_death", "ready_after", max(ready_s), "s", goal=1.5, strict=False)
        wait_until(lambda: len(ready_workers(c)) == 2, c.orcd, "have both workers again")
        assert pool["pool_id"] == c.pools()[0]["pool_id"]


def _listed(c: Cluster, status: str) -> set[str]:
    """Ids of all jobs in a state, page by page."""
    found: set[str] = set()
    cursor = ""
    while True:
        page = request("GET", f"{c.url}/v2/tasks?status={status}&limit=1000{cursor}").json
        found |= {job["job_id"] for job in page["jobs"]}
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"
