"""Embed and rerank jobs through real daemons: stored once, shown, followed, cancelled, refused, made again when a worker dies."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.support.home import wait_until
from tests.support.jobs import bytes_of, events_url, read_frames, show, wait_ended
from tests.support.orcd_cluster import Cluster, cluster
from tests.support.raw_http import Frame, request, stream
from tests.support.scripted_models import write_script

TEXTS = [f"text number {number}" for number in range(300)]
WIDTH = 200
"""Of 300 vectors a result takes about a megabyte, which is several events."""
SLOW = 1_500.0
"""Tokens a second, at which 300 texts take some seconds."""


def embed(c: Cluster, texts: list[str], **fields: Any) -> str:
    """The id of an accepted job."""
    body = {"model": c.model, "kind": "embed", "embed": {"input": texts}, **fields}
    answer = request("POST", f"{c.url}/v2/tasks", body)
    assert answer.status == 202, answer.body
    job_id: str = answer.json["job_id"]
    return job_id


def vectors(frames: list[Frame]) -> list[list[float]]:
    """The vectors of all result events, which must follow each other without a gap."""
    found = [one for frame in frames if frame.event == "result" for one in frame.data["embeddings"]]
    assert [one["index"] for one in found] == list(range(len(found)))
    return [one["embedding"] for one in found]


def test_vectors_are_followed_shown_replayed_and_found_by_their_key() -> None:
    with cluster(pooling="mean", dimensions=WIDTH) as c:
        body = {"model": c.model, "kind": "embed", "embed": {"input": TEXTS}}
        accepted = request("POST", f"{c.url}/v2/tasks", body, headers={"Idempotency-Key": "k"}).json
        again = request("POST", f"{c.url}/v2/tasks", body, headers={"Idempotency-Key": "k"}).json
        assert again == accepted
        job_id = accepted["job_id"]
        frames = read_frames(c.url, job_id)
        names = [frame.event for frame in frames if frame.event != "metrics"]
        assert names[:2] == ["queued", "started"]
        assert set(names[2:-1]) == {"result"}
        assert len(names) > 5, "a large result comes in several events"
        assert names[-1] == "end"
        assert max(len(frame.raw) for frame in frames) < 300_000
        assert len(vectors(frames)) == len(TEXTS)
        end = frames[-1].data
        assert (end["choices"], end["usage"]["prompt_tokens"]) == ([], sum(map(len, TEXTS)))
        shown = show(c.url, job_id)
        assert (shown["kind"], shown["status"], shown["output"]["type"]) == ("embed", "completed", "embeddings")
        assert [one["embedding"] for one in shown["output"]["embeddings"]] == vectors(frames)
        assert bytes_of(read_frames(c.url, job_id)) == bytes_of(frames)


def test_a_worker_killed_before_its_result_is_made_up_for_by_another() -> None:
    with cluster(pooling="mean", dimensions=WIDTH, prefill_tokens_per_second=SLOW) as c:
        undisturbed = vectors(read_frames(c.url, embed(c, TEXTS)))
        (worker,) = c.home.workers()
        job_id = embed(c, TEXTS)
        with stream("GET", events_url(c.url, job_id), timeout_s=30.0) as events:
            for frame in events:
                if frame.event == "started":
                    break
        assert show(c.url, job_id)["status"] == "running"
        worker.send_signal(signal.SIGKILL)
        frames = read_frames(c.url, job_id)
        assert vectors(frames) == undisturbed
        assert [frame.event for frame in frames].count("started") == 1
        assert frames[-1].event == "end"
        first, second = (attempt["outcome"] for attempt in show(c.url, job_id)["attempts"])
        assert (first in {"failed", "lost"}, second) == (True, "completed")


def test_a_cancelled_job_of_vectors_stops_at_the_worker_and_times_out_like_others() -> None:
    with cluster(pooling="mean", prefill_tokens_per_second=200.0) as c:
        c.warm()
        job_id = embed(c, TEXTS)
        wait_until(lambda: show(c.url, job_id)["status"] == "running", c.orcd, "start the job")
        assert request("DELETE", f"{c.url}/v2/tasks/{job_id}").status == 202
        assert wait_ended(c.url, job_id)["status"] == "cancelled"
        # The worker has nothing left to do of it: a small job is done at once, where the large one had a minute to go.
        assert wait_ended(c.url, embed(c, ["a bee"]))["status"] == "completed"
        timed_out = wait_ended(c.url, embed(c, TEXTS, timeout_ms=300))
        assert (timed_out["status"], timed_out["error"]["code"]) == ("failed", "TIMEOUT")


def test_a_crash_while_vectors_are_made_counts_against_the_job() -> None:
    with cluster(pooling="mean", crash_on="poison") as c:
        ended = wait_ended(c.url, embed(c, ["a bee", "poison"]), timeout_s=60.0)
        assert (ended["status"], ended["error"]["code"]) == ("failed", "WORKER_CRASHED")


def test_jobs_go_only_to_models_that_can_and_documents_are_ranked() -> None:
    with cluster() as c:
        write_script(c.models, "rank", pooling="rank", generates=False)
        ranker = f"file:{c.models / 'rank.scripted.json'}"
        wait_until(lambda: ranker in {m["facts"]["ref"] for m in models(c)}, c.poold, "see the file")
        facts = {m["facts"]["ref"]: m["facts"]["capabilities"] for m in models(c)}
        assert (facts[c.model], facts[ranker]) == (["generate", "chat"], ["rerank"])
        job = {"model": ranker, "kind": "rerank", "rerank": {"query": "bee", "documents": ["x", "y", "z"], "top_n": 2}}
        accepted = request("POST", f"{c.url}/v2/tasks", job).json
        frames = read_frames(c.url, accepted["job_id"])
        (result,) = (frame.data for frame in frames if frame.event == "result")
        scores = [one["relevance_score"] for one in result["ranking"]]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 2
        assert show(c.url, accepted["job_id"])["output"] == {"type": "ranking", "results": result["ranking"]}
        for model, kind in ((c.model, "rerank"), (c.model, "embed"), (ranker, "embed")):
            wrong = {"model": model, "kind": kind, kind: {"input": ["x"]} if kind == "embed" else job["rerank"]}
            assert request("POST", f"{c.url}/v2/tasks", wrong).error["code"] == "MODEL_INCOMPATIBLE"
        listed = [line.split() for line in c.home.llorch("models", "list").stdout.splitlines()]
        assert [line[0] for line in listed[1:]] == sorted(line[0] for line in listed[1:])
        assert listed[0][1] == "CAN"
        assert [line[1] for line in listed if line[0] == "rank"] == ["rerank"]
        text = request("POST", f"{c.url}/v2/tasks", {"model": ranker, "prompt": "x"})
        assert text.error["code"] == "MODEL_INCOMPATIBLE"


def models(c: Cluster) -> list[dict[str, Any]]:
    """`GET /v2/models`."""
    found: list[dict[str, Any]] = request("GET", f"{c.url}/v2/models").json["models"]
    return found


@pytest.fixture(scope="module")
def wide() -> Any:
    """A cluster whose model makes vectors of two numbers."""
    with cluster(pooling="last", dimensions=2) as c:
        yield c


def test_the_command_line_shows_a_vector_a_line(wide: Cluster) -> None:
    done = wide.home.llorch("embed", "--model", wide.model, "a bee", "a moth")
    assert done.returncode == 0, done.said
    lines = done.stdout.splitlines()
    assert [len(line.split(",")) for line in lines] == [2, 2]
    events = wide.home.llorch("embed", "--model", wide.model, "--json", "--dimensions", "1", "a bee").stdout.splitlines()
    assert [line.split('"type":"')[1].split('"')[0] for line in events if "metrics" not in line][-2:] == ["result", "end"]
    job_id = wide.home.llorch("jobs", "list", "--json").json["jobs"][0]["job_id"]
    assert len(wide.home.llorch("jobs", "show", job_id).stdout.splitlines()[-1].split(",")) == 1
    refused = wide.home.llorch("rerank", "--model", wide.model, "--query", "bee", "x")
    assert (refused.returncode, "cannot rank" in refused.stderr) == (1, True)


def test_the_command_line_refuses_what_makes_no_sense(wide: Cluster) -> None:
    assert wide.home.llorch("embed", "--model", wide.model).returncode == 2
    assert wide.home.llorch("rerank", "--model", wide.model, "x").returncode == 2
    assert wide.home.llorch("embed", "--model", wide.model, "--dimensions", "3", "x").returncode == 2
