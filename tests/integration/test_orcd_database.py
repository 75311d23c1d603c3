"""`rbees orcd db` against real daemons: a backup under load that another orcd goes on from, troubles, and ends in its middle."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from rbees.clients.orcd import OrcdClient
from rbees.orcd.store.migrations import migrate, packaged
from rbees.protocol.errors import ErrorCode, RbeesError
from tests.support.earlier_schemas import write_jobs
from tests.support.home import Home, wait_until
from tests.support.jobs import bytes_of, check_stream, read_frames, text_of, wait_ended
from tests.support.orcd_cluster import Follower, cluster
from tests.support.raw_http import request

JOBS = 16
SHORT_TOKENS = 20
LONG_PROMPT_BYTES = 1_000_000


def _database(home: Home) -> Path:
    return home.folder / "orcd" / "orcd.db"


def _now_ms() -> int:
    return int(time.time() * 1000)


def _restore(home: Home, backup: Path) -> None:
    """Put a backup in the place of the state, as docs/backup.md says."""
    for name in ("orcd.db", "orcd.db-wal", "orcd.db-shm"):
        (home.folder / "orcd" / name).unlink(missing_ok=True)
    shutil.copy(backup, _database(home))


def test_a_backup_under_load_holds_every_job_and_another_orcd_goes_on_from_it() -> None:
    with cluster() as c:
        undisturbed, short = c.text(), c.text(max_tokens=SHORT_TOKENS)
        ended = c.submit(max_tokens=SHORT_TOKENS)
        before = bytes_of(read_frames(c.url, ended))
        follower = Follower(c.url, c.submit())
        follower.read(until_tokens=20)
        with ThreadPoolExecutor(4) as pool:
            accepted = list(pool.map(lambda _: c.submit(max_tokens=SHORT_TOKENS), range(JOBS)))
            later = pool.submit(lambda: [c.submit(max_tokens=SHORT_TOKENS) for _ in range(JOBS)])
            backup = c.home.folder / "backup.db"
            begun_s = time.perf_counter()
            made = c.home.run("orcd", "db", "backup", str(backup), "--json")
            took_s = time.perf_counter() - begun_s
            while_it_ran = later.result()
        assert made.returncode == 0, made.said
        assert made.json["report"]["troubles"] == []
        assert made.json["size_bytes"] == backup.stat().st_size
        assert backup.stat().st_mode & 0o777 == 0o600
        assert [path.name for path in c.home.folder.iterdir() if ".part" in path.name] == []
        follower.read()
        check_stream(follower.frames)
        assert (follower.text, follower.breaks) == (undisturbed, 0)
        checked = c.home.run("orcd", "db", "check", "--json")
        assert (checked.returncode, checked.json["troubles"]) == (0, []), checked.said

        c.orcd.kill()
        _restore(c.home, backup)
        checked = c.home.run("orcd", "db", "check", "--json")
        assert (checked.returncode, checked.json["jobs"]) == (0, made.json["report"]["jobs"]), checked.said
        c.start_orcd()
        wait_until(c.pools, c.orcd, "hear of the pool")
        known = {job["job_id"] for job in request("GET", f"{c.url}/v2/tasks?limit=1000").json["jobs"]}
        assert {ended, follower.job_id, *accepted} <= known
        report = made.json["report"]
        print(
            f"{made.json['size_bytes']} bytes with {report['jobs']} jobs, {report['unended_jobs']} not ended, in {took_s:.2f} s;"
            f" {len(known & set(while_it_ran))} of {JOBS} jobs that came meanwhile are in it"
        )
        assert bytes_of(read_frames(c.url, ended)) == before
        for job_id in known:
            assert wait_ended(c.url, job_id)["status"] == "completed"
        for job_id in (follower.job_id, *accepted):
            frames = read_frames(c.url, job_id)
            check_stream(frames)
            assert text_of(frames) == (undisturbed if job_id == follower.job_id else short)
        checked = c.home.run("orcd", "db", "check", "--json")
        assert (checked.returncode, checked.json["troubles"], checked.json["unended_jobs"]) == (0, [], 0), checked.said


def test_streams_go_on_while_a_large_database_is_copied() -> None:
    with cluster(tokens_per_second=100.0) as c:
        c.orcd.stop()
        _grow(_database(c.home), 64 * 1024 * 1024)
        c.start_orcd()
        wait_until(c.pools, c.orcd, "hear of the pool")
        alone = c.text(max_tokens=100, ignore_eos=True)
        # It is in mid-stream for longer than any copy takes.
        follower = Follower(c.url, c.submit(max_tokens=3000, ignore_eos=True))
        follower.read(until_tokens=20)
        reading = threading.Thread(target=follower.read, daemon=True)
        reading.start()
        backup = c.home.folder / "backup.db"
        command = c.home.start("orcd", "db", "backup", str(backup))
        copies = partial(_copies, c.home)
        wait_until(copies, command, "begin to copy")
        before = follower.tokens
        wait_until(lambda: not copies(), command, "end the copy")
        meanwhile = follower.tokens - before
        assert command.wait() == 0, command.said
        print(f"{meanwhile} tokens came while {backup.stat().st_size >> 20} MiB were copied")
        assert meanwhile >= 10, "a hundred come in a second, and the pauses of the copy alone take one"
        assert request("DELETE", f"{c.url}/v2/tasks/{follower.job_id}").status == 202
        reading.join(60.0)
        assert follower.text.startswith(alone)


def _copies(home: Home) -> list[Path]:
    """What orcd copies to until the copy is whole."""
    return list((home.folder / "orcd").glob("orcd.db.copy-*"))


def _grow(path: Path, size_bytes: int) -> None:
    """Make a database as large as one that has seen much: ended jobs with long prompts."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN")
        write_jobs(connection, len(packaged()), at_ms=_now_ms())
        connection.execute("DELETE FROM jobs WHERE job_id != 'job-completed'")
        columns = [row[1] for row in connection.execute("PRAGMA table_info(jobs)")]
        kept = ", ".join(name for name in columns if name not in {"number", "job_id", "request", "idempotency_key"})
        (number,) = connection.execute("SELECT number FROM jobs WHERE job_id = 'job-completed'").fetchone()
        for copy in range(size_bytes // LONG_PROMPT_BYTES):
            long = json.dumps({"model": "bees", "prompt": "x" * LONG_PROMPT_BYTES}).encode()
            made = connection.execute(
                f"INSERT INTO jobs (job_id, request, {kept}) SELECT ?, ?, {kept} FROM jobs WHERE number = ?",
                (f"{copy}", long, number),
            ).lastrowid
            connection.execute(
                "INSERT INTO journal SELECT ?, first_seq, last_seq, epoch, worker_seq, frames FROM journal WHERE job = ?",
                (made, number),
            )
            connection.execute(
                "INSERT INTO attempts (job, epoch, worker_id, pool_id, started_at_ms, outcome)"
                " VALUES (?, 1, 'worker-a', 'pool', 2, 'completed')",
                (made,),
            )
        connection.execute("COMMIT")


def test_a_database_of_the_first_schema_is_served_and_its_jobs_run() -> None:
    with cluster() as c:
        sha256 = next(model["sha256"] for model in c.pools()[0]["models"] if c.model in {model["ref"], *model["aliases"]})
        c.orcd.stop()
        _database(c.home).unlink()
        with closing(sqlite3.connect(_database(c.home), isolation_level=None)) as connection:
            migrate(connection, packaged()[:1])
            write_jobs(connection, 1, c.model, model_sha256=sha256, at_ms=_now_ms())
        checked = c.home.run("orcd", "db", "check", "--json")
        assert (checked.returncode, checked.json["schema_version"]) == (0, 1), checked.said
        c.start_orcd(SUSPECT_AFTER_S="3", LOST_AFTER_S="4")  # One of them waits for a worker that is gone.
        for name, status in (
            ("queued", "completed"),
            ("running", "completed"),
            ("requeued", "completed"),
            ("cancelling", "cancelled"),
            ("completed", "completed"),
            ("failed", "failed"),
        ):
            assert wait_ended(c.url, f"job-{name}")["status"] == status, name
            check_stream(read_frames(c.url, f"job-{name}"))
        checked = c.home.run("orcd", "db", "check", "--json")
        assert (checked.returncode, checked.json["schema_version"]) == (0, len(packaged())), checked.said


def test_trouble_is_told_by_job_and_a_copy_with_trouble_is_not_kept() -> None:
    with Home() as home:
        home.serve_orcd().stop()
        with closing(sqlite3.connect(_database(home), isolation_level=None)) as connection:
            write_jobs(connection, len(packaged()), at_ms=_now_ms())
            connection.execute("DELETE FROM journal WHERE job = 1")
        backup = home.folder / "backup.db"
        for running in (False, True):
            if running:
                # A job without events cannot be taken up, and the others have nowhere to run.
                home.serve_orcd()
            checked = home.run("orcd", "db", "check")
            assert checked.returncode == 1
            assert "job job-queued: it has no events\n" in checked.stdout
            assert checked.stdout.endswith("; 1 trouble found.\n")
            told = home.run("orcd", "db", "check", "--json")
            assert (told.returncode, told.json["troubles"]) == (1, [{"job_id": "job-queued", "what": "it has no events"}])
            made = home.run("orcd", "db", "backup", str(backup))
            assert made.returncode == 1
            assert "1 trouble found in the copy, which was not kept" in made.stdout
            assert not backup.exists()


def test_a_backup_is_not_written_over_and_not_into_the_state() -> None:
    with Home() as home:
        home.serve_orcd()
        backup = home.folder / "backup.db"
        backup.write_bytes(b"mine")
        refused = home.run("orcd", "db", "backup", str(backup), "--json")
        assert (refused.returncode, json.loads(refused.stderr)["error"]["code"]) == (2, "INVALID_REQUEST")
        assert backup.read_bytes() == b"mine"
        assert home.run("orcd", "db", "backup", str(backup), "--force").returncode == 0
        assert backup.read_bytes().startswith(b"SQLite format 3")
        assert home.run("orcd", "db", "backup", "--force", str(_database(home))).returncode == 2
        assert home.run("orcd", "db", "backup", "/nowhere/backup.db").returncode == 2
        assert home.run("orcd", "db", "check", "--state-dir", "/nowhere").returncode == 78


def test_an_orcd_that_dies_while_it_copies_leaves_nothing_and_the_command_goes_on_without_it() -> None:
    with Home() as home:
        home.serve_orcd().stop()
        _grow(_database(home), 64 * 1024 * 1024)
        orcd = home.serve_orcd()
        backup = home.folder / "backup.db"
        command = home.start("orcd", "db", "backup", str(backup))
        state = home.folder / "orcd"
        wait_until(lambda: [1 for part in _copies(home) if part.stat().st_size > 1 << 23], command, "copy")
        orcd.kill()
        (part,) = _copies(home)
        print(f"killed after {part.stat().st_size >> 20} of {_database(home).stat().st_size >> 20} MiB")
        assert command.wait() == 0, command.said
        assert backup.stat().st_size >= 64 * 1024 * 1024
        home.serve_orcd()
        assert [path.name for path in state.iterdir() if ".copy-" in path.name] == []


def test_ctrl_c_ends_a_backup_and_leaves_nothing() -> None:
    with Home() as home:
        home.serve_orcd().stop()
        _grow(_database(home), 64 * 1024 * 1024)
        orcd = home.serve_orcd()
        command = home.start("orcd", "db", "backup", str(home.folder / "backup.db"))
        wait_until(lambda: _copies(home), command, "begin to copy")
        command.send(signal.SIGINT)
        assert command.wait() == 130, command.said
        wait_until(lambda: not _copies(home), orcd, "call the copy off")
        assert [path.name for path in home.folder.iterdir() if "backup.db" in path.name] == []


def test_the_state_of_home_mode_is_found_where_there_is_no_other() -> None:
    with Home() as home:
        up = home.folder / "up"
        up.mkdir(mode=0o700)
        home.serve_orcd(environ={"RBEES_HOME": str(up)})
        checked = home.run("orcd", "db", "check", "--json")
        assert (checked.returncode, checked.json["jobs"]) == (0, 0), checked.said


def test_an_orcd_with_a_token_is_asked_with_it() -> None:
    with Home() as home:
        token = home.folder / "token"
        token.write_text("rbk_" + "a" * 43)
        token.chmod(0o600)
        home.serve_orcd(environ={"RBEES_ORCD_TOKEN_FILE": str(token)})
        refused = home.run("orcd", "db", "check")
        assert refused.returncode == 77, refused.said
        assert "RBEES_ORCD_TOKEN_FILE" in refused.stderr
        assert home.run("orcd", "db", "check", environ={"RBEES_ORCD_TOKEN_FILE": str(token)}).returncode == 0
        assert request("POST", f"{home.url}/v2/database/backup").status == 401


@pytest.mark.parametrize(
    ("length", "digest", "code"),
    [
        (4, hashlib.sha256(b"copy").digest(), None),
        (4, hashlib.sha256(b"another").digest(), ErrorCode.INTERNAL),
        (5, hashlib.sha256(b"copy").digest(), ErrorCode.ORCD_UNREACHABLE),
    ],
    ids=["whole", "changed", "cut"],
)
async def test_a_copy_that_was_cut_or_changed_on_its_way_is_noticed(length: int, digest: bytes, code: ErrorCode | None) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        told = base64.b64encode(digest).decode()
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nRepr-Digest: sha-256=:{told}:\r\n\r\ncopy".encode())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        received = bytearray()
        async with OrcdClient(url) as orcd:
            if code is None:
                await orcd.copy_database(received.extend)
                assert received == b"copy"
            else:
                with pytest.raises(RbeesError) as caught:
                    await orcd.copy_database(received.extend)
                assert caught.value.code is code
