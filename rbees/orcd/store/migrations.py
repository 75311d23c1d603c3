"""Numbered schema migrations: which there are, and how one is applied.

Each migration runs in one transaction together with the row that records it, so a process killed at any moment leaves the
old schema or the new one. A file that was released is never edited; a change is a new file with the next number.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from rbees.protocol.errors import ErrorCode, RbeesError

_FOLDER = Path(__file__).with_name("sql") / "migrations"
_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_VERSIONS = """
CREATE TABLE IF NOT EXISTS schema_versions (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    version: int
    """1 for the first, without gaps."""
    name: str
    sql: str


def packaged() -> tuple[Migration, ...]:
    """The migrations that this version of rbees brings, in order."""
    found = []
    for path in sorted(_FOLDER.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        assert match is not None, f"{path.name} is not named like 0001_what_it_does.sql"
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    assert [migration.version for migration in found] == list(range(1, len(found) + 1)), "migrations must be numbered without gaps"
    return tuple(found)


def migrate(connection: sqlite3.Connection, migrations: tuple[Migration, ...]) -> int:
    """Apply what is missing and return the version reached. `connection` is in autocommit mode.

    Raises:
        RbeesError: CONFIGURATION if the file has a version that this program does not know.
        sqlite3.Error: from the migration that failed; those before it stay applied.
    """
    current = schema_version(connection)
    check_known(current, migrations)
    for migration in migrations[current:]:
        _apply(connection, migration)
    return len(migrations)


def check_known(version: int, migrations: tuple[Migration, ...]) -> None:
    """Raises RbeesError: CONFIGURATION if a file has a version that this program does not know."""
    if version > len(migrations):
        raise RbeesError(
            ErrorCode.CONFIGURATION,
            f"The state was written by a newer rbees (schema {version}, this one knows {len(migrations)}); install that one again.",
        )


def schema_version(connection: sqlite3.Connection) -> int:
    """The version of the newest migration applied, 0 for an empty file."""
    connection.execute(_VERSIONS)
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_versions").fetchone()
    assert isinstance(version, int)
    return version


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    # The name is checked against _NAME or comes from a test: it cannot hold a quote.
    assert re.fullmatch(r"[a-z0-9_]+", migration.name)
    record = f"INSERT INTO schema_versions (version, name) VALUES ({migration.version:d}, '{migration.name}');"  # noqa: S608
    try:
        connection.executescript(f"BEGIN IMMEDIATE;\n{migration.sql}\n{record}\nCOMMIT;")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
