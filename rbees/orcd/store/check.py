"""Whether a database is whole: the file as SQLite sees it, its schema, and every job's course as the journal writes it.

It only reads, works on every schema that this program knows, and looks at a few jobs at a time, each with what belongs to it, so
that a daemon can have it done while it goes on writing. A job that ends between two looks is seen before it or after.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final, get_args

from rbees.orcd.store.migrations import Migration, check_known, migrate
from rbees.protocol.database import DatabaseReport, Trouble
from rbees.protocol.events import LEGAL_ORDER, End, Error, Event, StreamState

Pause = Callable[[], None]
"""Called between two steps of something long."""

JOBS_PER_LOOK: Final = 50
TROUBLES_TOLD: Final = 100
_PREFIXES_SINCE: Final = 4
"""The schema in which jobs got names of their prompts' beginnings."""
_RESPONSES_SINCE: Final = 7
"""The schema in which responses are kept."""
DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""SQLite's codes for a file that is itself ill."""
_FRAME: Final = re.compile(rb"id: ([0-9]+)\nevent: ([a-z]+)\ndata: ([^\n]*)\n\n")
_KINDS: Final[dict[str, type[Event]]] = {kind.__struct_config__.tag: kind for kind in get_args(Event)}


def check(
    connection: sqlite3.Connection, migrations: tuple[Migration, ...], queries: dict[str, str], pause: Pause
) -> DatabaseReport:
    """Look through an open database; `pause` is called every few jobs.

    Raises:
        RbeesError: CONFIGURATION where the file was written by a newer version.
        sqlite3.Error: what says nothing about the file, such as one that cannot be opened.
    """
    return _Check(connection, migrations, queries, pause).report()


class _Check:
    def __init__(
        self, connection: sqlite3.Connection, migrations: tuple[Migration, ...], queries: dict[str, str], pause: Pause
    ) -> None:
        self._connection = connection
        self._migrations = migrations
        self._sql = queries
        self._pause = pause
        self._version = 0
        self._jobs = self._unended = self._events = 0
        self._troubles: list[Trouble] = []
        self._further = 0

    def report(self) -> DatabaseReport:
        """Look at everything; what SQLite cannot read ends the looking and is a trouble itself."""
        try:
            self._check_file()
            if self._check_schema():
                self._check_jobs()
        except sqlite3.DatabaseError as error:
            code: Any = getattr(error, "sqlite_errorcode", None)
            if not isinstance(code, int) or code & 0xFF not in DAMAGED:
                raise
            self._tell(None, f"the file cannot be read to its end ({error.sqlite_errorname})")
        return DatabaseReport(
            schema_version=self._version,
            jobs=self._jobs,
            unended_jobs=self._unended,
            events=self._events,
            troubles=tuple(self._troubles),
            further_troubles=self._further,
        )

    # ---- the file ------------------------------------------------------------------------------------------------------

    def _check_file(self) -> None:
        for (found,) in self._connection.execute(f"PRAGMA integrity_check({TROUBLES_TOLD:d})"):
            if found != "ok":
                self._tell(None, f"SQLite finds: {found}")
        for row in self._connection.execute("PRAGMA foreign_key_check"):
            self._tell(None, f"a row of `{row['table']}` belongs to no row of `{row['parent']}`")

    def _check_schema(self) -> bool:
        """Whether there are the tables to look into."""
        held = _schema(self._connection)
        if not held:
            return False  # The process that made the file ended before it came to the first migration.
        if ("table", "schema_versions") not in held:
            self._tell(None, "it is not a database of rbees")
            return False
        versions = [row[0] for row in self._connection.execute("SELECT version FROM schema_versions ORDER BY version")]
        self._version = versions[-1] if versions else 0
        check_known(self._version, self._migrations)
        if versions != list(range(1, self._version + 1)):
            self._tell(None, f"the versions of its schema have gaps: {versions}")
        if not versions:
            return False
        expected = _schema_of(self._migrations[: self._version])
        for kind, name in sorted(expected.keys() | held.keys()):
            if expected.get((kind, name)) != held.get((kind, name)):
                self._tell(None, f"the {kind} `{name}` is not that of schema {self._version}")
        return all(name in held for name in expected if name[0] == "table")

    def _tell(self, job_id: str | None, what: str) -> None:
        if len(self._troubles) < TROUBLES_TOLD:
            self._troubles.append(Trouble(job_id=job_id, what=what))
        else:
            self._further += 1

    # ---- the jobs ------------------------------------------------------------------------------------------------------

    def _check_jobs(self) -> None:
        after: int | None = 0
        while after is not None:
            with _snapshot(self._connection):
                after = self._check_some(after)
            self._pause()
        with _snapshot(self._connection):
            (again,) = self._connection.execute(self._sql["check_numbers"]).fetchone()
            if again:
                self._tell(None, f"the numbers of {again} jobs would be given out again")
            if self._version >= _PREFIXES_SINCE:
                for row in self._connection.execute(self._sql["check_prefixes"]):
                    what = "outlive the prompt" if row["erased"] else "are cut off"
                    self._tell(row["job_id"], f"the names of its prompt's beginnings {what}")
            if self._version >= _RESPONSES_SINCE:
                for row in self._connection.execute(self._sql["check_responses"]):
                    what = "outlives the prompt" if row["erased"] else "is gone, and the prompt is not"
                    self._tell(row["job_id"], f"what is kept of its response {what}")

    def _check_some(self, after: int) -> int | None:
        """Look at the next jobs; the number of the last one, None where there is none."""
        rows = self._connection.execute(self._sql["check_jobs"], {"after": after, "limit": JOBS_PER_LOOK}).fetchall()
        for row in rows:
            self._jobs += 1
            self._unended += row["ended_at_ms"] is None
            for what in (*_wrong_attempts(row), *self._wrong_course(row)):
                self._tell(row["job_id"], what)
        return rows[-1]["number"] if rows else None

    def _wrong_course(self, job: sqlite3.Row) -> Iterator[str]:
        journal = _Journal()
        for row in self._connection.execute(self._sql["check_journal"], {"job": job["number"]}):
            yield from journal.wrong_row(row)
            if len(row["frames"]) > 65_536:
                self._pause()
        self._events += journal.last_seq
        if job["erased"]:
            if job["ended_at_ms"] is None:
                yield "its request is gone although it has not ended"
            if journal.last_seq:
                yield "its events outlive its request, with which they should have been erased"
        elif not journal.last_seq:
            yield "it has no events"
        if journal.epoch > (job["last_epoch"] or 0):
            yield f"it has events of attempt {journal.epoch}, of which nothing is known"
        yield from _wrong_outcome(job, journal)


class _Journal:
    """One job's events, row by row."""

    def __init__(self) -> None:
        self.last_seq = 0
        self.epoch = 0
        self.state = StreamState.NEW
        self.terminal: tuple[str, bytes] | None = None
        """Name and data of the event that ends the job."""
        self._worker_seq = 0

    def wrong_row(self, row: sqlite3.Row) -> Iterator[str]:
        """Take the next row; what is wrong with it."""
        if row["first_seq"] != self.last_seq + 1:
            yield f"its events go on at {row['first_seq']} after {self.last_seq}"
        if row["epoch"] < self.epoch:
            yield f"events of attempt {row['epoch']} stand behind those of attempt {self.epoch}"
        if row["epoch"] == self.epoch and row["worker_seq"] < self._worker_seq:
            yield f"attempt {row['epoch']} goes back from event {self._worker_seq} of its worker to {row['worker_seq']}"
        yield from self._wrong_frames(row)
        self.last_seq, self.epoch, self._worker_seq = row["last_seq"], row["epoch"], row["worker_seq"]

    def _wrong_frames(self, row: sqlite3.Row) -> Iterator[str]:
        frames, seq, end = row["frames"], row["first_seq"], 0
        for match in _FRAME.finditer(frames):
            if match.start() != end or int(match[1]) != seq:
                break
            name = match[2].decode()
            kind = _KINDS.get(name)
            following = LEGAL_ORDER.get((self.state, kind)) if kind is not None else None
            if following is None:
                yield f"event {seq}, `{name}`, may not come there"
            else:
                self.state = following
            if kind in (End, Error):
                self.terminal = (name, match[3])
            seq, end = seq + 1, match.end()
        if end != len(frames) or seq != row["last_seq"] + 1:
            yield f"the bytes of its events {row['first_seq']} to {row['last_seq']} are damaged"


def _wrong_attempts(job: sqlite3.Row) -> Iterator[str]:
    if job["attempts"] != (job["last_epoch"] or 0):
        yield f"it has {job['attempts']} attempts, of which the last has the number {job['last_epoch']}"
    if job["attempts"] and job["model_sha256"] is None:
        yield "it was tried although nobody knew its model"
    if job["open_attempts"] and job["ended_at_ms"] is not None:
        yield "it has ended and an attempt has not"
    elif job["open_attempts"] > 1 or (job["open_attempts"] and job["open_epoch"] != job["last_epoch"]):
        yield "an attempt before its last one has not ended"
    if job["status"] in {"dispatched", "running"} and not job["open_attempts"]:
        yield f"it is {job['status']} without an attempt"
    if job["status"] == "queued" and job["open_attempts"]:
        yield "it is queued while an attempt has not ended"


def _wrong_outcome(job: sqlite3.Row, journal: _Journal) -> Iterator[str]:
    if job["ended_at_ms"] is None:
        if journal.terminal is not None:
            yield f"it is {job['status']} although its events have ended"
        return
    outcome = _read(job["outcome"])
    if job["status"] != _status_of(outcome):
        yield f"it is {job['status']}, and its outcome says {_status_of(outcome)}"
    if job["erased"]:
        return
    if journal.terminal is None:
        yield f"it is {job['status']}, and its events have not ended"
    elif _without_calls(_read(journal.terminal[1])) != outcome:
        yield "its last event and its outcome differ"


def _status_of(outcome: dict[str, Any]) -> str:
    match outcome:
        case {"type": "end"}:
            return "completed"
        case {"type": "error", "error": {"code": "CANCELLED"}}:
            return "cancelled"
        case {"type": "error"}:
            return "failed"
        case _:
            return "nothing"


def _read(data: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(data or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _without_calls(event: dict[str, Any]) -> dict[str, Any]:
    """A terminal event as the job itself keeps it, which outlives what tools were called with."""
    if "choices" not in event:
        return event
    return {**event, "choices": [{**choice, "tool_calls": []} if "tool_calls" in choice else choice for choice in event["choices"]]}


def _schema(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")
    return {(row[0], row[1]): row[2] for row in rows}


def _schema_of(migrations: tuple[Migration, ...]) -> dict[tuple[str, str], str]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        migrate(fresh, migrations)
        return _schema(fresh)


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
