"""Jobs through real daemons without any fault: accepted, streamed, replayed byte for byte, cancelled, timed out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.home import Home
from tests.support.jobs import bytes_of, check_stream, events_url, read_frames, show, text_of, wait_ended
from tests.support.orcd_cluster import Cluster, Follower
from tests.support.raw_http import read_events, request

ENDLESS: dict[str, Any] = {"ignore_eos": True, "max_tokens": 3000}
"""Of a job that runs for most of a minute, longer than any test lets it."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One cluster for this file."""
    with Home() as home:
        cluster = Cluster(home)
        cluster.warm()
        yield cluster


def test_a_job_is_streamed_and_shown(cluster: Cluster) -> None:
    job_id = cluster.submit(max_tokens=30)
    frames = read_frames(cluster.url, job_id)
    check_stream(frames)
    shown = show(cluster.url, job_id)
    assert shown["status"] == "completed"
    assert shown["output"][0]["text"] == text_of(frames) != ""
    assert shown["output"][0]["finish_reason"] == "length"
    assert shown["usage"]["completion_tokens"] == 30
    assert shown["last_seq"] == len(frames)
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["completed"]
    assert frames[-1].data["timings"]["total_ms"] >= frames[-1].data["timings"]["queued_ms"]


def test_the_second_reader_gets_the_same_tail_byte_for_byte(cluster: Cluster) -> None:
    job_id = cluster.submit()
    url = events_url(cluster.url, job_id)
    live = read_events(url)
    whole = read_events(url)
    assert live == whole
    tail = read_events(url, after=5)
    assert whole.endswith(tail)
    assert whole[: -len(tail)].count(b"\n\n") == 5
    assert read_events(url + "?after=5") == tail
    last = show(cluster.url, job_id)["last_seq"]
    assert read_events(url, after=last) == b""
    for path, headers in ((f"{url}?after={last + 1}", {}), (url, {"Last-Event-ID": str(last + 1)})):
        refused = request("GET", path, headers=headers)
        assert (refused.status, refused.error["details"]) == (400, {"field": "after", "last_seq": last})


def test_logprobs_are_journaled_with_their_tokens(cluster: Cluster) -> None:
    shaped: dict[str, Any] = {"min_p": 0.01, "frequency_penalty": 0.5, "logit_bias": {"300": 1.5}}
    job_id = cluster.submit(max_tokens=12, logprobs=True, top_logprobs=2, **shaped)
    url = events_url(cluster.url, job_id)
    assert read_events(url) == read_events(url)
    tokens = [frame.data for frame in read_frames(cluster.url, job_id) if "logprobs" in frame.data]
    assert sum(len(token["token_ids"]) for token in tokens) == 12
    for token in tokens:
        assert [each["token_id"] for each in token["logprobs"]] == token["token_ids"]
        assert all(len(each["top"]) == 2 for each in token["logprobs"])


def test_many_watchers_of_one_job_see_the_same(cluster: Cluster) -> None:
    job_id = cluster.submit()
    followers = [Follower(cluster.url, job_id) for _ in range(4)]
    for tokens, follower in enumerate(followers):
        follower.read(until_tokens=tokens * 3)
    for follower in followers:
        follower.read()
    assert len({bytes_of(follower.frames) for follower in followers}) == 1


def test_cancel_of_a_running_job(cluster: Cluster) -> None:
    follower = Follower(cluster.url, cluster.submit(**ENDLESS))
    follower.read(until_tokens=5)
    answer = request("DELETE", f"{cluster.url}/v2/tasks/{follower.job_id}")
    assert answer.status == 202
    follower.read()
    assert follower.frames[-1].data["error"]["code"] == "CANCELLED"
    check_stream(follower.frames)
    again = request("DELETE", f"{cluster.url}/v2/tasks/{follower.job_id}")
    assert (again.status, again.json["status"]) == (200, "cancelled")
    shown = show(cluster.url, follower.job_id)
    assert shown["attempts"][0]["outcome"] == "cancelled"
    assert shown["output"][0]["text"] == follower.text
    # The worker is free again: the slot was not lost with the job.
    assert cluster.text(max_tokens=4)


def test_cancel_of_a_queued_job(cluster: Cluster) -> None:
    busy = [cluster.submit(prompt=f"busy {n}", **ENDLESS) for n in range(8)]
    waiting = cluster.submit(prompt="waiting")
    assert show(cluster.url, waiting)["status"] == "queued"
    assert request("DELETE", f"{cluster.url}/v2/tasks/{waiting}").status == 202
    shown = wait_ended(cluster.url, waiting)
    assert shown["status"] == "cancelled"
    assert shown["attempts"] == []
    for job_id in busy:
        request("DELETE", f"{cluster.url}/v2/tasks/{job_id}")
    for job_id in busy:
        wait_ended(cluster.url, job_id)


def test_a_job_that_runs_too_long_times_out(cluster: Cluster) -> None:
    follower = Follower(cluster.url, cluster.submit(**ENDLESS, timeout_ms=2_000))
    follower.read()
    assert follower.tokens > 0
    assert follower.frames[-1].data["error"]["code"] == "TIMEOUT"
    assert show(cluster.url, follower.job_id)["status"] == "failed"


def test_the_last_watcher_gone_cancels_where_asked(cluster: Cluster) -> None:
    follower = Follower(cluster.url, cluster.submit(**ENDLESS, cancel_on_disconnect=True))
    begun = time.monotonic()  # Before the connection is closed, from which on orcd counts.
    follower.read(until_tokens=3)
    shown = wait_ended(cluster.url, follower.job_id)
    assert shown["status"] == "cancelled"
    assert time.monotonic() - begun > 4.0, "a client may come back"


def test_the_same_seed_gives_the_same_text_and_an_absent_one_is_recorded(cluster: Cluster) -> None:
    assert cluster.text(max_tokens=20) == cluster.text(max_tokens=20)
    job = {"model": cluster.model, "prompt": "say something", "max_tokens": 20}
    accepted = request("POST", f"{cluster.url}/v2/tasks", job).json
    text = text_of(read_frames(cluster.url, accepted["job_id"]))
    assert text == cluster.text(max_tokens=20, seed=accepted["seed"])


def test_a_repeated_submission_gets_the_same_answer(cluster: Cluster) -> None:
    job = {"model": cluster.model, "prompt": "once", "max_tokens": 3}
    headers = {"Idempotency-Key": "k-1"}
    first = request("POST", f"{cluster.url}/v2/tasks", job, headers=headers)
    wait_ended(cluster.url, first.json["job_id"])
    again = request("POST", f"{cluster.url}/v2/tasks", dict(reversed(job.items())), headers=headers)
    assert (again.status, again.body) == (202, first.body)
    other = request("POST", f"{cluster.url}/v2/tasks", {**job, "prompt": "twice"}, headers=headers)
    assert (other.status, other.error["code"]) == (409, "IDEMPOTENCY_CONFLICT")


def test_pages_of_jobs_go_from_the_newest_to_the_oldest(cluster: Cluster) -> None:
    made = [cluster.submit(prompt=f"page {n}", max_tokens=1) for n in range(5)]
    for job_id in made:
        wait_ended(cluster.url, job_id)
    listed: list[str] = []
    query = "status=completed&limit=2"
    while True:
        page = request("GET", f"{cluster.url}/v2/tasks?{query}").json
        listed += [job["job_id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            break
        query = f"status=completed&limit=2&cursor={page['next_cursor']}"
    assert listed[:5] == made[::-1]
    assert len(set(listed)) == len(listed)
    assert listed == sorted(listed, reverse=True)


def test_the_cluster_is_shown(cluster: Cluster) -> None:
    (pool,) = request("GET", f"{cluster.url}/v2/pools").json["pools"]
    assert pool["state"] == "live"
    assert request("GET", f"{cluster.url}/v2/pools/{pool['pool_id']}").json["endpoint"] == pool["endpoint"]
    (worker,) = request("GET", f"{cluster.url}/v2/workers").json["workers"]
    assert worker["state"] == "ready"
    models = request("GET", f"{cluster.url}/v2/models").json["models"]
    assert any(model["facts"]["ref"] == cluster.model and model["ready_workers"] == 1 for model in models)


def test_the_correlation_id_of_a_submission_stands_in_its_error(cluster: Cluster) -> None:
    job = {"model": cluster.model, "prompt": "long", "seed": 1, **ENDLESS}
    accepted = request("POST", f"{cluster.url}/v2/tasks", job, headers={"X-Correlation-Id": "trace-me-7"})
    assert accepted.headers["x-correlation-id"] == "trace-me-7"
    follower = Follower(cluster.url, accepted.json["job_id"])
    follower.read(until_tokens=3)
    request("DELETE", f"{cluster.url}/v2/tasks/{follower.job_id}")
    follower.read()
    assert follower.frames[-1].data["error"]["correlation_id"] == "trace-me-7"


def test_figures_are_published(cluster: Cluster) -> None:
    cluster.text(max_tokens=2)
    figures = request("GET", f"{cluster.url}/metrics").body.decode()
    for name in (
        "jobs_accepted_total",
        "job_first_token_seconds_count",
        "journal_commit_seconds_count",
        "scheduler_decision_seconds",
    ):
        assert f"rbees_{name}" in figures
    assert 'rbees_jobs{status="running"} 0.0' in figures
