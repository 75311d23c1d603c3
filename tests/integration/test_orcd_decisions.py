"""What becomes of jobs, and what orcd says of it, with real daemons: plans, explanations, prompts that go where they are cached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbees.orcd.event_log import read_log
from rbees.orcd.scheduler.events import AttemptCompleted
from rbees.protocol.errors import ExitCode
from tests.support.home import Home, wait_until
from tests.support.jobs import read_frames, show, text_of
from tests.support.orcd_cluster import Cluster, Follower
from tests.support.raw_http import request

PREAMBLE = "You answer in verses about gardens, ponds and the weather. " * 60
"""Several blocks by which beginnings of prompts are told apart."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Home() as home:
        # To compute the preamble anew costs more than an answer, so that no hiccup of the machine makes another worker the faster.
        yield Cluster(home, answer_tokens=40, tokens_per_second=200.0, prefill_tokens_per_second=5_000.0)


def _explain(cluster: Cluster, job_id: str) -> dict[str, Any]:
    answer = request("GET", f"{cluster.url}/v2/tasks/{job_id}/explain")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


def _plan(cluster: Cluster, **fields: Any) -> dict[str, Any]:
    answer = request("POST", f"{cluster.url}/v2/plan", {"model": cluster.model, "prompt": "hum", **fields})
    assert answer.status == 200, answer.body
    plan: dict[str, Any] = answer.json
    return plan


def test_a_plan_tells_what_then_happens(cluster: Cluster) -> None:
    before = _plan(cluster)
    assert before["outlook"] == "starts_worker"
    assert request("GET", f"{cluster.url}/v2/tasks").json["jobs"] == []
    assert request("GET", f"{cluster.url}/v2/workers").json["workers"] == [], "to ask starts nothing"
    job_id = cluster.submit()
    read_frames(cluster.url, job_id)
    after = _plan(cluster)
    assert after["outlook"] == "runs"
    (place,) = [one for one in after["candidates"] if one.get("chosen")]
    assert place["worker_id"] == show(cluster.url, job_id)["attempts"][0]["worker_id"]
    refused = _plan(cluster, model="no-such-model")
    assert (refused["outlook"], refused["error"]["code"]) == ("refused", "MODEL_NOT_FOUND")


def test_an_explanation_follows_a_job_to_its_end(cluster: Cluster) -> None:
    cluster.warm()
    job_id = cluster.submit(max_tokens=400, ignore_eos=True)
    # The decision is known a moment before the attempt is on the disk.
    wait_until(lambda: _explain(cluster, job_id)["attempts"], cluster.orcd, "run")
    running = _explain(cluster, job_id)
    assert running["outlook"] == "runs"
    assert "is expected to need" in running["reason"]
    assert [one["worker_id"] for one in running["candidates"] if one.get("chosen")] == [running["attempts"][0]["worker_id"]]
    assert running["attempts"][0]["why"].startswith("expected to be done in ")
    read_frames(cluster.url, job_id)
    ended = _explain(cluster, job_id)
    assert (ended["outlook"], ended["status"], ended["candidates"]) == ("ended", "completed", [])
    assert ended["attempts"][0]["why"] == running["attempts"][0]["why"]
    unknown = request("GET", f"{cluster.url}/v2/tasks/job-unknown/explain")
    assert (unknown.status, unknown.error["code"]) == (404, "JOB_NOT_FOUND")


def test_chats_go_to_the_worker_that_has_their_beginning_cached(cluster: Cluster) -> None:
    (pool,) = cluster.pools()
    for _ in range(2):
        spawn = {"model_ref": cluster.model}
        assert request("POST", f"{cluster.url}/v2/pools/{pool['pool_id']}/workers/spawn", spawn).status == 202
    wait_until(lambda: len(_ready(cluster)) == 2, cluster.poold, "bring two workers up")
    first = _worker_of(cluster, PREAMBLE + "One.")
    hits = [_worker_of(cluster, f"{PREAMBLE}{word}") for word in ("Two.", "Three.", "Four.")]
    assert set(hits) == {first}
    # Whether orcd also learns what a worker tells, and not only what it gave to it, shows after a restart.
    cluster.orcd.kill()
    cluster.orcd.wait()
    cluster.start_orcd()
    wait_until(lambda: len(_ready(cluster)) == 2, cluster.orcd, "see both workers again")
    other = next(worker for worker in _ready(cluster) if worker != first)
    short = [_worker_of(cluster, "hum", max_tokens=2) for _ in range(4)]
    assert {first, other} >= set(short)
    wait_until(lambda: _saved(cluster, PREAMBLE + "Five.").get(first, 0) > 0, cluster.orcd, "learn what is cached")
    assert _worker_of(cluster, PREAMBLE + "Five.") == first


def _ready(cluster: Cluster) -> list[str]:
    workers = request("GET", f"{cluster.url}/v2/workers").json["workers"]
    return sorted(worker["worker_id"] for worker in workers if worker["state"] == "ready")


def _saved(cluster: Cluster, prompt: str) -> dict[str, float]:
    plan = _plan(cluster, prompt=prompt)
    return {one["worker_id"]: one.get("saved_s", 0.0) for one in plan["candidates"] if "worker_id" in one}


def _worker_of(cluster: Cluster, prompt: str, **fields: Any) -> str:
    job_id = cluster.submit(prompt, **fields)
    read_frames(cluster.url, job_id)
    worker_id: str = show(cluster.url, job_id)["attempts"][0]["worker_id"]
    return worker_id


def test_a_batch_job_gives_way_and_goes_on_from_its_last_token() -> None:
    with Home() as home:
        cluster = Cluster(home, answer_tokens=400, tokens_per_second=40.0)
        (pool,) = cluster.pools()
        spawn = {"model_ref": cluster.model, "slots": 1}
        assert request("POST", f"{cluster.url}/v2/pools/{pool['pool_id']}/workers/spawn", spawn).status == 202
        wait_until(lambda: _ready(cluster), cluster.poold, "bring a worker up")
        alone = cluster.text("a long report", max_tokens=200)
        batch = cluster.submit("a long report", max_tokens=200, priority="batch")
        reader = Follower(cluster.url, batch)
        reader.read(until_tokens=20)
        chat = cluster.submit("hello", max_tokens=5)
        read_frames(cluster.url, chat)
        assert show(cluster.url, batch)["status"] != "completed", "the chat was done while the report was not"
        reader.read()
        assert text_of(reader.frames) == alone
        stages = [frame.data["stage"] for frame in reader.frames if frame.event == "metrics"]
        assert stages.count("preempted") == 1
        attempts = show(cluster.url, batch)["attempts"]
        assert [attempt["outcome"] for attempt in attempts] == ["cancelled", "completed"]
        assert "gave way to an interactive job" in attempts[0]["reason"]


def test_what_was_learned_outlives_a_restart(cluster: Cluster) -> None:
    for _ in range(3):
        cluster.text(max_tokens=40)
    (before,) = (one for one in _plan(cluster)["candidates"] if one.get("chosen"))
    assert cluster.orcd.stop() == 0
    cluster.start_orcd()
    wait_until(lambda: _ready(cluster), cluster.orcd, "see the worker again")
    (after,) = (one for one in _plan(cluster)["candidates"] if one.get("chosen"))
    assert (after["worker_id"], after["takes_s"]) == (before["worker_id"], before["takes_s"])


def test_every_decision_of_a_run_can_be_made_again_from_its_log(cluster: Cluster) -> None:
    cluster.warm()
    job_id = cluster.submit()
    read_frames(cluster.url, job_id)
    (log,) = (cluster.home.folder / "orcd" / "events").glob("*.events")
    # A death takes what was not flushed: nothing can be asked of the file before the next event that comes a second later.
    wait_until(lambda: _has_ended(log, job_id), cluster.orcd, "flush its log of events")
    cluster.orcd.kill()
    cluster.orcd.wait()
    again = cluster.home.run("orcd", "replay", str(log), "--job", job_id)
    assert again.returncode == 0, again.said
    assert "every decision is the same" in again.stderr
    assert f"-> Dispatch job_id={job_id}" in again.stdout


def _has_ended(log: Path, job_id: str) -> bool:
    _, happenings = read_log(log)
    return any(isinstance(one.event, AttemptCompleted) and one.event.job_id == job_id for one in happenings)


NIGHT_ONLY = """
from rbees.orcd.scheduler.judge import PolicyPlugin, Refused

class NightOnly(PolicyPlugin):
    def admit(self, job, load):
        return Refused("Batch jobs are for the night.", 90.0) if job.priority == "batch" else None

    def score(self, job, place):
        while True:
            pass
"""
"""Refuses some jobs, and never comes back when it is asked for a score."""


def test_a_policy_of_ones_own_refuses_jobs_and_cannot_stop_orcd(tmp_path: Path) -> None:
    (tmp_path / "night_only.py").write_text(NIGHT_ONLY)
    with Home({"PYTHONPATH": str(tmp_path)}) as home:
        cluster = Cluster(home)
        cluster.orcd.stop()
        cluster.start_orcd(POLICY_PLUGIN="night_only:NightOnly", POLICY_LIMIT_MS="200")
        wait_until(cluster.pools, cluster.poold, "register again")
        refused = request("POST", f"{cluster.url}/v2/tasks", {"model": cluster.model, "prompt": "hum", "priority": "batch"})
        assert (refused.status, refused.error["code"]) == (429, "QUOTA_EXCEEDED")
        assert refused.headers["retry-after"] == "90"
        assert cluster.text(max_tokens=5) != ""
        assert "policy_plugin_failed" in cluster.orcd.said


def test_a_policy_that_is_not_there_is_told_at_the_start() -> None:
    with Home() as home:
        ran = home.run("orcd", "serve", "--port", "0", "--policy-plugin", "nowhere:Nothing")
        assert ran.returncode == ExitCode.CONFIGURATION
        assert "`nowhere:Nothing` cannot be used" in ran.said
