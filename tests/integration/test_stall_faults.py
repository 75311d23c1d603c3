"""orcd itself stands still, as a process does that was stopped or whose machine was: nobody else was silent meanwhile."""

from __future__ import annotations

import signal
import time

from tests.support.fault_matrix import FULL, reached
from tests.support.jobs import show
from tests.support.orcd_cluster import Follower, cluster, fault

STALLS_S = (5.5, 8.0, 12.0) if FULL else (6.5,)
"""Longer than a worker may show no sign of life, and at full size than a pool may go unheard before it gets no more work."""
TOKENS_PER_SECOND = 10.0
JOBS = 2


def test_an_orcd_that_stood_still_blames_nobody() -> None:
    tokens = round(TOKENS_PER_SECOND * (max(STALLS_S) + 4.0))
    with cluster(tokens_per_second=TOKENS_PER_SECOND) as c:
        c.warm()
        workers = {process.pid for process in c.home.workers()}
        for stall_s in STALLS_S:
            prompts = [f"stood still for {stall_s} s, {number}" for number in range(JOBS)]
            followers = [Follower(c.url, c.submit(prompt, max_tokens=tokens, ignore_eos=True)) for prompt in prompts]
            for follower in followers:
                follower.read(until_tokens=5)
                fault(f"orcd stopped for {stall_s} s", follower)
            c.orcd.send(signal.SIGSTOP)
            time.sleep(stall_s)
            c.orcd.send(signal.SIGCONT)
            for follower in followers:
                follower.read()
            attempts = [show(c.url, follower.job_id)["attempts"] for follower in followers]
            reached("orcd_stall", "attempts_lost", sum(map(len, attempts)) - JOBS, goal=0)
            again = [Follower(c.url, c.submit(prompt, max_tokens=tokens, ignore_eos=True)) for prompt in prompts]
            for follower, undisturbed in zip(followers, again, strict=True):
                undisturbed.read()
                assert follower.text == undisturbed.text
        reached("orcd_stall", "stood_still", max(STALLS_S), "s")
        reached("orcd_stall", "workers_started_again", len({process.pid for process in c.home.workers()} - workers), goal=0)
        assert "stood still" in c.orcd.said, "it has noticed"
