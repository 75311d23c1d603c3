"""Records and logs of workers on disk."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from rbees.host import process, process_table, worker_log
from rbees.host.lifecycle import Life
from rbees.host.process import (
    Exit,
    Identity,
    StrayReaper,
    WorkerFinder,
    WorkerProcess,
    as_exit,
    identify,
    is_running,
    send_signal,
)
from rbees.host.process_table import KEPT_LOGS, EndedWorker, ProcessRecord, ProcessTable
from rbees.host.table_lock import TableLock
from rbees.host.worker_facts import facts_of
from rbees.host.worker_spec import WorkerSpec
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import WorkerEnd
from tests.unit.host.test_host_worker_spec import SPEC

RECORD = ProcessRecord(spec=SPEC, reserved_bytes=1, started_at_ms=2)


def test_records_survive_and_are_replaced(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    table.write(RECORD)
    complete = msgspec.structs.replace(RECORD, pid=7, started="x", was_ready=True)
    table.write(complete)
    assert ProcessTable(tmp_path).load() == (complete,)
    table.remove(SPEC.worker_id)
    table.remove(SPEC.worker_id)
    assert table.load() == ()


def test_damaged_records_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "worker-a.json").write_bytes(b'{"spec": ')
    (tmp_path / "worker-b.json").write_bytes(b"\xff")
    (tmp_path / "worker-c.new").write_bytes(b"{}")
    assert ProcessTable(tmp_path).load() == ()
    assert not list(tmp_path.glob("*.json"))


def test_only_the_newest_logs_without_a_record_are_kept(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    table.write(RECORD)
    table.log_path(SPEC.worker_id).touch()
    os.utime(table.log_path(SPEC.worker_id), (0, 0))
    for age in range(KEPT_LOGS + 3):
        log = tmp_path / f"worker-{age}.log"
        log.touch()
        os.utime(log, (1000 + age, 1000 + age))
    table.drop_old_logs()
    left = {path.name for path in tmp_path.glob("*.log")}
    assert len(left) == KEPT_LOGS + 1
    assert {"worker-0.log", "worker-2.log"}.isdisjoint(left)
    assert table.log_path(SPEC.worker_id).name in left
    assert process_table.KEPT_LOGS == KEPT_LOGS


def test_a_process_is_named_by_its_id_and_its_start() -> None:
    own = identify(os.getpid())
    assert own is not None
    assert own == identify(os.getpid())
    assert is_running(own)
    assert not is_running(Identity(own.pid, "another start"))
    assert not send_signal(Identity(own.pid, "another start"), signal.SIGKILL)
    assert identify(2**22 + 1) is None


def test_exit_status() -> None:
    assert as_exit(0) == Exit(exit_code=0)
    assert as_exit(65) == Exit(exit_code=65)
    assert as_exit(-signal.SIGSEGV) == Exit(signal="SIGSEGV")
    assert as_exit(-35) == Exit(signal="SIG35")


def test_the_tail_of_a_log_and_the_error_in_it(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert worker_log.tail(log) == ()
    log.write_text("\n".join(f"line {number}" for number in range(100)) + "\n")
    assert worker_log.tail(log) == tuple(f"line {number}" for number in range(80, 100))
    log.write_bytes(b"x" * 100_000 + b"\nlast \xff\n")
    assert worker_log.tail(log) == ("last �",)
    lines = (
        '{"error": 3}',
        '{"error":{"code":"MODEL_INCOMPATIBLE","message":"No."}}',
        "{}",
        '{"error":{"code":"NEW_ONE","message":""}}',
    )
    found = worker_log.last_error(lines)
    assert found is not None
    assert (found.code, found.message) == (ErrorCode.MODEL_INCOMPATIBLE, "No.")
    assert worker_log.last_error(("nothing",)) is None


def test_the_fault_that_a_worker_named_as_it_died(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert worker_log.last_signal(log) is None
    faulty = (
        "import faulthandler, os, signal, sys; faulthandler.enable(all_threads=False); print('{}', file=sys.stderr, flush=True); "
        "os.kill(os.getpid(), getattr(signal, sys.argv[1]))"
    )
    for name in ("SIGSEGV", "SIGILL", "SIGBUS", "SIGABRT", "SIGFPE"):
        with log.open("wb") as output:
            done = subprocess.run([sys.executable, "-c", faulty, name], stderr=output, check=False)
        assert as_exit(done.returncode) == Exit(signal=name)
        assert worker_log.last_signal(log) == name, log.read_text()
    log.write_text("Fatal Python error: Aborted\n{}\nlibrary: words\n")
    assert worker_log.last_signal(log) is None


async def test_following_a_log_until_it_is_over(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("one\n")
    answers = iter([False, True, True])
    chunks = [chunk async for chunk in worker_log.follow(log, lambda: next(answers))]
    assert b"".join(chunks) == b"one\n"
    assert worker_log.read_all(log) == b"one\n"


def test_only_the_last_part_of_a_long_log_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"".join(b"line %07d\n" % number for number in range(200_000)))
    shown = worker_log.read_all(log)
    assert len(shown) <= 1 << 20
    assert shown.startswith(b"line ")
    assert shown.endswith(b"line 0199999\n")


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    (tmp_path / f"{SPEC.worker_id}.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        table.write(RECORD)
    assert [path.name for path in tmp_path.iterdir()] == [f"{SPEC.worker_id}.json"]
    assert table.load() == ()


def test_records_are_private(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    table.write(RECORD)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.glob("*.json")] == [0o600]


def _start_child() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)


def _no_descriptor(pid: int) -> None:
    """As on macOS, on kernels before 5.3, and where a sandbox forbids the call."""


@pytest.mark.parametrize("with_descriptors", [True, False])
async def test_processes_are_signalled_and_awaited(monkeypatch: pytest.MonkeyPatch, with_descriptors: bool) -> None:
    if not with_descriptors:
        monkeypatch.setattr(process, "_open_descriptor", _no_descriptor)
    monkeypatch.setattr(process, "POLL_S", 0.001)
    child = _start_child()
    identity = identify(child.pid)
    assert identity is not None
    own, adopted = WorkerProcess(identity, child), WorkerProcess(identity)
    waits = [asyncio.create_task(adopted.wait()), asyncio.create_task(own.wait())]
    await asyncio.wait(waits, timeout=0.01)
    assert not any(wait.done() for wait in waits)
    assert own.signal(signal.SIGTERM)
    assert [await wait for wait in waits] == [Exit(), Exit(signal="SIGTERM")]
    assert not own.signal(signal.SIGTERM)
    assert child.stdin is not None
    child.stdin.close()


async def test_a_flood_is_cut_down_to_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "w.log"
    with log.open("ab", buffering=0) as worker:
        worker.write(b"short\n")
        assert not worker_log.shorten(log)
        worker.write(b"".join(b"line %07d\n" % number for number in range(300_000)))
        follower = worker_log.follow(log, lambda: True)
        assert (await anext(follower)).startswith(b"line 0")
        assert worker_log.shorten(log, limit_bytes=3 << 20)
        assert log.stat().st_size <= 1 << 20
        worker.write(b"after\n")
    # Who follows goes on with what there is now instead of waiting for the old length.
    rest = b"".join([chunk async for chunk in follower])
    assert rest.endswith(b"line 0299999\nafter\n")
    assert log.read_bytes().startswith(b"line 0")
    assert len(worker_log.read_all(log)) <= 1 << 20
    assert not worker_log.shorten(tmp_path / "none.log")


def test_a_record_says_what_is_set_aside_on_each_device() -> None:
    spread = msgspec.structs.replace(RECORD, reserved_bytes=5, reserved={"cuda:0": 3, "cuda:1": 2})
    assert [spread.reserved_on(device) for device in ("cuda:0", "cuda:1", "cpu")] == [3, 2, 0]
    earlier = msgspec.structs.replace(RECORD, reserved_bytes=6)
    assert [earlier.reserved_on(device) for device in ("cpu", "cuda:0")] == [6, 0]


def test_what_it_measured_counts_once_it_has_measured() -> None:
    spec = msgspec.structs.replace(SPEC, device="cuda:0,cuda:1")
    loading = ProcessRecord(spec=spec, reserved_bytes=110, reserved={"cuda:0": 75, "cuda:1": 25, "cpu": 10}, started_at_ms=1)
    assert [loading.held_on(device) for device in ("cuda:0", "cuda:1", "cpu", "cuda:2")] == [75, 25, 10, 0]
    loaded = msgspec.structs.replace(loading, measured_bytes=80)
    # Of what stays in main memory beside them it says nothing, so that is held as it was reckoned.
    assert [loaded.held_on(device) for device in ("cuda:0", "cuda:1", "cpu", "cuda:2")] == [60, 20, 10, 0]
    silent = msgspec.structs.replace(loading, measured_bytes=0)
    assert silent.held_on("cuda:0") == 75
    unreckoned = msgspec.structs.replace(loaded, reserved_bytes=0, reserved={})
    assert unreckoned.held_on("cuda:1") == 40


def ended(worker_id: str) -> EndedWorker:
    end = WorkerEnd(message="It was stopped.", ended_at_ms=5)
    facts = facts_of(RECORD, Life("stopped"), end=end)
    return EndedWorker(facts=msgspec.structs.replace(facts, worker_id=worker_id), while_loading=False, told=True)


def test_how_a_worker_ended_is_kept_as_long_as_its_log(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    for age in range(KEPT_LOGS + 2):
        table.write_ended(ended(f"worker-{age}"))
        table.log_path(f"worker-{age}").touch()
        for path in tmp_path.glob(f"worker-{age}.*"):
            os.utime(path, (1000 + age, 1000 + age))
    (tmp_path / "worker-x.ended").write_bytes(b"\xff")
    (tmp_path / "worker-y.json.7.new").touch()
    os.utime(tmp_path / "worker-y.json.7.new", (1, 1))
    assert len(table.load_ended()) == KEPT_LOGS + 2
    assert not (tmp_path / "worker-x.ended").exists()
    table.drop_old_logs()
    assert table.ended_of("worker-1") is None
    assert not table.log_path("worker-1").exists()
    assert table.ended_of("worker-2") == ended("worker-2")
    assert not list(tmp_path.glob("*.new"))
    assert [one.facts.worker_id for one in table.load_ended([f"worker-{age}" for age in range(KEPT_LOGS + 1)])] == ["worker-51"]


async def test_the_table_has_one_holder(tmp_path: Path) -> None:
    mine, theirs = TableLock(tmp_path / "lock"), TableLock(tmp_path / "lock")
    await mine.acquire()
    assert not await mine.try_acquire()
    assert not await theirs.try_acquire()
    with pytest.raises(RbeesError, match=f"pid {os.getpid()}") as caught:
        await theirs.acquire(patience_s=0.01)
    assert caught.value.code is ErrorCode.ALREADY_RUNNING
    waiting = asyncio.create_task(theirs.acquire())
    await asyncio.sleep(0)
    mine.release()
    await waiting
    assert not await mine.try_acquire()
    theirs.release()
    assert await mine.try_acquire()
    mine.release()


def test_workers_are_found_by_their_mark_and_others_asked_no_more_than_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = msgspec.structs.replace(SPEC, nonce="mark-1")
    specs = {1: None, 2: ours, 3: msgspec.structs.replace(SPEC, nonce="other-1"), 4: None}
    asked: list[int] = []

    def spec_of(pid: int) -> WorkerSpec | None:
        asked.append(pid)
        return specs[pid]

    monkeypatch.setattr(process, "_spec_of", spec_of)
    monkeypatch.setattr(process, "identify", lambda pid: Identity(pid, "now"))
    monkeypatch.setattr("psutil.pids", lambda: list(specs))
    finder = WorkerFinder("mark")
    assert finder.look() == [(Identity(2, "now"), ours)]
    specs[4] = ours  # It was seen between its fork and its exec.
    assert {identity.pid for identity, _ in finder.look()} == {2, 4}
    asked.clear()
    specs[5] = None
    assert {identity.pid for identity, _ in finder.look()} == {2, 4}
    assert sorted(asked) == [2, 4, 5]


def test_a_child_that_nobody_waits_for_is_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_STRAY_S", 0.01)
    child = subprocess.Popen(["/bin/true"])
    reaper = StrayReaper()
    until_s = time.monotonic() + 20
    while Path(f"/proc/{child.pid}").exists():
        assert time.monotonic() < until_s
        reaper.look()
        time.sleep(0.02)
    child.returncode = 0  # Its object would look for a status that is taken.


async def test_a_follower_knows_its_place_in_a_log_that_was_cut_or_replaced(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    lines = [f"line {number:07d}" for number in range(150_000)]
    log.write_text("\n".join(lines[:100_000]) + "\n")
    over = False
    seen: list[str] = []

    async def read() -> None:
        seen.extend([line async for line in worker_log.lines_of(worker_log.follow(log, lambda: over))])

    reading = asyncio.create_task(read())
    chunks = worker_log.follow(log, lambda: over)
    shown = b""
    while not shown.endswith(b"line 0099999\n"):
        shown += await anext(chunks)
    assert worker_log.shorten(log, limit_bytes=1000)
    with log.open("a") as file:
        file.write("\n".join(lines[100_000:120_000]) + "\n")
    while not shown.endswith(b"line 0119999\n"):
        shown += await anext(chunks)
    replacement = tmp_path / "new.log"
    replacement.write_text("\n".join(lines[110_000:]) + "\nno end")
    replacement.replace(log)
    while not shown.endswith(b"no end"):
        shown += await anext(chunks)
    over = True
    assert [chunk async for chunk in chunks] == []
    found = shown.decode().splitlines()
    first = int(found[0].removeprefix("line "))
    assert found == [*lines[first:], "no end"]
    await reading
    assert seen[-1] == "no end"


async def test_a_line_without_end_is_shown_in_pieces() -> None:
    words = "t" + "wörter" * 600_000
    content = f"one\n{words}\n\nlast".encode()
    given = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal given
        while given < len(content):
            given += 60_000
            yield content[given - 60_000 : given]

    lines = []
    async for line in worker_log.lines_of(chunks()):
        lines.append(line)
        assert len(line.encode()) <= worker_log.MAX_LINE_BYTES, "its end is not waited for"
    assert (lines[0], lines[-2:]) == ("one", ["", "last"])
    assert "".join(lines[1:-2]) == words, "nothing is lost, and no letter is cut in two"
