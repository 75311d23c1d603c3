"""Home mode where things go wrong: daemons that die or cannot start, neighbours, wrong models, an end in a hurry."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import stat
import sys
from pathlib import Path

import psutil
import pytest

import rbees
from tests.support.home import Daemon, Home, free_port, is_alive, is_ready, taken_port, wait_until
from tests.support.jobs import long_job, show, wait_ended
from tests.support.scripted_models import write_script


def kill(process: psutil.Process) -> None:
    process.kill()
    psutil.wait_procs([process], timeout=10)


def place_of(home: Home) -> dict[str, str]:
    """What the runtime file tells."""
    place: dict[str, str] = json.loads((home.folder / "run" / "up.json").read_text())
    return place


def ended(daemon: Daemon, home: Home, expected: int) -> str:
    """What it said, once it has ended as expected and nothing of it is left."""
    assert daemon.wait() == expected, daemon.said
    wait_until(lambda: not home.processes(), what="be gone")
    assert "Traceback" not in daemon.said
    return daemon.said


def test_both_daemons_come_back_whatever_kills_them(home: Home) -> None:
    up = home.up("--port", "0")
    job_id = long_job(home.url, seed=3)
    wait_until(lambda: show(home.url, job_id)["last_seq"] > 5, what="stream")
    worker = home.workers()[0]
    for role, place in (("poold", place_of(home)["poold_url"]), ("orcd", home.url)):
        kill(home.of_role(role))
        assert not is_alive(place)
        wait_until(functools.partial(is_ready, place), up, "come back")
    assert wait_ended(home.url, job_id)["status"] == "completed"
    assert home.workers() == [worker], "the worker lived through both deaths"
    assert up.said.count("ended (SIGKILL)") == 2
    up.send(signal.SIGTERM)
    ended(up, home, 0)


def test_the_runtime_file_tells_its_owner_alone_where_it_is(home: Home) -> None:
    up = home.start("up", "--json", "--port", "0")
    told = json.loads(wait_until(lambda: up.stdout if up.stdout.endswith("\n") else "", up, "tell"))
    file = home.folder / "run" / "up.json"
    assert json.loads(file.read_text()) == told
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert told["pid"] == up.pid
    found = home.run("jobs", "list", program="llorch")
    assert found.returncode == 0, found.said
    assert home.run("status", program="rbees-pool").returncode == 0
    for program, words in (("llorch", ("jobs", "list")), ("rbees-pool", ("status",))):
        refused = home.run(*words, "--token-file", "/nope", program=program)
        assert (refused.returncode, "asks for no token" in refused.stderr) == (2, True), refused.said
    up.kill()
    assert home.run("jobs", "list", program="llorch").returncode == 69, "a file that outlived its writer names nobody"


def test_a_model_is_ready_before_the_first_job(home: Home) -> None:
    home.up("--port", "0", "--model", "haiku")
    workers = home.llorch("pool", "status", "--json").json["pools"][0]["workers"]
    assert [(worker["model_ref"], worker["state"]) for worker in workers] == [("haiku", "ready")]


def test_models_of_ones_own_are_named_by_file_or_found_in_a_folder(home: Home) -> None:
    packaged = next((Path(rbees.__file__).parent / "host" / "data" / "models").glob("*.gguf"))
    for folder in ("one", "two"):
        (home.folder / folder).mkdir()
        shutil.copy(packaged, home.folder / folder / f"{folder}.gguf")
    mine = f"file:{home.folder}/one/one.gguf"
    home.up("--port", "0", "--model", mine, "--model-dir", str(home.folder / "two"))
    models = [model["facts"]["ref"] for model in home.llorch("models", "list", "--json").json["models"]]
    assert len(models) == 1, "both files, and the one that is packaged, are the same model"
    for model in (mine, f"file:{home.folder}/two/two.gguf"):
        done = home.llorch("jobs", "submit", "--model", model, "--prompt", "hello")
        assert done.returncode == 0, done.said


def test_a_model_that_is_not_there_ends_it(home: Home) -> None:
    up = home.start("up", "--port", "0", "--model", "no-such-model")
    said = ended(up, home, 1)
    assert "[MODEL_NOT_FOUND]" in said
    assert "`haiku`" in said, "what would do is named, since nobody is left to ask for a list"
    assert "models list" not in said


def test_a_file_that_is_no_model_ends_it(home: Home, tmp_path: Path) -> None:
    up = home.start("up", "--port", "0", "--model", "file:relative")
    assert "[INVALID_REQUEST]" in ended(up, home, 2)


def test_a_port_that_was_asked_for_is_not_exchanged(home: Home) -> None:
    with taken_port() as port:
        up = home.start("up", "--port", str(port))
        said = ended(up, home, 75)
    assert "[ADDRESS_IN_USE]" in said
    assert str(port) in said


USUAL = """
import sys
from rbees import cli
from rbees.up import session
session.ORCD_PORT = {port}
sys.exit(cli.run("rbees", sys.argv[1:]))
"""

LATE = """
import sys
from rbees import cli
from rbees.up import session
choose, lost = session.choose_port, {ports}
session.choose_port = lambda *given, **more: lost.pop(0) if lost else choose(*given, **more)
sys.exit(cli.run("rbees", sys.argv[1:]))
"""
"""`rbees up` for which the ports of its first choice are free when it looks and taken when its daemons listen."""


@pytest.mark.parametrize("lost", [("orcd",), ("poold",), ("orcd", "poold")], ids="+".join)
def test_a_port_that_is_lost_to_another_program_is_chosen_anew(home: Home, lost: tuple[str, ...]) -> None:
    with taken_port() as taken, taken_port() as also_taken:
        first = [taken if "orcd" in lost else free_port(), also_taken if "poold" in lost else free_port()]
        up = home.start("-c", LATE.format(ports=first), "up", program=sys.executable)
        line = wait_until(lambda: up.stdout if up.stdout.endswith("\n") else "", up, "tell its address")
        assert home.run("jobs", "list", program="llorch").returncode == 0
        place = place_of(home)
        assert place["orcd_url"] in line
        assert not {taken, also_taken} & {int(place[key].rpartition(":")[2]) for key in ("orcd_url", "poold_url")}
    up.send(signal.SIGINT)
    ended(up, home, 0)


def test_a_port_that_was_asked_for_and_lost_is_not_exchanged(home: Home) -> None:
    with taken_port() as port:
        up = home.start("-c", LATE.format(ports=[port]), "up", "--port", str(port), program=sys.executable)
        said = ended(up, home, 75)
    assert "[ADDRESS_IN_USE]" in said
    assert f"port {port}" in said
    assert said.count("cannot start") == 0, "nothing was tried again"


def test_a_command_waits_for_a_home_that_is_starting(home: Home) -> None:
    up = home.start("up", "--port", "0")
    wait_until((home.folder / "run" / "up.json").exists, up, "make itself known")
    found = home.run("models", "list", "--json", program="llorch")
    assert found.returncode == 0, found.said
    assert [model["facts"]["ref"] for model in found.json["models"]] == ["haiku"]
    assert place_of(home)["orcd_url"] in wait_until(lambda: up.stdout, up, "tell its address")


def test_a_job_may_come_while_the_first_model_is_made_ready(home: Home) -> None:
    slow = write_script(home.folder / "models", load_seconds=3.0)
    up = home.start("up", "--port", "0", "--model", f"file:{slow}")
    done = home.run("jobs", "submit", "--model", f"file:{slow}", "--prompt", "hello", program="llorch")
    assert done.returncode == 0, done.said
    assert len(home.workers()) == 1, "both wait for one worker"
    wait_until(lambda: up.stdout, up, "tell its address")


def test_a_worker_whose_process_was_never_noted_is_ended_too(home: Home) -> None:
    up = home.up("--port", "0", "--model", "haiku")
    (record,) = (home.folder / "up" / "poold" / "workers").glob("*.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "pid": None, "started": None}))
    home.of_role("poold").suspend()  # It cannot end its worker any more, and is killed in its turn.
    up.send(signal.SIGTERM)
    wait_until(lambda: not is_alive(home.url), what="begin to end")
    up.send(signal.SIGTERM)
    ended(up, home, 0)


@pytest.mark.parametrize("role", ["orcd", "poold"])
def test_it_keeps_out_of_the_way_of_a_configured_service(home: Home, role: str) -> None:
    service = home.serve_orcd() if role == "orcd" else home.serve_poold()
    refused = home.run("up", "--port", "0")
    assert refused.returncode == 75
    assert "[ALREADY_RUNNING]" in refused.stderr
    assert service.url in refused.stderr, "it says where"
    assert service.stop() == 0


def test_settings_of_a_lab_are_no_business_of_a_home(home: Home) -> None:
    (home.folder / "config.toml").write_text('[orcd]\nbind = "0.0.0.0"\nport = 1\n[poold]\norcd_url = "http://192.0.2.1:8080"\n')
    (home.folder / "rbees.toml").write_text("[orcd]\nqueue_limit = 1\n")
    up = home.up("--port", "0", environ={"RBEES_ORCD_TOKEN_FILE": "/nowhere", "RBEES_POOLD_POOL_ID": "lab"})
    assert ":1 " not in up.said
    assert home.run("jobs", "list", "--orcd-url", home.url, program="llorch").returncode == 0


def test_a_daemon_that_cannot_start_is_explained(home: Home) -> None:
    folder = home.folder / "up" / "orcd"
    folder.mkdir(parents=True)
    (home.folder / "up").chmod(0o700)
    folder.chmod(0o755)
    said = ended(home.start("up", "--port", "0"), home, 78)
    assert "orcd cannot start (exit code 78)" in said
    assert "chmod 700" in said, "the end of its log is shown"
    assert str(home.folder / "up" / "orcd.log") in said


BARE = """
import sys
from rbees import cli
from rbees.up import session
session.library_folder = lambda: None
sys.exit(cli.run("rbees", sys.argv[1:]))
"""
"""`rbees up` as in an installation without the part that runs models."""


def test_an_installation_that_cannot_run_models_says_so_at_once(home: Home) -> None:
    up = home.start("-c", BARE, "up", "--port", "0", program=sys.executable)
    wait_until(lambda: "cannot run models" in up.said, up, "warn")
    assert f"{sys.executable} -m pip install" in up.said
    assert "jobs submit" not in up.said, "such a job could only wait"
    up.send(signal.SIGINT)
    ended(up, home, 0)


def up_with_a_slow_job(home: Home) -> tuple[Daemon, str]:
    """A home and a job in it that runs and will not be done when an end has lasted as long as it may."""
    slow = write_script(home.folder / "models", tokens_per_second=2.0)
    up = home.up("--port", "0", "--model", f"file:{slow}")
    submitted = home.llorch("jobs", "submit", "--model", f"file:{slow}", "--prompt", "x", "--max-tokens", "60", "--detach")
    job_id = submitted.stdout.strip()
    wait_until(lambda: show(home.url, job_id)["last_seq"] > 5, what="stream")
    return up, job_id


def test_the_second_signal_does_not_wait_for_what_runs(home: Home) -> None:
    up, _ = up_with_a_slow_job(home)
    up.send(signal.SIGINT)
    wait_until(lambda: "Ctrl-C again" in up.said, what="explain the wait")
    (log,) = (home.folder / "up" / "poold" / "workers").glob("*.log")
    up.send(signal.SIGINT)
    said = ended(up, home, 0)
    assert "model_loaded" in log.read_text()
    assert "daemon_stop" not in log.read_text(), "nothing is asked any more, as it would be after the job's ten seconds"
    assert "1 job is kept and goes on with the next `rbees up`" in said


def test_an_end_takes_no_longer_than_jobs_may_and_tells_what_is_left(home: Home) -> None:
    up, job_id = up_with_a_slow_job(home)
    up.send(signal.SIGINT)
    said = ended(up, home, 0)
    # The job needs thirty seconds and gets ten: whoever waited for it would have nothing left to tell of.
    assert "1 job is kept and goes on with the next `rbees up`" in said
    again = home.up("--port", "0")
    assert "1 job is left from an earlier `rbees up` and goes on" in again.said
    assert show(home.url, job_id)["status"] in {"queued", "dispatched", "running"}


def test_a_job_that_ends_while_it_ends_is_not_called_kept(home: Home) -> None:
    brief = write_script(home.folder / "models", tokens_per_second=10.0, answer_tokens=30)
    up = home.up("--port", "0", "--model", f"file:{brief}")
    submitted = home.start("jobs", "submit", "--model", f"file:{brief}", "--prompt", "x", "--json", program="llorch")
    wait_until(lambda: '"seq":8' in submitted.said, submitted, "stream")
    up.send(signal.SIGINT)
    assert submitted.wait() == 0, submitted.said
    assert "kept" not in ended(up, home, 0)


def test_another_port_than_the_usual_one_is_explained(home: Home) -> None:
    with taken_port() as taken:
        up = home.start("-c", USUAL.format(port=taken), "up", program=sys.executable)
        line = wait_until(lambda: up.stdout if up.stdout.endswith("\n") else "", up, "tell its address")
        assert f"(port {taken} is taken by another program; Ctrl-C ends it)" in line
    up.send(signal.SIGINT)
    ended(up, home, 0)


def test_jobs_that_were_waiting_go_on_with_the_next_start(home: Home) -> None:
    up = home.up("--port", "0")
    jobs = [long_job(home.url, seed=seed) for seed in range(3)]
    wait_until(lambda: show(home.url, jobs[0])["last_seq"] > 5, what="stream")
    up.kill()
    home.up("--port", "0")  # At once: the daemons of the first one may still be at their end.
    assert [wait_ended(home.url, job_id)["status"] for job_id in jobs] == ["completed"] * 3
