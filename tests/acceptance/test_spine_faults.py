"""A worker, then the orchestrator, killed without warning under the embedded model: nothing accepted is lost, nothing comes twice.

Each test prints when the fault fell and how many tokens were in flight; a kill that found nothing to hit does not count.
"""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.support.home import Home, wait_until
from tests.support.jobs import (
    bytes_of,
    check_stream,
    events_url,
    long_job,
    read_frames,
    show,
    submit,
    text_of,
    wait_ended,
)
from tests.support.raw_http import Frame, request, stream

TRIES = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Home]:
    """orcd and poold as an administrator starts them, each on its own."""
    with Home() as home:
        home.serve_orcd()
        home.serve_poold()
        wait_until(lambda: request("GET", f"{home.url}/v2/pools").json["pools"], what="register its pool")
        yield home


def test_a_worker_killed_in_mid_stream_ends_in_a_completed_job(cluster: Home) -> None:
    undisturbed = read_frames(cluster.url, long_job(cluster.url, seed=7, deterministic=True))
    check_stream(undisturbed)
    for attempt in range(TRIES):
        job_id = long_job(cluster.url, seed=7, deterministic=True)
        frames, killed_after = _kill_worker_after_tokens(cluster, job_id, tokens=20 + attempt)
        shown = show(cluster.url, job_id)
        assert shown["status"] == "completed", shown
        check_stream(frames)
        assert text_of(frames) == text_of(undisturbed), "the text is that of a run which nothing disturbed"
        if len(shown["attempts"]) > 1:
            print(f"worker killed after {killed_after} tokens of {shown['usage']['completion_tokens']}")
            return
    pytest.fail(f"in {TRIES} tries the worker was always faster than the kill")


def _kill_worker_after_tokens(cluster: Home, job_id: str, tokens: int) -> tuple[list[Frame], int]:
    """The whole stream, in the course of which the worker died, and how many tokens had come by then."""
    seen: list[Frame] = []
    (worker,) = cluster.workers()
    killed_after = 0
    with stream("GET", events_url(cluster.url, job_id), timeout_s=60.0) as frames:
        for frame in frames:
            if not frame.event:
                continue
            seen.append(frame)
            if not killed_after and sum(one.event == "token" for one in seen) == tokens:
                killed_after = tokens
                worker.kill()
    return seen, killed_after


def test_a_killed_orcd_completes_every_job_that_it_had_accepted(cluster: Home) -> None:
    orcd = cluster.of_role("orcd")
    jobs = [long_job(cluster.url, seed=seed) for seed in range(9)]
    with stream("GET", events_url(cluster.url, jobs[0])) as frames:
        before = []
        for frame in frames:
            before += [frame] if frame.event else []
            if sum(one.event == "token" for one in before) == 10:
                break
        (worker,) = cluster.workers()
        worker.suspend()  # So that it is not done with them before they are looked at.
        states = [show(cluster.url, job_id)["status"] for job_id in jobs]
        port = int(cluster.url.rpartition(":")[2])
        orcd.kill()
        psutil.wait_procs([orcd], timeout=10)
        worker.resume()
    print(f"orcd killed with {states.count('queued')} jobs queued, {states.count('running')} running, at token 10 of the first")
    assert "queued" in states
    assert "running" in states

    cluster.serve_orcd(port)

    for job_id in jobs:
        shown = wait_ended(cluster.url, job_id)
        assert shown["status"] == "completed", shown
    for job_id in jobs:
        check_stream(read_frames(cluster.url, job_id))
    after = read_frames(cluster.url, jobs[0])
    assert bytes_of(after[: len(before)]) == bytes_of(before), "what was sent before the kill never changes"
    resumed = read_frames(cluster.url, jobs[0], after=before[-1].id)
    assert bytes_of(before) + bytes_of(resumed) == bytes_of(after)


def test_a_killed_orcd_is_started_again_by_up(home: Home) -> None:
    home.up()
    job_id = long_job(home.url, seed=3)
    wait_until(lambda: show(home.url, job_id)["status"] != "queued", what="be dispatched")
    home.of_role("orcd").kill()

    def answers() -> bool:
        try:
            return request("GET", f"{home.url}/readyz").status == 200
        except OSError:
            return False

    wait_until(answers, what="answer again", timeout_s=30.0)
    assert wait_ended(home.url, job_id)["status"] == "completed"
    check_stream(read_frames(home.url, job_id))


def test_a_killed_poold_disturbs_no_stream_and_adopts_its_worker(cluster: Home) -> None:
    read_frames(cluster.url, submit(cluster.url))
    (worker,) = cluster.workers()
    poold = cluster.of_role("poold")
    job_id = long_job(cluster.url, seed=5)
    wait_until(lambda: show(cluster.url, job_id)["status"] != "queued", what="be dispatched")
    poold.kill()
    psutil.wait_procs([poold], timeout=10)
    frames = read_frames(cluster.url, job_id)
    check_stream(frames)
    assert frames[-1].event == "end"
    assert len(show(cluster.url, job_id)["attempts"]) == 1

    cluster.serve_poold()

    def adopted() -> bool:
        workers = request("GET", f"{cluster.url}/v2/workers").json["workers"]
        return [one["pid"] for one in workers if one["state"] == "ready"] == [worker.pid]

    wait_until(adopted, what="adopt its worker", timeout_s=30.0)
    again = submit(cluster.url)
    assert wait_ended(cluster.url, again)["status"] == "completed"
