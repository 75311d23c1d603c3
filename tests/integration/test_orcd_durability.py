"""What orcd has answered for is on the disk: in which order the kernel is asked, and what a kill, a full disk or an I/O error
leaves behind. strace shows and injects; `make test` installs it.
"""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from rbees.orcd.store.migrations import Migration, migrate, packaged
from tests.support.earlier_schemas import write_jobs
from tests.support.fault_matrix import quantile, reached, size
from tests.support.home import Daemon, Home, entry_point, free_port, is_alive, wait_until
from tests.support.raw_http import Answer, request

JOB = {"model": "haiku", "prompt": "hum"}
SUBMISSIONS = size(64, 1000)
KILLS = 24
JOBS_WRITTEN = (6, 336)
"""How many jobs the first version left, and the bytes of their requests."""


def _strace() -> str:
    found = shutil.which("strace")
    assert found, "strace is missing; install it with `apt-get install strace`"
    return found


def _traced_orcd(home: Home, *options: str) -> tuple[Daemon, Path]:
    """orcd under strace, once it answers, and the file with the trace."""
    trace = home.folder / "trace.txt"
    port = free_port()
    logs = (home.folder / "traced-output.txt", home.folder / "traced-errors.txt")
    with logs[0].open("wb") as output, logs[1].open("wb") as errors:
        process = subprocess.Popen(
            [_strace(), "-f", "-q", "-o", str(trace), *options, *entry_point("rbees"), "orcd", "serve", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=home.environ(),
            cwd=home.folder,
        )
    daemon = Daemon(process, *logs)
    home._daemons.append(daemon)
    home.url = daemon.url = f"http://127.0.0.1:{port}"
    wait_until(lambda: is_alive(daemon.url), daemon, "answer under strace")
    return daemon, trace


def _submit(url: str) -> Answer | None:
    try:
        return request("POST", f"{url}/v2/tasks", JOB)
    except OSError:
        return None


def _end_traced(home: Home, daemon: Daemon) -> int:
    """Stop orcd itself; strace ends with its exit code."""
    home.of_role("orcd").send_signal(signal.SIGTERM)
    return daemon.wait()


def test_no_202_is_sent_before_its_job_is_on_the_disk() -> None:
    with Home() as home:
        calls = "trace=pwrite64,fdatasync,fsync,write,writev,sendto,sendmsg"
        daemon, trace = _traced_orcd(home, "-s", "5000", "-e", calls)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: _submit(daemon.url), range(SUBMISSIONS)))
        accepted = [answer.json["job_id"] for answer in answers if answer is not None and answer.status == 202]
        assert len(accepted) == SUBMISSIONS
        home.of_role("orcd").kill()
        daemon.wait()
        lines = trace.read_text(errors="replace").splitlines()
    synced = [number for number, line in enumerate(lines) if "sync" in line and line.rstrip().endswith("= 0")]
    early = []
    for job_id in accepted:
        written = _first(lines, job_id, "pwrite64(")
        sent = _first(lines, f"/v2/tasks/{job_id}", "HTTP/1.1 202")
        if not any(written < number < sent for number in synced):
            early.append(job_id)
    print(f"{len(accepted)} answers, {len(synced)} syncs")
    reached("early_answer", "answers", len(accepted))
    reached("early_answer", "before_their_sync", len(early), goal=0)


def _first(lines: list[str], holds: str, call: str) -> int:
    return next(number for number, line in enumerate(lines) if call in line and holds in line)


def test_a_full_disk_refuses_new_jobs_and_loses_none() -> None:
    with Home() as home:
        daemon, _ = _traced_orcd(home, "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC:when=200..224")
        accepted: list[str] = []
        refused = after = 0
        for _ in range(200):
            answer = _submit(daemon.url)
            assert answer is not None
            if answer.status == 202:
                accepted.append(answer.json["job_id"])
                after += refused > 0
                if after == 5:
                    break
            else:
                assert (answer.status, answer.error["code"]) == (507, "STORAGE_FULL"), answer.body
                shown = request("GET", f"{daemon.url}/v2/tasks/{accepted[0]}")
                assert shown.status == 200, "reads go on"
                # At the first one: later ones may be asked after the disk has taken something again.
                assert refused or request("GET", f"{daemon.url}/readyz?verbose").status == 503
                refused += 1
        print(f"{len(accepted)} accepted, {refused} refused while the disk was full, {after} accepted after that")
        assert refused
        assert len(accepted) > after == 5
        listed = {job["job_id"] for job in request("GET", f"{daemon.url}/v2/tasks?limit=1000").json["jobs"]}
        assert listed == set(accepted), "what was refused does not exist, what was accepted does"
        reached("disk_full", "refused", refused)
        reached("disk_full", "accepted_and_lost", len(set(accepted) - listed), goal=0)
        assert _end_traced(home, daemon) == 0


def test_a_disk_that_stays_full_does_not_keep_orcd_from_ending() -> None:
    with Home() as home:
        daemon, _ = _traced_orcd(home, "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC:when=200+")
        accepted = []
        while (answer := _submit(daemon.url)) is not None and answer.status == 202:
            accepted.append(answer.json["job_id"])
        assert answer is not None
        assert answer.status == 507
        assert _end_traced(home, daemon) == 0
        home.serve_orcd()
        listed = {job["job_id"] for job in request("GET", f"{home.url}/v2/tasks?limit=1000").json["jobs"]}
        assert listed == set(accepted) != set()


def test_an_io_error_ends_the_process_with_74_and_keeps_what_was_accepted() -> None:
    with Home() as home:
        daemon, _ = _traced_orcd(home, "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=30+")
        accepted = []
        while (answer := _submit(daemon.url)) is not None and answer.status == 202:
            accepted.append(answer.json["job_id"])
            assert len(accepted) < 200, "no error was injected"
        assert daemon.wait() == 74
        assert "storage_broken" in daemon.said
        home.serve_orcd()
        listed = {job["job_id"] for job in request("GET", f"{home.url}/v2/tasks?limit=1000").json["jobs"]}
        print(f"{len(accepted)} accepted before the error, {len(listed)} there after it")
        assert accepted
        reached("io_error", "accepted_before", len(accepted))
        reached("io_error", "accepted_and_lost", len(set(accepted) - listed), goal=0)


def test_a_disk_that_takes_long_to_sync_only_takes_long() -> None:
    slow_s = 0.2
    with Home() as home:
        delay = f"inject=fdatasync:delay_enter={slow_s * 1e6:.0f}:when=10+"
        daemon, _ = _traced_orcd(home, "-e", "trace=fdatasync", "-e", delay)
        times, jobs = [], size(40, 400)

        def submit(_: int) -> str:
            begun = time.monotonic()
            answer = _submit(daemon.url)
            times.append(time.monotonic() - begun)
            assert answer is not None
            assert answer.status == 202, answer.body
            job_id: str = answer.json["job_id"]
            return job_id

        with ThreadPoolExecutor(8) as threads:
            accepted = list(threads.map(submit, range(jobs)))
        assert quantile(times, 0.9) > slow_s, "the delay was felt"
        home.of_role("orcd").kill()
        daemon.wait()
        home.serve_orcd()
        listed = {job["job_id"] for job in request("GET", f"{home.url}/v2/tasks?limit=1000").json["jobs"]}
        reached("slow_sync", "accepted_and_lost", len(set(accepted) - listed), goal=0)
        # One that is under way when a job comes, one of its own, and what else the daemon has to write meanwhile.
        reached("slow_sync", "answer_p99", quantile(times, 0.99) / slow_s, "syncs", goal=4.0, strict=False)


_MIGRATING = """
import sqlite3, sys
from rbees.orcd.store.migrations import Migration, migrate, packaged
first = packaged()
more = tuple(
    Migration(n, f"step_{n}", f"CREATE TABLE step_{n} (x);"
        f"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000) INSERT INTO step_{n} SELECT x FROM c;"
        f"CREATE INDEX step_{n}_x ON step_{n} (x);")
    for n in range(len(first) + 1, 121)
)
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("PRAGMA synchronous = FULL")
print("begins", flush=True)
migrate(connection, first + more)
print("done", flush=True)
"""


def test_a_migration_killed_at_any_moment_leaves_the_old_schema_or_the_new(tmp_path: Path) -> None:
    draw = random.Random(7)
    path = tmp_path / "orcd.db"
    hits = 0
    for number in range(4 * KILLS):
        early = number % 2 == 0
        if early:
            _write_first_schema(path)  # The migrations that are packaged take a few milliseconds, those behind them longer.
        child = subprocess.Popen([sys.executable, "-c", _MIGRATING, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "begins\n"
        time.sleep(draw.uniform(0.0, 0.012 if early else 0.12))
        child.kill()
        finished = "done" in child.stdout.read()
        child.stdout.close()
        child.wait()
        version = _check_schema(path)
        if finished:
            _write_first_schema(path)
        else:
            hits += 1
            print(f"killed while migrating; schema {version} stands")
        if hits == KILLS:
            reached("migration", "kills", hits)
            reached("migration", "schemas_between", 0, goal=0)
            return
    pytest.fail(f"only {hits} of {4 * KILLS} kills fell into a migration")


def _write_first_schema(path: Path) -> None:
    """A file as the first version left it, with jobs in it: every migration since then finds rows to change."""
    for left in path.parent.glob(f"{path.name}*"):
        left.unlink()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, packaged()[:1])
        write_jobs(connection, 1)


def _check_schema(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        (version,) = connection.execute("SELECT max(version) FROM schema_versions").fetchone()
        known = packaged()[:version]
        assert _columns(connection) == _columns_of(known), "the old schema or the new one, and nothing between"
        assert connection.execute("SELECT count(*), sum(length(request)) FROM jobs").fetchone() == JOBS_WRITTEN
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        steps = sorted(int(name.removeprefix("step_")) for name in names if name.startswith("step_"))
        assert steps == list(range(len(packaged()) + 1, version + 1))
        for step in steps:
            assert connection.execute(f"SELECT count(*), sum(x) FROM step_{step}").fetchone() == (20_000, 200_010_000)
        return int(version)
    finally:
        connection.close()


def _columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """The columns of orcd's own tables."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {
        name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
        for name in sorted(names)
        if not name.startswith(("step_", "sqlite_"))
    }


def _columns_of(migrations: tuple[Migration, ...]) -> dict[str, list[str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, migrations)
        return _columns(connection)
