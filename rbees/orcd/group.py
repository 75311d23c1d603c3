"""What waits for the next commit: accepted jobs, events by job, changes of state, and whom to tell once it is durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from rbees.orcd.store.jobs import Statement
from rbees.protocol.errors import RbeesError

ROW_BYTES: Final = 32 * 1024
"""A row that has so many gets no further events: whoever reads the journal holds whole rows in memory, and a commit that had to
wait for the disk brings thousands of events."""


@dataclass(slots=True)
class Run:
    """Consecutive events of one job under one epoch: one row of the journal."""

    number: int
    """Of the job."""
    first_seq: int
    epoch: int
    worker_seq: int
    frames: list[bytes]
    ended: bool = False
    """The last of them is the job's terminal event."""
    size: int = field(init=False)
    """Of all frames, in bytes."""

    def __post_init__(self) -> None:
        self.size = sum(map(len, self.frames))

    def follow(self, later: Run) -> None:
        """Append the events of `later`, which begins where this one ends."""
        self.frames += later.frames
        self.size += later.size
        self.worker_seq = later.worker_seq
        self.ended = later.ended

    def statement(self) -> Statement:
        """The row."""
        return Statement(
            "insert_journal",
            {
                "job": self.number,
                "first_seq": self.first_seq,
                "last_seq": self.first_seq + len(self.frames) - 1,
                "epoch": self.epoch,
                "worker_seq": self.worker_seq,
                "frames": b"".join(self.frames),
            },
        )


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A new job: its row, and what happens once it is durable or turns out to have no room."""

    row: Statement
    then: Callable[[], None]
    refuse: Callable[[RbeesError], None]
    beside: tuple[Statement, ...] = ()
    """What becomes durable together with it."""


@dataclass(slots=True)
class Group:
    """One transaction in the making."""

    accepted: dict[int, Acceptance] = field(default_factory=dict)
    changes: list[Statement] = field(default_factory=list)
    then: list[Callable[[], None]] = field(default_factory=list)
    _runs: dict[int, list[Run]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.accepted or self.changes or self._runs or self.then)

    def add(self, run: Run) -> None:
        """Append events, to the row of the same job and epoch if there is one already that has room."""
        rows = self._runs.setdefault(run.number, [])
        if rows and rows[-1].epoch == run.epoch and rows[-1].size < ROW_BYTES:
            rows[-1].follow(run)
        else:
            rows.append(run)

    def runs(self) -> Iterator[Run]:
        """Every row for the journal; those of one job in order."""
        for rows in self._runs.values():
            yield from rows

    def statements(self) -> list[Statement]:
        """The transaction. Jobs come first, since everything else refers to them."""
        accepted = self.accepted.values()
        rows = [*(new.row for new in accepted), *(statement for new in accepted for statement in new.beside)]
        return [*rows, *(run.statement() for run in self.runs()), *self.changes]

    def refuse_new(self, error: RbeesError) -> None:
        """Leave out the jobs that are not accepted yet, and tell those who wait for them."""
        refused, self.accepted = self.accepted, {}
        for number, new in refused.items():
            del self._runs[number]
            new.refuse(error)

    def absorb(self, later: Group) -> None:
        """Take over what arrived while this group could not be committed."""
        self.accepted |= later.accepted
        self.changes += later.changes
        self.then += later.then
        for run in later.runs():
            self.add(run)
