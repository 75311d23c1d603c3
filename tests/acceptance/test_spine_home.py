"""Home mode as a newcomer meets it: `rbees up` with nothing configured, the embedded model on real llama.cpp."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.support.home import Home, taken_port, wait_until
from tests.support.jobs import bytes_of, check_stream, events_url, long_job, read_frames, show, submit
from tests.support.raw_http import read_events, request
from tests.support.scripted_models import write_script

UNITS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
"""
TENS = {2: "twenty", 3: "thirty", 4: "forty", 5: "fifty"}


PAGE = "http://localhost:3000"


@pytest.fixture(scope="module")
def up() -> Iterator[Home]:
    """One running `rbees up` for the tests that leave it as it is."""
    with Home() as home:
        write_script(home.folder / "models", "slow", tokens_per_second=20, answer_tokens=2000)
        pages = ("--allow-origin", PAGE, "--allow-origin", "app://hive/", "--allow-host", "bees.example")
        home.up("--model-dir", str(home.folder / "models"), *pages)
        yield home


def spelled(minute: int) -> str:
    """The minute of an hour in words."""
    if minute < 20:
        return UNITS.split()[minute]
    return TENS[minute // 10] + (f"-{UNITS.split()[minute % 10]}" if minute % 10 else "")


def test_a_word_of_the_prompt_comes_back_in_a_poem(up: Home) -> None:
    prompt = "write a haiku with the word guitar"
    done = up.llorch("jobs", "submit", "--model", "haiku", "--temperature", "0", "--prompt", prompt)
    assert done.returncode == 0, done.said
    assert "guitar" in done.stdout.lower()
    assert len(done.stdout.strip().splitlines()) == 3, "the answer alone is on standard output"


def test_the_current_minute_in_the_prompt_is_found_in_the_answer(up: Home) -> None:
    word = spelled(datetime.now().minute)
    prompt = f"Write a haiku that contains the word {word}."
    done = up.llorch("jobs", "submit", "--model", "haiku", "--temperature", "0", "--prompt", prompt)
    assert done.returncode == 0, done.said
    assert word in done.stdout.lower()


@pytest.mark.parametrize(
    ("origin", "status"), [(PAGE, 204), ("APP://hive", 204), ("http://localhost:3001", 403), ("http://hive", 403)]
)
def test_pages_may_call_that_the_command_line_names(up: Home, origin: str, status: int) -> None:
    asking = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = request("OPTIONS", f"{up.url}/v1/chat/completions", headers=asking)
    assert answer.status == status
    assert (answer.headers.get("access-control-allow-origin") == origin) is (status == 204)
    assert status == 204 or "`rbees up` with `--allow-origin`" in answer.error["message"]


def test_names_may_be_used_that_the_command_line_names(up: Home) -> None:
    answers = [request("GET", f"{up.url}/v1/models", headers={"Host": host}) for host in ("bees.example:443", "wasps.example")]
    assert [answer.status for answer in answers] == [200, 403]
    assert "`rbees up` with `--allow-host`" in answers[1].error["message"]


def test_a_stream_read_again_has_the_same_bytes_from_any_point(up: Home) -> None:
    job_id = submit(up.url)
    first = read_frames(up.url, job_id)
    check_stream(first)
    assert len(first) > 8
    assert read_events(events_url(up.url, job_id)) == bytes_of(first)
    assert read_events(events_url(up.url, job_id), after=5) == bytes_of(first[5:])
    assert read_events(events_url(up.url, job_id) + "?after=5") == bytes_of(first[5:])
    assert read_events(events_url(up.url, job_id), after=len(first)) == b""


def test_a_stream_followed_live_has_the_bytes_of_its_replay(up: Home) -> None:
    job_id = long_job(up.url, seed=11)
    live = read_frames(up.url, job_id)
    check_stream(live)
    assert live[-1].event == "end"
    assert read_events(events_url(up.url, job_id)) == bytes_of(live)


def test_the_same_seed_gives_the_same_poem(up: Home) -> None:
    ids = [submit(up.url, seed=42, deterministic=True) for _ in range(2)]
    texts = [[frame.data["text"] for frame in read_frames(up.url, job_id) if frame.event == "token"] for job_id in ids]
    assert texts[0] == texts[1]


def test_a_running_job_can_be_cancelled(up: Home) -> None:
    # It would go on for 100 s, so it is still running when the cancellation comes, however busy the machine is.
    job_id = submit(up.url, model=f"file:{up.folder}/models/slow.scripted.json")
    wait_until(lambda: show(up.url, job_id)["last_seq"] > 3, what="stream")
    cancelled = up.llorch("jobs", "cancel", job_id)
    assert cancelled.returncode == 0, cancelled.said
    frames = read_frames(up.url, job_id)
    check_stream(frames)
    assert frames[-1].data["error"]["code"] == "CANCELLED"
    assert 0 < len([frame for frame in frames if frame.event == "token"]) < 2000
    assert show(up.url, job_id)["status"] == "cancelled"
    assert request("DELETE", f"{up.url}/v2/tasks/{job_id}").status == 200, "cancelling again changes nothing"


def test_lists_and_status_show_what_is_there(up: Home) -> None:
    job_id = submit(up.url)
    read_frames(up.url, job_id)
    assert job_id in up.llorch("jobs", "list").stdout
    assert up.llorch("jobs", "show", job_id, "--json").json["status"] == "completed"
    pools = up.llorch("pool", "list", "--json")
    assert pools.returncode == 0, pools.said
    assert "haiku" in [model["ref"] for model in pools.json["pools"][0]["models"]]


def test_a_second_up_says_that_one_is_running_and_where(up: Home) -> None:
    second = up.run("up")
    assert second.returncode == 75, second.said
    assert up.url in second.said
    assert request("GET", f"{up.url}/livez").status == 200


def test_ctl_finds_a_running_home_without_being_told(up: Home) -> None:
    found = up.run("jobs", "list", program="llorch")
    assert found.returncode == 0, found.said


def test_a_taken_port_makes_up_choose_another_one(home: Home) -> None:
    with taken_port(8080):
        daemon = home.up()
        assert not home.url.endswith(":8080")
        assert home.run("jobs", "list", program="llorch").returncode == 0
    wait_until(lambda: f"{home.url}/v1, with any key" in daemon.said, daemon, "say where clients of OpenAI's API call")
    assert "  llorch chat --model haiku\n" in daemon.said, "what is tried first, as it can be typed"


@pytest.mark.parametrize("whole_group", [True, False], ids=["ctrl-c", "sigterm"])
def test_the_end_of_up_is_the_end_of_everything(home: Home, whole_group: bool) -> None:
    daemon = home.up()
    read_frames(home.url, submit(home.url))
    assert home.workers(), "a worker is there to be ended"
    if whole_group:
        os.killpg(daemon.pid, signal.SIGINT)
    else:
        daemon.send(signal.SIGTERM)
    assert daemon.wait(60.0) in ({0, 130} if whole_group else {0}), daemon.said
    assert [process.as_dict(["pid", "ppid", "status", "cmdline"]) for process in home.processes()] == []
    assert "Traceback" not in daemon.said


def test_no_process_is_left_even_where_up_is_killed(home: Home) -> None:
    daemon = home.up()
    read_frames(home.url, submit(home.url))
    daemon.kill()
    wait_until(lambda: not home.processes(), what="be gone", timeout_s=40.0)
