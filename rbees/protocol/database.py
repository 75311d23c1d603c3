"""What looking through an orchestrator's database came to."""

from __future__ import annotations

from rbees.protocol.codec import Message


class Trouble(Message, frozen=True, kw_only=True):
    """Something in the database that must not be so."""

    job_id: str | None = None
    """Of the job that it concerns, None where it is the file."""
    what: str


class DatabaseReport(Message, frozen=True, kw_only=True):
    """What a database holds, and what is wrong with it."""

    schema_version: int
    jobs: int = 0
    unended_jobs: int = 0
    events: int = 0
    troubles: tuple[Trouble, ...] = ()
    """The first ones."""
    further_troubles: int = 0
    """How many more were found."""
