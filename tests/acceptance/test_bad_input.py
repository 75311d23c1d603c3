"""Everything that people and programs get wrong: each has a code, a sentence that says what to do, and its exit code.

Every command is run twice: as a person would, which must show one sentence and no traceback, and with `--json`, which must show
the code. A job that was accepted before all of it is finished after all of it.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.home import Finished, Home, free_port, taken_port, wait_until
from tests.support.jobs import check_stream, long_job, read_frames, show, submit, text_of, wait_ended
from tests.support.raw_http import Answer, request
from tests.support.scripted_models import write_script

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "rbees" / "host" / "data" / "models" / "haiku.gguf"
NO_JOB = "job-00000000000000000000000000"
MESSAGES = [{"role": "user", "content": "write a haiku with the word honey"}]


@dataclass(frozen=True)
class Slip:
    """A command with something wrong in it, and what must come of it."""

    command: str
    code: str
    exit_code: int
    says: str
    """A pattern that the sentence must match: what is wrong or what to do."""
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Body:
    """A request body with something wrong in it."""

    raw: bytes
    status: int
    code: str
    says: str


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """orcd and a pool with a folder of damaged models. The pool gets its first job before any test and must still hold it after."""
    models = tmp_path_factory.mktemp("models")
    whole = SHIPPED.read_bytes()
    (models / "truncated.gguf").write_bytes(whole[: len(whole) // 2])
    (models / "headless.gguf").write_bytes(whole[:20])
    (models / "letter.gguf").write_text("Dear model, please be a model.\n" * 50)
    (models / "empty.gguf").write_bytes(b"")
    (models / "renamed.txt").write_bytes(whole)
    write_script(models, "slow", tokens_per_second=50.0)
    with Home({"MODELS": str(models)}) as home:
        home.serve_orcd()
        witness = submit(home.url, seed=1)
        home.serve_poold(environ={"RBEES_POOLD_MODEL_DIRS": str(models)})
        wait_until(lambda: request("GET", f"{home.url}/v2/pools").json["pools"], what="register its pool")
        yield home
        assert wait_ended(home.url, witness)["status"] == "completed"


def models_of(home: Home) -> str:
    """The folder of damaged models."""
    return home.environ()["MODELS"]


def check_slip(home: Home, slip: Slip, **replaced: str) -> None:
    """Run it for a person and, unless it is a daemon, for a program."""
    program, *words = slip.command.format(**replaced).split()
    environ = {"RBEES_CTL_ORCD_URL": home.url, **slip.environ} if home.url else dict(slip.environ)
    plain = home.run(*words, program=program, environ=environ)
    assert plain.returncode == slip.exit_code, plain.said
    check_sentence(plain, slip.says)
    if "serve" in words:
        assert f"[{slip.code}]" in plain.stderr or slip.exit_code == 2
        return
    for_program = home.run(*words, "--json", program=program, environ=environ)
    error = error_of(for_program)
    assert for_program.returncode == slip.exit_code
    assert error["code"] == slip.code, error
    assert re.search(slip.says, json.dumps(error)), error


def check_sentence(plain: Finished, says: str) -> None:
    """A person sees what is wrong, on standard error, and no internals."""
    assert "Traceback" not in plain.said
    assert not plain.stdout.strip(), "what is wrong belongs on standard error"
    assert re.search(says, " ".join(plain.stderr.split())), plain.stderr


def error_of(done: Finished) -> dict[str, Any]:
    """The error object that a command with `--json` left on standard error."""
    lines = [line for line in done.stderr.splitlines() if line.startswith('{"error"')]
    assert lines, done.said
    error: dict[str, Any] = json.loads(lines[-1])["error"]
    return error


# ---- words and settings that do not exist ------------------------------------------------------------------------------

OFFLINE = [
    Slip("rbees orcdd", "INVALID_REQUEST", 2, "orcd"),
    Slip("rbees frobnicate", "INVALID_REQUEST", 2, "No such command"),
    Slip("rbees orcd srve", "INVALID_REQUEST", 2, "serve"),
    Slip("llorch jobs lst", "INVALID_REQUEST", 2, "list"),
    Slip("llorch jobs list --lmit 3", "INVALID_REQUEST", 2, "--limit"),
    Slip("rbees orcd serve --prot 1", "INVALID_REQUEST", 2, "--port"),
    Slip("rbees orcd serve --port 99999", "CONFIGURATION", 78, "port"),
    Slip("llorch jobs submit --prompt hello", "INVALID_REQUEST", 2, "--model"),
    Slip("rbees config show", "CONFIGURATION", 78, "(?i)did you mean.*port", {"RBEES_ORCD_PROT": "1"}),
    Slip("rbees orcd serve", "CONFIGURATION", 78, "port", {"RBEES_ORCD_PORT": "many"}),
    Slip("rbees orcd serve", "CONFIGURATION", 78, "(?i)token", {"RBEES_ORCD_BIND": "0.0.0.0"}),
    Slip("llorch jobs list", "ORCD_UNREACHABLE", 69, "rbees up", {"RBEES_CTL_ORCD_URL": "http://127.0.0.1:{closed}"}),
    Slip("llorch jobs watch " + NO_JOB, "ORCD_UNREACHABLE", 69, "rbees up", {"RBEES_CTL_ORCD_URL": "http://127.0.0.1:{closed}"}),
    Slip("llorch jobs list", "CONFIGURATION", 78, "orcd_url|url", {"RBEES_CTL_ORCD_URL": "here, please"}),
]


@pytest.mark.parametrize("slip", OFFLINE, ids=lambda slip: f"{slip.command} {' '.join(slip.environ)}".strip())
def test_a_slip_on_the_command_line(home: Home, slip: Slip) -> None:
    environ = {name: value.format(closed=free_port()) for name, value in slip.environ.items()}
    check_slip(home, Slip(slip.command, slip.code, slip.exit_code, slip.says, environ))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[orcd]\nprot = 1\n", "(?i)did you mean.*port"),
        ("[orkd]\nport = 1\n", "(?i)did you mean.*orcd"),
        ("[orcd]\nport = 'many'\n", "port"),
        ("[orcd\nport = 1\n", "(?i)toml|line 1"),
    ],
)
def test_a_slip_in_the_settings_file(home: Home, content: str, says: str) -> None:
    (home.folder / "rbees.toml").write_text(content)
    check_slip(home, Slip("rbees config show", "CONFIGURATION", 78, says))
    check_slip(home, Slip("rbees orcd serve", "CONFIGURATION", 78, "rbees.toml"))


# ---- things that do not exist ------------------------------------------------------------------------------------------

UNKNOWN = [
    Slip(f"llorch jobs show {NO_JOB}", "JOB_NOT_FOUND", 1, "jobs list"),
    Slip(f"llorch jobs watch {NO_JOB}", "JOB_NOT_FOUND", 1, "jobs list"),
    Slip(f"llorch jobs cancel {NO_JOB}", "JOB_NOT_FOUND", 1, "jobs list"),
    Slip("llorch jobs show nonsense", "JOB_NOT_FOUND", 1, "jobs list"),
    Slip("llorch jobs submit --model haiko --prompt hello", "MODEL_NOT_FOUND", 1, "haiku"),
    Slip("llorch jobs submit --model ../haiku --prompt hello", "INVALID_REQUEST", 2, "model reference"),
    Slip("llorch jobs submit --model haiku --temperature 9 --prompt hello", "INVALID_REQUEST", 2, "temperature"),
    Slip("llorch jobs submit --model file:{models}/missing.gguf --prompt hello", "MODEL_NOT_FOUND", 1, "missing.gguf|model"),
    Slip("llorch jobs submit --model file:{models}/truncated.gguf --prompt hello", "MODEL_INCOMPATIBLE", 1, "truncated|beyond|end"),
    Slip("llorch jobs submit --model file:{models}/headless.gguf --prompt hello", "MODEL_INCOMPATIBLE", 1, "end|header"),
    Slip("llorch jobs submit --model file:{models}/letter.gguf --prompt hello", "MODEL_INCOMPATIBLE", 1, "GGUF"),
    Slip("llorch jobs submit --model file:{models}/empty.gguf --prompt hello", "MODEL_INCOMPATIBLE", 1, "GGUF|empty|end"),
    Slip("llorch pool status --host nowhere", "POOL_NOT_FOUND", 1, "pool register"),
    Slip("llorch pool register http://127.0.0.1:{closed}", "POOL_UNREACHABLE", 69, "poold serve"),
]


@pytest.mark.parametrize("slip", UNKNOWN, ids=lambda slip: slip.command)
def test_something_that_is_not_there(lab: Home, slip: Slip) -> None:
    check_slip(lab, slip, models=models_of(lab), closed=str(free_port()))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/v2/tasks/{NO_JOB}", "JOB_NOT_FOUND"),
        (f"/v2/tasks/{NO_JOB}/events", "JOB_NOT_FOUND"),
        ("/v2/pools/nowhere", "POOL_NOT_FOUND"),
        ("/v2/nothing", "NOT_FOUND"),
    ],
)
def test_a_path_that_leads_nowhere(lab: Home, path: str, code: str) -> None:
    check_refusal(request("GET", lab.url + path), 404, code, r"\w")


# ---- bodies that do not fit --------------------------------------------------------------------------------------------


def _job(**fields: object) -> bytes:
    return json.dumps({"model": "haiku", "messages": MESSAGES, **fields}).encode()


BODIES = {
    "wrong type": Body(_job(max_tokens="ten"), 400, "INVALID_REQUEST", "max_tokens"),
    "float for integer": Body(_job(max_tokens=1.5), 400, "INVALID_REQUEST", "max_tokens"),
    "wrong type inside": Body(_job(messages=[{"role": "user", "content": 7}]), 400, "INVALID_REQUEST", r"messages\[.*content"),
    "not an object": Body(b"[]", 400, "INVALID_REQUEST", "object"),
    "NaN": Body(_job(temperature=float("nan")), 400, "INVALID_REQUEST", "JSON"),
    "Infinity": Body(_job(temperature=float("inf")), 400, "INVALID_REQUEST", "JSON"),
    "huge number": Body(b'{"model":"haiku","prompt":"x","temperature":1e999}', 400, "INVALID_REQUEST", "JSON|temperature|finite"),
    "huge integer": Body(_job(seed=10**40), 400, "INVALID_REQUEST", "seed"),
    "out of range": Body(_job(temperature=2.5), 400, "INVALID_REQUEST", "temperature"),
    "negative": Body(_job(max_tokens=-1), 400, "INVALID_REQUEST", "max_tokens"),
    "unknown field": Body(_job(temprature=1), 400, "INVALID_REQUEST", "temprature"),
    "field of a later version": Body(_job(deadline=1000), 400, "INVALID_REQUEST", "deadline"),
    "missing field": Body(b'{"prompt":"x"}', 400, "INVALID_REQUEST", "model"),
    "two prompts": Body(_job(prompt="x"), 400, "INVALID_REQUEST", "exactly one"),
    "no prompt": Body(b'{"model":"haiku"}', 400, "INVALID_REQUEST", "exactly one"),
    "cut off": Body(_job()[:-5], 400, "INVALID_REQUEST", "JSON"),
    "empty": Body(b"", 400, "INVALID_REQUEST", "JSON"),
    "not UTF-8": Body(b'{"model":"\xff\xfe","prompt":"x"}', 400, "INVALID_REQUEST", "UTF-8"),
    "deep": Body(b"[" * 100_000, 400, "INVALID_REQUEST", "nested"),
    "20 MB": Body(_job(messages=[{"role": "user", "content": "x" * 20_000_000}]), 413, "REQUEST_TOO_LARGE", "10485760"),
    "unknown model": Body(_job(model="haiko"), 404, "MODEL_NOT_FOUND", "haiku"),
    "hostile model": Body(_job(model="file:/../../etc/passwd"), 400, "INVALID_REQUEST", "model"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_does_not_fit(lab: Home, name: str) -> None:
    body = BODIES[name]
    before = len(request("GET", f"{lab.url}/v2/tasks?limit=200").json["jobs"])
    check_refusal(request("POST", f"{lab.url}/v2/tasks", raw=body.raw), body.status, body.code, body.says)
    assert len(request("GET", f"{lab.url}/v2/tasks?limit=200").json["jobs"]) == before, "nothing of it was accepted"


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(lab: Home) -> None:
    head = b"POST /v2/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"186a0\r\n" + b" " * 100_000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", int(lab.url.rpartition(":")[2])), timeout=30) as connection:
        # The last piece goes beyond 10 MiB, and no end is sent: the daemon does not wait for one.
        connection.sendall(head + piece * 105)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        check_refusal(Answer(answer.status, dict(answer.getheaders()), answer.read()), 413, "REQUEST_TOO_LARGE", "10485760")
    assert request("GET", f"{lab.url}/livez").status == 200


def test_another_content_type_and_another_method(lab: Home) -> None:
    answer = request("POST", f"{lab.url}/v2/tasks", raw=_job(), headers={"Content-Type": "text/plain"})
    check_refusal(answer, 400, "INVALID_REQUEST", "application/json")
    check_refusal(request("PUT", f"{lab.url}/v2/tasks", raw=_job()), 405, "METHOD_NOT_ALLOWED", "POST")


def test_a_resumption_point_that_is_no_number(lab: Home) -> None:
    job_id = submit(lab.url)
    url = f"{lab.url}/v2/tasks/{job_id}/events"
    check_refusal(request("GET", url, headers={"Last-Event-ID": "five"}), 400, "INVALID_REQUEST", "Last-Event-ID")
    check_refusal(request("GET", f"{url}?after=-1"), 400, "INVALID_REQUEST", "after")
    assert wait_ended(lab.url, job_id)["status"] == "completed"


def check_refusal(answer: Answer, status: int, code: str, says: str) -> None:
    """One envelope with the code, a sentence and a correlation id; no internals."""
    assert answer.status == status, answer.body
    assert answer.error["code"] == code
    assert re.search(says, answer.error["message"]), answer.error
    assert answer.error["message"].endswith((".", "?"))
    assert answer.error["correlation_id"] == {name.lower(): value for name, value in answer.headers.items()}["x-correlation-id"]
    assert b"Traceback" not in answer.body


# ---- daemons that cannot start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["orcd", "poold"])
def test_a_daemon_whose_port_is_taken(home: Home, role: str) -> None:
    before = set(home.folder.rglob("*"))
    with taken_port() as port:
        done = home.run(role, "serve", environ={f"RBEES_{role.upper()}_PORT": str(port)})
    assert done.returncode == 75, done.said
    assert "ADDRESS_IN_USE" in done.stderr
    assert str(port) in done.stderr
    assert "Traceback" not in done.said
    assert set(home.folder.rglob("*")) == before, "a start that fails leaves nothing behind"


def test_a_home_whose_port_is_taken(home: Home) -> None:
    with taken_port() as port:
        done = home.run("up", "--port", str(port))
    assert done.returncode == 75, done.said
    assert "[ADDRESS_IN_USE]" in done.stderr
    assert not [path for path in home.folder.rglob("*") if path.is_file()], "a start that fails leaves nothing behind"


def test_a_second_daemon_on_the_same_state(home: Home) -> None:
    home.serve_orcd()
    done = home.run("orcd", "serve", environ={"RBEES_ORCD_PORT": "0"})
    assert done.returncode == 75, done.said
    assert "ALREADY_RUNNING" in done.stderr
    assert request("GET", f"{home.url}/livez").status == 200


UNREAD_SECRET = "--callback-url=http://127.0.0.1:1/ready"
"""A worker without a secret is refused unless somebody is told of a new one."""


def test_a_worker_whose_secret_nobody_would_know(lab: Home) -> None:
    done = lab.run("workerd", "serve", "--model", str(SHIPPED))
    assert done.returncode == 78, done.said
    assert "--secret-fd 3 3< FILE" in error_of(done)["message"]


@pytest.mark.parametrize(
    ("file", "code", "says"),
    [
        ("missing.gguf", "MODEL_NOT_FOUND", r"\."),
        ("truncated.gguf", "MODEL_INCOMPATIBLE", r"\."),
        ("letter.gguf", "MODEL_INCOMPATIBLE", "GGUF"),
        ("empty.gguf", "MODEL_INCOMPATIBLE", r"\."),
    ],
)
def test_a_worker_started_by_hand_on_a_bad_file(lab: Home, file: str, code: str, says: str) -> None:
    done = lab.run("workerd", "serve", "--model", f"{models_of(lab)}/{file}", "--model-ref", "x", "--device", "cpu", UNREAD_SECRET)
    assert done.returncode == 65, done.said
    error = error_of(done)
    assert error["code"] == code
    assert re.search(says, error["message"])
    assert "Traceback" not in done.said


def test_a_worker_whose_port_is_taken(lab: Home) -> None:
    with taken_port() as port:
        done = lab.run("workerd", "serve", "--model", str(SHIPPED), "--port", str(port), UNREAD_SECRET)
    assert done.returncode == 75, done.said
    assert error_of(done)["code"] == "ADDRESS_IN_USE"


# ---- a host without the llama extra ------------------------------------------------------------------------------------

HIDER = '''
"""Python as it is where the extra `llama` was never installed: the import system finds no llama_cpp."""
import importlib.machinery
import sys


class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "llama_cpp":
            return None
        return super().find_spec(fullname, path, target)


sys.meta_path = [Finder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
'''


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Home]:
    """A home in whose processes llama-cpp-python does not exist."""
    (tmp_path / "sitecustomize.py").write_text(HIDER)
    with Home({"PYTHONPATH": str(tmp_path)}) as home:
        yield home


def test_a_worker_without_the_llama_extra(bare: Home) -> None:
    done = bare.run("workerd", "serve", "--model", str(SHIPPED), UNREAD_SECRET)
    assert done.returncode == 65, done.said
    error = error_of(done)
    assert error["code"] == "BACKEND_UNAVAILABLE"
    assert "[llama]'" in error["message"]


def test_a_job_where_no_host_has_the_llama_extra(bare: Home) -> None:
    bare.serve_orcd()
    bare.serve_poold()
    wait_until(lambda: request("GET", f"{bare.url}/v2/pools").json["pools"], what="register its pool")
    done = bare.llorch("jobs", "submit", "--model", "haiku", "--prompt", "hello", "--json", timeout_s=90)
    error = error_of(done)
    assert done.returncode != 0
    assert "[llama]'" in json.dumps(error), error
    spawned = request("POST", f"{pool_endpoint(bare)}/workers/spawn", {"model_ref": "haiku"})
    check_refusal(spawned, 422, "BACKEND_UNAVAILABLE", r"\[llama\]")


def pool_endpoint(home: Home) -> str:
    """Where this home's pool listens."""
    endpoint: str = request("GET", f"{home.url}/v2/pools").json["pools"][0]["endpoint"]
    return endpoint


# ---- an orchestrator that dies under a client --------------------------------------------------------------------------


def test_an_orcd_killed_during_a_stream_loses_nothing_and_its_watcher_goes_on(home: Home) -> None:
    home.serve_orcd()
    home.serve_poold()
    submitted = [submit(home.url, seed=0), long_job(home.url, seed=1), long_job(home.url, seed=2)]
    watched = submitted[1]
    wait_until(lambda: show(home.url, watched)["last_seq"] > 5, what="stream")
    watching = home.start("jobs", "watch", watched, program="llorch", environ={"RBEES_CTL_ORCD_URL": home.url})
    wait_until(lambda: len(watching.stdout) > 40, watching, "show the answer")
    orcd = home.of_role("orcd")
    orcd.kill()
    psutil.wait_procs([orcd], timeout=10)
    wait_until(lambda: "connection lost" in watching.said, watching, "say that the connection is lost")

    home.serve_orcd(int(home.url.rpartition(":")[2]))

    for job_id in submitted:
        assert wait_ended(home.url, job_id)["status"] == "completed"
        check_stream(read_frames(home.url, job_id))
    assert watching.wait(90) == 0, watching.said
    assert watching.stdout.strip() == text_of(read_frames(home.url, watched)).strip(), "every token once"
    assert "Traceback" not in watching.said


def test_interrupting_a_watcher_leaves_its_job_alone(lab: Home) -> None:
    job_id = long_job(lab.url, seed=4, model=f"file:{models_of(lab)}/slow.scripted.json")
    watching = lab.start("jobs", "watch", job_id, program="llorch", environ={"RBEES_CTL_ORCD_URL": lab.url})
    wait_until(lambda: len(watching.stdout) > 40, watching, "show the answer")
    watching.send(signal.SIGINT)
    assert watching.wait(20) == 130, watching.said
    assert "Traceback" not in watching.said
    assert show(lab.url, job_id)["status"] == "running", "the signal fell into the middle of the answer"
    assert wait_ended(lab.url, job_id)["status"] == "completed"
