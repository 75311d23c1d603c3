"""Troubles that no signal causes: jobs that kill their workers, models that never load, clocks that jump, a disk that is slow, a
second orcd.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil

from tests.support.fault_matrix import FULL, reached, size
from tests.support.home import Daemon, Home, is_alive, wait_until
from tests.support.jobs import bytes_of, check_stream, read_frames, show, wait_ended
from tests.support.orcd_cluster import Cluster, Follower, cluster, fault
from tests.support.raw_http import request
from tests.support.scripted_models import write_script

POISON = "nightshade"
LOADS = 5
"""After so many failures the breaker opens."""


def test_a_poison_job_ends_and_takes_nobody_with_it() -> None:
    with cluster(answer_tokens=60, tokens_per_second=60.0, crash_on=POISON) as c:
        texts = {f"well {number}": c.text(f"well {number}") for number in range(3)}
        well = {prompt: [c.submit(prompt) for _ in range(size(1, 12))] for prompt in texts}
        follower = Follower(c.url, well["well 0"][0])
        follower.read(until_tokens=5)
        fault("a poison job is submitted", follower)
        poison = wait_ended(c.url, c.submit(POISON), 60.0)
        assert (poison["status"], poison["error"]["code"]) == ("failed", "WORKER_CRASHED")
        assert poison["error"]["details"]["deaths_alone"] == 2
        others = [(prompt, wait_ended(c.url, job_id, 60.0)) for prompt, jobs in well.items() for job_id in jobs]
        wrong = [job for prompt, job in others if job["status"] != "completed" or job["output"][0]["text"] != texts[prompt]]
        reached("poison", "others", len(others))
        reached("poison", "others_failed", len(wrong), goal=0)
        reached("poison", "workers_lost", len(poison["attempts"]), goal=3)


def test_a_model_that_dies_while_it_loads_is_left_alone_for_a_while() -> None:
    # Pauses double from a second at full size; a tenth of that shows the same.
    with Home({} if FULL else {"RBEES_ORCD_RETRY_FIRST_DELAY_S": "0.1"}) as home:
        broken = f"file:{write_script(home.folder / 'models', 'broken', crash_at_load='SIGKILL')}"
        c = Cluster(home)
        undisturbed = c.text()
        job_id = c.submit(model=broken)
        wait_until(lambda: f"after {LOADS} failures it is left alone" in _reason(c, job_id), c.orcd, "leave the model alone")
        assert "SIGKILL" in _reason(c, job_id)
        processes = [psutil.Process(daemon.pid) for daemon in (c.orcd, c.poold)]
        begun, before_s = time.monotonic(), _cpu_s(processes)
        time.sleep(size(4, 30))
        share = 100 * (_cpu_s(processes) - before_s) / (time.monotonic() - begun)
        assert show(c.url, job_id)["status"] == "queued"
        assert c.text() == undisturbed, "other models are served meanwhile"
        reached("crash_loop", "loads", c.orcd.said.count('"worker_failed"'), goal=LOADS)
        reached("crash_loop", "cpu_of_both_daemons", share, "%", goal=2.0, strict=False)


def _reason(c: Cluster, job_id: str) -> str:
    reason: str = request("GET", f"{c.url}/v2/tasks/{job_id}/explain").json["reason"]
    return reason


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


SHIFTED = """
import pathlib, sys, time
file, clock = pathlib.Path({file!r}), time.time_ns
time.time_ns = lambda: clock() + int(file.read_text()) * 10**9
time.time = lambda: time.time_ns() / 1e9
from rbees import cli
sys.exit(cli.run("rbees", sys.argv[1:]))
"""
"""rbees with a wall clock that is wrong by as many seconds as a file says at that moment."""


class Shifted(Cluster):
    """A cluster whose daemons read a wall clock that can be set."""

    @property
    def clock(self) -> Path:
        """The file that says how wrong it is."""
        return self.home.folder / "clock"

    def set_clock(self, seconds: int) -> None:
        """Let it be wrong by so much from now on; never seen half written."""
        draft = self.clock.with_suffix(".new")
        draft.write_text(str(seconds))
        draft.replace(self.clock)

    def start_orcd(self, **environ: str) -> Daemon:
        """As `Cluster.start_orcd`."""
        self.set_clock(0)
        self.orcd = self._shifted("orcd", self.orcd_port, {f"RBEES_ORCD_{name}": value for name, value in environ.items()})
        self.home.url = self.orcd.url
        return self.orcd

    def start_poold(self) -> Daemon:
        """As `Cluster.start_poold`."""
        environ = {"RBEES_POOLD_MODEL_DIRS": str(self.models), "RBEES_POOLD_ORCD_URL": self.url, "RBEES_POOLD_POOL_ID": "shifted"}
        self.poold = self._shifted("poold", self.poold_port, environ)
        return self.poold

    def _shifted(self, role: str, port: int, environ: dict[str, str]) -> Daemon:
        code = SHIFTED.format(file=str(self.clock))
        own = {**environ, f"RBEES_{role.upper()}_PORT": str(port)}
        daemon = self.home.start("-c", code, role, "serve", program=sys.executable, environ=own)
        daemon.url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_alive(daemon.url), daemon, "answer")
        return daemon


def test_a_wall_clock_that_jumps_changes_nothing() -> None:
    with Home() as home:
        c = Shifted(home, answer_tokens=150, tokens_per_second=30.0)
        undisturbed = c.text()
        follower = Follower(c.url, c.submit(timeout_ms=60_000))
        for round_, seconds in enumerate((3600, -3600) * size(1, 3)):
            follower.read(until_tokens=15 * (round_ + 1))
            fault(f"wall clock set to {seconds:+} s", follower)
            c.set_clock(seconds)
        follower.read()
        check_stream(follower.frames)
        assert follower.text == undisturbed
        assert c.pools()[0]["state"] == "live"
        assert wait_ended(c.url, c.submit(max_tokens=5))["status"] == "completed"
        reached("clock", "attempts_lost", len(show(c.url, follower.job_id)["attempts"]) - 1, goal=0)
        reached("clock", "workers_started_again", len(c.home.workers()) - 1, goal=0)
        reached("clock", "longest_gap", follower.longest_gap_s(), "s", goal=2.0, strict=False)


def test_a_second_orcd_on_the_same_file_leaves_the_first_alone() -> None:
    with cluster() as c:
        undisturbed = c.text()
        follower = Follower(c.url, c.submit())
        follower.read(until_tokens=30)
        fault("a second orcd is started", follower)
        codes = [c.home.run("orcd", "serve", "--port", "0").returncode for _ in range(size(1, 10))]
        follower.read()
        assert (follower.text, follower.breaks) == (undisturbed, 0)
        assert bytes_of(read_frames(c.url, follower.job_id)) == bytes_of(follower.frames)
        reached("second_orcd", "with_another_exit_code", len(codes) - codes.count(75), goal=0)
