"""What is kept of responses beside their jobs. It comes and goes with the job: written in the transaction that accepts it, erased
and deleted in those that erase and delete it.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from rbees.orcd.store.jobs import Statement
from rbees.orcd.store.sqlite import Database


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """A response that is kept."""

    record: bytes | None
    """None once its content was erased."""


def kept(number: int, record: bytes) -> Statement:
    """Keeps a response beside the job with this number."""
    return Statement("insert_response", {"job": number, "record": record})


class ResponseStore:
    """Queries over an open database. Errors are those of `Database.read` and `Database.write`."""

    def __init__(self, database: Database, queries: dict[str, str]) -> None:
        self._database = database
        self._sql = queries

    async def find(self, job_id: str) -> KeptRecord | None:
        """What is kept beside a job; None where it is no response, or not kept, or deleted."""
        sql = self._sql["response_of"]
        row = await self._database.read(lambda connection: connection.execute(sql, {"job_id": job_id}).fetchone())
        return None if row is None else KeptRecord(row["record"])

    async def forget(self, number: int) -> None:
        """Delete a response, and erase the content of its job, which must have ended, and whose it was."""

        def work(connection: sqlite3.Connection) -> None:
            for name in ("forget_response", "forget_journal", "forget_request"):
                connection.execute(self._sql[name], {"job": number})

        await self._database.write(work)
        # The write-ahead log would still hold it.
        await self._database.checkpoint()
