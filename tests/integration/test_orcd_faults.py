"""Processes that die, stop or come back in mid-stream. Each test proves that its fault fell into the middle of an answer, and
compares the text with that of a run which nothing disturbed.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from tests.support.fault_matrix import reached
from tests.support.home import Home, wait_until
from tests.support.jobs import bytes_of, check_stream, read_frames, show, text_of, wait_ended
from tests.support.orcd_cluster import TOKENS, Cluster, Follower, cluster, fault
from tests.support.raw_http import request

HIT_AT = 30
"""Tokens after which the fault falls."""
QUEUED_TOKENS = 40
"""Of the jobs that wait meanwhile."""


_TEXTS: list[str] = []


def _undisturbed(cluster: Cluster) -> str:
    """The text of a run that nothing disturbed: the same in every cluster, so made once. A worker is up afterwards."""
    if _TEXTS:
        cluster.warm()
    else:
        _TEXTS.append(cluster.text())
    return _TEXTS[0]


def _started(cluster: Cluster, prompt: str = "say something", **fields: object) -> Follower:
    follower = Follower(cluster.url, cluster.submit(prompt, **fields))
    follower.read(until_tokens=HIT_AT)
    return follower


def test_worker_killed_in_mid_stream() -> None:
    with cluster() as c:
        undisturbed_id = c.submit()
        undisturbed = text_of(read_frames(c.url, undisturbed_id))
        (worker,) = c.home.workers()
        follower = _started(c)
        fault("worker killed", follower)
        worker.kill()
        follower.read()
        check_stream(follower.frames)
        assert follower.frames[-1].event == "end"
        assert follower.text == undisturbed
        shown = show(c.url, follower.job_id)
        first, second = (attempt["outcome"] for attempt in shown["attempts"])
        assert (first in {"failed", "lost"}, second) == (True, "completed")
        assert shown["usage"]["completion_tokens"] == show(c.url, undisturbed_id)["usage"]["completion_tokens"]
        reached("worker_death", "gap_with_a_load", follower.longest_gap_s(), "s")


def test_worker_killed_while_it_makes_three_answers() -> None:
    fields: dict[str, Any] = {"n": 3, "temperature": 1.0}
    with cluster() as c:
        undisturbed = read_frames(c.url, c.submit(**fields))
        texts = [text_of(undisturbed, choice) for choice in range(3)]
        assert len(set(texts)) == 3, "each draws for itself"
        (worker,) = c.home.workers()
        follower = _started(c, **fields)
        fault("worker killed", follower)
        worker.kill()
        follower.read()
        check_stream(follower.frames)
        assert [text_of(follower.frames, choice) for choice in range(3)] == texts
        end, end_before = follower.frames[-1].data, undisturbed[-1].data
        assert end["choices"] == end_before["choices"]
        assert end["usage"]["completion_tokens"] == end_before["usage"]["completion_tokens"] > 3 * TOKENS
        shown = show(c.url, follower.job_id)
        assert [output["text"] for output in shown["output"]] == texts
        assert [attempt["outcome"] for attempt in shown["attempts"]][-1] == "completed"


def test_worker_paused_in_mid_stream_is_fenced() -> None:
    with cluster() as c:
        undisturbed = _undisturbed(c)
        (worker,) = c.home.workers()
        follower = _started(c)
        fault("worker paused", follower)
        worker.suspend()
        try:
            follower.read(until_tokens=TOKENS - 20)
        finally:
            if worker.is_running():
                worker.resume()
        print("worker resumed while its successor streams")
        follower.read()
        check_stream(follower.frames)
        assert follower.text == undisturbed
        assert len(show(c.url, follower.job_id)["attempts"]) == 2
        reached("hang", "gap", follower.longest_gap_s(), "s", goal=7.0, strict=False)
        indices = [frame.data["index"] for frame in follower.frames if frame.event == "token"]
        reached("hang", "tokens_twice", len(indices) - len(set(indices)), goal=0)


def test_a_pause_that_is_shorter_than_a_hang_costs_nothing() -> None:
    # More than the usual 5 s, so that a machine that stands still for a moment too makes no hang of it.
    with Home({"RBEES_ORCD_HANG_AFTER_S": "12"}) as home:
        c = Cluster(home)
        undisturbed = _undisturbed(c)
        (worker,) = c.home.workers()
        follower = _started(c)
        fault("worker paused for 3 s", follower)
        worker.suspend()
        time.sleep(3.0)
        worker.resume()
        follower.read()
        check_stream(follower.frames)
        assert follower.text == undisturbed
        assert follower.longest_gap_s() > 2.5, "the pause was felt"
        assert len(show(c.url, follower.job_id)["attempts"]) == 1


def test_orcd_killed_in_mid_stream_with_jobs_queued() -> None:
    with cluster() as c:
        prompts = [f"job {n}" for n in range(10)]
        undisturbed = _undisturbed(c)
        (worker,) = c.home.workers()
        follower = _started(c)
        others = [c.submit(prompt, max_tokens=QUEUED_TOKENS) for prompt in prompts]
        last = show(c.url, others[-1])["status"]
        assert last == "queued"
        fault(f"orcd killed, the last of {len(others)} others is {last}", follower)
        before = list(follower.frames)
        c.orcd.kill()
        begun = time.monotonic()
        c.start_orcd()
        print(f"orcd answered again after {time.monotonic() - begun:.2f} s")
        follower.read()
        assert follower.frames[: len(before)] == before
        check_stream(follower.frames)
        assert follower.text == undisturbed
        assert read_frames(c.url, follower.job_id)
        assert bytes_of(read_frames(c.url, follower.job_id)) == bytes_of(follower.frames)
        ended = [wait_ended(c.url, job_id) for job_id in others]
        assert {job["status"] for job in ended} == {"completed"}
        assert [process.pid for process in c.home.workers()] == [worker.pid], "the worker was not started again"
        shown = show(c.url, follower.job_id)
        assert len(shown["attempts"]) == 1, "the attempt was taken up again, not repeated"
        again = [c.submit(prompt, max_tokens=QUEUED_TOKENS) for prompt in prompts]
        for job, job_id in zip(ended, again, strict=True):
            assert job["output"][0]["text"] == wait_ended(c.url, job_id)["output"][0]["text"]


def test_orcd_killed_again_and_again() -> None:
    with cluster(answer_tokens=TOKENS, tokens_per_second=40.0) as c:
        undisturbed = _undisturbed(c)
        follower = _started(c)
        for kill in range(4):
            fault(f"orcd killed for the {kill + 1}. time", follower)
            c.orcd.kill()
            c.start_orcd()
            follower.read(until_tokens=follower.tokens + 10)
        follower.read()
        check_stream(follower.frames)
        assert follower.text == undisturbed
        assert bytes_of(read_frames(c.url, follower.job_id)) == bytes_of(follower.frames)


def test_poold_killed_in_mid_stream() -> None:
    with cluster() as c:
        undisturbed = _undisturbed(c)
        (worker,) = c.home.workers()
        follower = _started(c)
        fault("poold killed", follower)
        c.poold.kill()
        c.start_poold()
        follower.read()
        check_stream(follower.frames)
        assert follower.text == undisturbed
        assert len(show(c.url, follower.job_id)["attempts"]) == 1
        wait_until(lambda: c.pools()[0]["state"] == "live", c.poold, "be live again")
        assert c.text() == undisturbed
        assert [process.pid for process in c.home.workers()] == [worker.pid], "the worker was adopted"


def test_orcd_and_worker_killed_at_once() -> None:
    with cluster() as c:
        undisturbed = _undisturbed(c)
        (worker,) = c.home.workers()
        follower = _started(c)
        fault("orcd and worker killed", follower)
        worker.kill()
        c.orcd.kill()
        c.start_orcd()
        follower.read()
        check_stream(follower.frames)
        assert follower.text == undisturbed


def test_a_job_that_was_accepted_before_any_pool_waits_for_one() -> None:
    with cluster() as c:
        undisturbed = _undisturbed(c)
        assert c.poold.stop() == 0
        (pool,) = request("GET", f"{c.url}/v2/pools").json["pools"]
        assert request("DELETE", f"{c.url}/v2/pools/{pool['pool_id']}").status == 204
        assert request("GET", f"{c.url}/v2/pools").json["pools"] == []
        job_id = c.submit()
        assert "pool" in show(c.url, job_id)["waiting_for"]
        c.start_poold()
        assert wait_ended(c.url, job_id)["output"][0]["text"] == undisturbed


def test_sigterm_lets_running_jobs_finish_and_keeps_the_others() -> None:
    with cluster() as c:
        undisturbed = _undisturbed(c)
        follower = _started(c)
        waiting = [c.submit(f"job {n}", max_tokens=QUEUED_TOKENS) for n in range(8)]
        fault("SIGTERM to orcd", follower)
        c.orcd.send(signal.SIGTERM)
        wait_until(lambda: "stopping" in c.orcd.said, c.orcd, "drain")
        refused = request("POST", f"{c.url}/v2/tasks", {"model": c.model, "prompt": "too late"})
        assert (refused.status, refused.error["code"]) == (503, "DRAINING")
        assert "retry-after" in refused.headers
        assert request("GET", f"{c.url}/readyz").status == 503
        follower.read()
        assert follower.breaks == 0, "the stream went on to its end"
        assert follower.text == undisturbed
        assert c.orcd.wait() == 0
        c.start_orcd()
        ended = [wait_ended(c.url, job_id)["status"] for job_id in waiting]
        reached("sigterm", "failed", len(ended) - ended.count("completed"), goal=0)
        reached("sigterm", "streams_broken", follower.breaks, goal=0)
