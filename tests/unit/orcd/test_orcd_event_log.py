"""The scheduler's events are written down, and from them every decision can be made again, by another process too."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import pytest

from rbees.orcd.event_log import FILES_KEPT, MAGIC, EventLog, is_whole, open_log, read_log
from rbees.orcd.replay import concerns, lines_of, replay
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import Effect, SpawnWorker
from rbees.orcd.scheduler.events import Event, JobArrived, Moment, PoolForgotten, PoolReported, Ticked
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.errors import ErrorCode, RbeesError
from tests.simulation import shell
from tests.simulation.world import World

LIMIT = 1 << 24


def begin(folder: Path, limit: int = LIMIT, at_ms: int = 1, policy: Policy | None = None) -> EventLog:
    log = open_log(folder, policy or Policy(), limit, at_ms)
    assert log is not None
    return log


def only(folder: Path) -> Path:
    (path,) = folder.glob("*.events")
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of one simulated orcd, which is killed several times and begins a new one each time."""
    folder = tmp_path_factory.mktemp("events")
    logs: list[EventLog] = []

    class Recording(Scheduler):
        def __init__(self, policy: Policy) -> None:
            super().__init__(policy)
            self.log = EventLog((folder / f"{len(logs):03d}.events").open("wb", buffering=0), policy, LIMIT)
            logs.append(self.log)

        def handle(self, event: Event, moment: Moment) -> list[Effect]:
            effects = super().handle(event, moment)
            self.log.record(event, moment, effects)
            return effects

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shell, "Scheduler", Recording)
        World(5).run()
    for log in logs:
        log.close()
    return folder


def test_a_report_of_an_earlier_version_says_nothing_of_contexts() -> None:
    earlier = msgspec.to_builtins(PoolReported("attic", "1", True, (), (), ()))
    del earlier["default_ctx"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(earlier), type=PoolReported).default_ctx == 0


def test_every_decision_of_a_faulty_cluster_is_made_again(recorded: Path) -> None:
    logs = sorted(recorded.glob("*.events"))
    assert len(logs) > 2, "orcd was killed now and then"
    turns = [turn for path in logs for turn in replay(path)]
    assert all(turn.same for turn in turns)
    assert sum(len(turn.effects) for turn in turns) > 100
    assert sum(path.stat().st_size for path in logs) < 80 * len(turns), "compact"


@pytest.mark.parametrize("seed", ["0", "1"])
def test_another_process_decides_the_same(recorded: Path, seed: str) -> None:
    """Where the order of a set of strings mattered, it would not."""
    path = max(recorded.glob("*.events"), key=lambda path: path.stat().st_size)
    words = (sys.executable, "-m", "rbees", "orcd", "replay", str(path))
    ran = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert b"every decision is the same" in ran.stderr
    assert b"-> Dispatch" in ran.stdout


def test_what_a_killed_process_has_flushed_can_be_read(tmp_path: Path) -> None:
    log = begin(tmp_path / "events")
    for second in range(10):
        log.record(Ticked(), Moment(float(second), second, bytes(10)), [])
    path = only(tmp_path / "events")
    left = path.read_bytes()
    log.close()
    path.write_bytes(left)
    assert len(list(replay(path))) == 10, "each of these was flushed, since a second had passed"
    path.write_bytes(left[:-3])
    assert 8 <= len(list(replay(path))) <= 10


def test_a_decision_that_differs_is_told(tmp_path: Path) -> None:
    log = begin(tmp_path / "events")
    log.record(PoolForgotten("a"), Moment(1.0, 1, bytes(10)), [SpawnWorker("a", "w", "m", "0" * 64, "cpu", ("cpu",))])
    log.close()
    (turn,) = replay(only(tmp_path / "events"))
    assert not turn.same
    assert list(lines_of(turn))[-1].endswith("!! the original decided otherwise")


def test_a_job_can_be_followed(recorded: Path) -> None:
    turns = [turn for path in sorted(recorded.glob("*.events")) for turn in replay(path)]
    first = next(turn.event.job.job_id for turn in turns if isinstance(turn.event, JobArrived))
    told = [line for turn in turns if concerns(turn, first) for line in lines_of(turn, first)]
    assert f"job={first}" in told[0]
    assert any("Dispatch" in line for line in told)
    assert not any("job_id=job-9 " in line for line in told)


def test_the_file_is_its_owners_and_old_ones_go(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    for at_ms in range(1, 10):
        begin(folder, at_ms=at_ms).close()
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{at_ms:013d}.events" for at_ms in range(10 - FILES_KEPT - 1, 10)]
    assert stat.S_IMODE((folder / names[0]).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_it_ends_at_its_limit_and_can_still_be_read(tmp_path: Path) -> None:
    log = begin(tmp_path / "events", limit=4_000)
    for second in range(5_000):
        log.record(PoolForgotten(os.urandom(8).hex()), Moment(float(second), second, os.urandom(10)), [])
    log.close()
    assert only(tmp_path / "events").stat().st_size <= 4_000
    assert len(list(replay(only(tmp_path / "events")))) > 20
    assert open_log(tmp_path / "none", Policy(), 0, 1) is None
    assert not (tmp_path / "none").exists()


def test_a_disk_that_takes_only_a_part_ends_the_file_where_it_can_still_be_read(tmp_path: Path) -> None:
    class Filling(io.RawIOBase):
        left = 2_500

        def write(self, data: Any) -> int:
            taken = min(len(data), self.left)
            self.left -= taken
            written.extend(bytes(data)[:taken])
            return taken

        def writable(self) -> bool:
            return True

    written = bytearray()
    disk = Filling()
    log = EventLog(cast("BinaryIO", disk), Policy(), LIMIT)
    for second in range(100):
        log.record(PoolForgotten(os.urandom(8).hex()), Moment(float(second), second, os.urandom(10)), [])
        disk.left += 10
    log.close()
    (tmp_path / "part.events").write_bytes(written)
    assert 0 < len(list(replay(tmp_path / "part.events"))) < 100, "nothing follows what was cut"


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file")
    assert open_log(tmp_path / "events", Policy(), LIMIT, 1) is None


def test_the_policy_is_part_of_it(tmp_path: Path) -> None:
    policy = Policy(retries=2, pinned_models=frozenset({"haiku"}))
    begin(tmp_path / "events", policy=policy).close()
    header, _ = read_log(only(tmp_path / "events"))
    assert header.policy == policy


def test_a_plug_in_is_loaded_for_the_users_word_and_never_for_the_files(tmp_path: Path) -> None:
    log = open_log(tmp_path / "events", Policy(), LIMIT, 1, "examples.policy_plugin:PeopleFirst")
    assert log is not None
    log.record(Ticked(), Moment(1.0, 1, bytes(10)), [])
    log.close()
    path = only(tmp_path / "events")
    for named in (None, "examples.policy_plugin:Other"):
        with pytest.raises(RbeesError) as caught:
            list(replay(path, named))
        assert caught.value.code is ErrorCode.INVALID_REQUEST
        assert "`examples.policy_plugin:PeopleFirst`" in caught.value.message
    assert [turn.same for turn in replay(path, "examples.policy_plugin:PeopleFirst")] == [True]


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "begin"), (b"\x7fELF" * 100, "begin"), (MAGIC + b"x" * 99, "damaged")],
    ids=["empty", "something else", "damaged"],
)
def test_what_is_no_log_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "x.events"
    path.write_bytes(content)
    with pytest.raises(RbeesError) as caught:
        list(replay(path))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert why in caught.value.message


def test_no_damage_passes_for_a_log(recorded: Path, tmp_path: Path) -> None:
    """Wherever one bit has changed, either a reader is told, or what it reads is what was written."""
    log = min(recorded.glob("*.events"), key=lambda path: path.stat().st_size)
    whole = log.read_bytes()
    original = [(happening.event, happening.moment, happening.fingerprint) for happening in read_log(log)[1]]
    path = tmp_path / "x.events"
    told = 0
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            read = [(happening.event, happening.moment, happening.fingerprint) for happening in read_log(path)[1]]
        except RbeesError:
            told += 1
            continue
        assert read == original[: len(read)]
    assert told > 30


def test_a_log_that_was_cut_is_known_as_such(recorded: Path, tmp_path: Path) -> None:
    log = max(recorded.glob("*.events"))
    assert is_whole(log)
    path = tmp_path / "x.events"
    path.write_bytes(log.read_bytes()[:-8])
    assert not is_whole(path)
