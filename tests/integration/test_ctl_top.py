"""`llorch top` and `--watch` on a terminal, with a real orchestrator and a real pool daemon behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.home import Daemon, Home, entry_point, free_port, wait_until
from tests.support.jobs import wait_ended
from tests.support.orcd_cluster import Cluster, cluster
from tests.support.raw_http import request, stream
from tests.support.screens import OnScreen


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    with cluster(tokens_per_second=30.0, answer_tokens=1900) as site:
        yield site


@pytest.fixture
def site(shared: Cluster) -> Iterator[Cluster]:
    """The cluster of this file, both of whose daemons run and in which no job does."""
    yield shared
    for job in request("GET", f"{shared.url}/v2/tasks?limit=1000").json["jobs"]:
        request("DELETE", f"{shared.url}/v2/tasks/{job['job_id']}")
        wait_ended(shared.url, job["job_id"])


def llorch(home: Home, *words: str, columns: int = 80, lines: int = 24, **environ: str) -> OnScreen:
    said = home.environ(RBEES_CTL_ORCD_URL=home.url, TERM="xterm", **environ)
    return OnScreen([*entry_point("llorch"), *words], said, columns, lines)


# ---- the route ---------------------------------------------------------------------------------------------------------


def test_the_cluster_is_told_at_a_glance(site: Cluster) -> None:
    job_id = site.submit(max_tokens=500)
    url = f"{site.url}/v2/status"
    wait_until(lambda: request("GET", url).json["overview"]["jobs"]["running"], site.poold, "run the job")
    wait_until(lambda: request("GET", url).json["overview"]["rates"]["tokens_per_s"] > 0, site.poold, "count tokens")
    told = request("GET", url).json
    (pool,) = told["pools"]
    (worker,) = pool["workers"]
    (running,) = told["overview"]["running"]
    assert (running["job_id"], running["worker_id"], running["pool_id"]) == (job_id, worker["worker_id"], pool["pool_id"])
    assert (worker["state"], worker["slots_busy"]) == ("ready", 1)
    assert worker["tokens_per_s"] > 0
    assert pool["devices"][0]["device_id"] == "cpu"


@pytest.mark.parametrize("watch", ["", "0", "0.4", "61", "nan", "x"])
def test_a_watch_that_is_no_interval_is_refused(site: Cluster, watch: str) -> None:
    answer = request("GET", f"{site.url}/v2/status?watch={watch}")
    assert (answer.status, answer.error["code"], answer.error["details"]["field"]) == (400, "INVALID_REQUEST", "watch")


def test_a_stream_tells_of_a_drain_and_ends_with_orcd(site: Cluster) -> None:
    site.submit(max_tokens=90)
    with stream("GET", f"{site.url}/v2/status?watch=0.5") as frames:
        first = [next(frames).event, next(frames).event]
        next(frame for frame in frames if frame.event == "overview" and frame.data["jobs"]["running"])
        site.orcd.send(signal.SIGTERM)
        # It is read to its end, which is one in order, or reading raises.
        problems = {frame.data["problem"] for frame in frames if frame.event == "overview"}
    assert first == ["pool", "overview"]
    assert "It is shutting down." in problems
    assert site.orcd.wait() == 0
    site.start_orcd()


# ---- top ---------------------------------------------------------------------------------------------------------------


def test_top_shows_what_runs_and_keys_do_what_they_say(site: Cluster) -> None:
    site.submit(max_tokens=1800)
    with llorch(site.home, "top", "--every", "0.5") as top:
        shown = top.wait_for("1 running", "bench", "cpu", "ready", "1/4", "steady.scripted", "q quit", "live")
        assert "tokens/s" in shown
        top.press("s")
        top.wait_for("order: busy")
        top.press("\x1b[B")
        top.wait_for("> bench")
        top.press("a")
        top.wait_for("bench", gone=["> bench"])
        top.press("p")
        held = top.wait_for("paused", "p go on")
        top.press("x")
        top.press("p")
        assert top.wait_for("live", "p pause", gone=["paused"]) != held
        top.resize(120, 12)
        wide = top.wait_for("CONTEXT")
        assert len(wide.splitlines()) == 12
        top.resize(40, 30)
        top.wait_for("bench", "1/4", gone=["CONTEXT"])
        top.press("q")
        assert top.end() == 0
        top.assert_restored()
        assert "31" not in top.picture.colours, "NO_COLOR is set"


def test_top_gets_over_a_killed_orcd(site: Cluster) -> None:
    with llorch(site.home, "top", "--every", "0.5") as top:
        top.wait_for("live", "bench")
        site.orcd.kill()
        top.wait_for("trying again", "bench")
        site.start_orcd()
        top.wait_for("live", "bench", gone=["trying again"])
        assert top.end(signal.SIGINT) == 130
        top.assert_restored()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_gives_the_terminal_back(site: Cluster, number: signal.Signals, code: int) -> None:
    with llorch(site.home, "top") as top:
        top.wait_for("live")
        assert top.end(number) == code
        top.assert_restored()
        assert "Traceback" not in top.picture.plain


def test_ctrl_z_gives_the_terminal_back_for_a_while(site: Cluster) -> None:
    with llorch(site.home, "top") as top:
        top.wait_for("live")
        top.process.send_signal(signal.SIGTSTP)
        wait_until(lambda: os.waitid(os.P_PID, top.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None, what="stop")
        top.read()
        top.assert_restored()
        top.process.send_signal(signal.SIGCONT)
        top.wait_for("live", "q quit")
        assert top.end(signal.SIGTERM) == 143
        top.assert_restored()


def test_a_terminal_that_takes_nothing_does_not_keep_top_from_ending(site: Cluster) -> None:
    with llorch(site.home, "top", "--every", "0.5") as top:
        top.wait_for("live")
        top.press("\x13")  # Ctrl-S
        top.resize(200, 200)
        top.process.send_signal(signal.SIGTERM)
        assert top.process.wait(40) == 143
        assert top.attributes == top.before


def test_an_orcd_that_refuses_after_a_restart_ends_top_with_its_words(site: Cluster) -> None:
    token = site.home.folder / "token"
    token.write_text("rbk_" + "x" * 43)
    token.chmod(0o600)
    with llorch(site.home, "top", "--every", "0.5") as top:
        top.wait_for("live")
        site.orcd.stop()
        site.start_orcd(TOKEN_FILE=str(token))
        assert top.end() == 77
        top.assert_restored()
        assert "token" in top.picture.plain
    site.orcd.stop()
    site.start_orcd()


def test_a_terminal_that_only_goes_on_gets_lines(site: Cluster) -> None:
    said = site.home.environ(RBEES_CTL_ORCD_URL=site.url, TERM="dumb")
    with OnScreen([*entry_point("llorch"), "top", "--every", "0.5"], said) as top:
        top.wait_for("bench")
        wait_until(lambda: top.shown.count("rbees 0") >= 2, what="show it again")
        assert "\x1b" not in top.picture.plain
        assert top.end(signal.SIGINT) == 130


def test_without_a_terminal_there_is_a_picture_or_lines_or_a_word(site: Cluster) -> None:
    refused = site.home.llorch("top")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--once" in refused.stderr
    once = site.home.llorch("top", "--once")
    assert once.returncode == 0, once.stderr
    assert "bench" in once.stdout
    assert "\x1b" not in once.stdout
    whole = site.home.llorch("top", "--once", "--json").json
    assert [pool["pool_id"] for pool in whole["pools"]] == ["bench"]
    lines = site.home.start("top", "--json", "--every", "0.5", program="llorch", environ={"RBEES_CTL_ORCD_URL": site.url})
    wait_until(lambda: lines.stdout.count("\n") >= 3, lines, "print lines")
    lines.stop(signal.SIGINT)
    assert all(json.loads(line)["overview"]["version"] for line in lines.stdout.splitlines())


def test_who_never_answered_is_told_at_once(home: Home) -> None:
    home.url = f"http://127.0.0.1:{free_port()}"
    for words in (("top", "--once"), ("top", "--json")):
        done = home.llorch(*words)
        assert done.returncode == 69
        assert "[ORCD_UNREACHABLE]" in done.stderr or '"ORCD_UNREACHABLE"' in done.stderr
    with llorch(home, "top") as top:
        assert top.end() == 69
        assert not top.picture.was_alternate


# ---- status ------------------------------------------------------------------------------------------------------------


def test_pool_status_fits_a_terminal_and_goes_on(site: Cluster) -> None:
    site.warm()
    with llorch(site.home, "pool", "status") as status:
        assert status.end() == 0
        assert all(len(line) <= 80 for line in status.picture.plain.splitlines())
        assert "bench" in status.picture.plain
    with llorch(site.home, "pool", "status", "--watch", "0.5") as status:
        status.wait_for("bench", "ready", "q quit", "every 0.5 s")
        site.orcd.kill()
        status.wait_for("[ORCD_UNREACHABLE] trying again", "bench")
        site.start_orcd()
        status.wait_for("q quit", "bench", gone=["trying again"])
        status.press("q")
        assert status.end() == 0
        status.assert_restored()


def test_a_host_that_is_asked_itself_can_be_watched_too(site: Cluster) -> None:
    (site.home.folder / "config.toml").write_text(f'[hosts.attic]\nurl = "{site.poold.url}"\nssh = "127.0.0.1:1"\n')
    with llorch(site.home, "pool", "status", "--host", "attic", "--via", "http", "--watch=0.5") as status:
        status.wait_for("bench at http://127.0.0.1:", "cpu", "q quit")
        status.resize(120, 6)
        status.wait_for("bench at http://127.0.0.1:", "more lines")
        assert status.end(signal.SIGINT) == 130
        status.assert_restored()
    with llorch(site.home, "pool", "status", "--host", "attic", "--via", "http", "--watch=0.5") as status:
        status.wait_for("q quit")
        status.press("q")
        assert status.end() == 0
        status.assert_restored()


def read_lines(daemon: Daemon, count: int) -> list[str]:
    wait_until(lambda: daemon.stdout.count("\n") >= count, daemon, "print lines")
    daemon.stop(signal.SIGINT)
    return daemon.stdout.splitlines()


def test_a_host_shows_itself_with_and_without_a_daemon(site: Cluster) -> None:
    site.warm()
    port = {"RBEES_POOLD_PORT": str(site.poold_port), "RBEES_POOLD_MODEL_DIRS": str(site.models)}
    watching = site.home.start("status", "--watch=0.5", "--json", program="rbees-pool", environ=port)
    assert [json.loads(line)["pool_id"] for line in read_lines(watching, 2)][:2] == ["bench", "bench"]
    with_daemon = site.home.run("status", program="rbees-pool", environ=port)
    assert "pool        bench at http://127.0.0.1:" in with_daemon.stdout
    site.poold.stop()
    alone = site.home.run("status", program="rbees-pool", environ=port)
    assert alone.returncode == 0, alone.stderr
    assert "no pool daemon runs here" in alone.stdout
    assert "cpu" in alone.stdout
    found = site.home.run("status", "--json", program="rbees-pool", environ=port).json
    assert (found["daemon"], len(found["workers"])) == (False, 1)
    named = site.home.run("status", "--poold-url", f"http://127.0.0.1:{site.poold_port}", program="rbees-pool")
    assert (named.returncode, "[POOL_UNREACHABLE]" in named.stderr) == (69, True)
    site.start_poold()


def test_a_pipe_that_is_closed_ends_the_watching(site: Cluster) -> None:
    said = site.home.environ(RBEES_CTL_ORCD_URL=site.url)
    with subprocess.Popen([*entry_point("llorch"), "top", "--json", "--every", "0.5"], env=said, stdout=subprocess.PIPE) as lines:
        assert lines.stdout is not None
        assert json.loads(lines.stdout.readline())
        lines.stdout.close()
        assert lines.wait(60) == 141
