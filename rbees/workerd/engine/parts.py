"""From the text of an answer to its parts: what is said, what is thought, which tools are called. PURE.

A `Reader` knows how a model marks its parts and sees only text; this file keeps the tokens with it. Every token belongs to
exactly one event and every event has a token of its own, because an attempt can be cut between any two events and goes on
from token ids alone. So a token is held back until the part of all its text is known, and a mark's tokens go out with the
part that follows them. Given the same tokens the events are the same, however often the answer was begun anew.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

from rbees.protocol.events import Part
from rbees.workerd.engine.text import Piece


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool, as the model wrote it."""

    name: str = field(repr=False)
    arguments: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Run:
    """The characters from `start` to `end` of an answer; they are all of one part. Between runs there are only marks."""

    part: Part
    text: str = field(repr=False)
    start: int
    calls: tuple[Call, ...] = ()

    @property
    def end(self) -> int:
        """Where it ends within the answer."""
        return self.start + len(self.text)


class Reader(Protocol):
    """Tells the parts of one answer apart as it grows."""

    @property
    def part(self) -> Part:
        """What the answer is in the middle of."""

    @property
    def resolved(self) -> int:
        """How many characters of the answer are given out as runs or known to be marks."""

    def push(self, text: str) -> list[Run]:
        """Take more text; the runs that are certain now, in order."""

    def finish(self) -> list[Run]:
        """The answer has ended: what is left."""


class AnswerFormat(Protocol):
    """How one answer marks its parts; the same for all choices of a job."""

    @property
    def spelled(self) -> Mapping[int, bytes]:
        """Control tokens that are marks, with their spelling; all other control tokens have no text."""

    def reader(self) -> Reader:
        """A reader for an answer from its beginning."""


class PartStream:
    """The pieces of one answer, cut at the borders of its parts."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._runs: list[Run] = []
        self._tokens: list[tuple[int, int]] = []
        """Held tokens: id, and where they end in the answer."""
        self._length = 0
        self._begin = 0
        """Where the first held token begins in the answer."""
        self._index = 0
        """Position of the first held token within the answer."""
        self.calls: list[Call] = []
        """The tools that were called so far."""

    def push(self, piece: Piece) -> list[Piece]:
        """Take a piece; what may be sent now."""
        self._tokens += [(token, self._length + end) for token, end in zip(piece.token_ids, piece.ends, strict=True)]
        self._length += len(piece.text)
        self._take(self._reader.push(piece.text))
        return self._release()

    def finish(self) -> list[Piece]:
        """What was held back, once the answer has ended."""
        self._take(self._reader.finish())
        pieces = self._release(last=True)
        if not self._tokens:
            return pieces
        ids = tuple(token for token, _ in self._tokens)
        unheard = (False,) * len(ids)
        if pieces:
            before = pieces[-1]
            pieces[-1] = replace(before, token_ids=before.token_ids + ids, heard=before.heard + unheard)
        else:
            pieces = [Piece("", self._index, ids, part=self._reader.part, heard=unheard)]
        self._tokens.clear()
        return pieces

    def _take(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.calls += run.calls
            before = self._runs[-1] if self._runs else None
            if before is not None and before.part == run.part != "tool" and before.end == run.start:
                self._runs[-1] = Run(run.part, before.text + run.text, before.start)
            elif run.text:
                self._runs.append(run)

    def _release(self, *, last: bool = False) -> list[Piece]:
        """Runs whose tokens are known, each with its tokens, at least one."""
        if not self._runs:
            return []
        known = bisect_right(self._tokens, self._reader.resolved, key=lambda token: token[1])
        runs = _cut(self._runs, self._tokens[known - 1][1] if known else 0)
        shares: list[tuple[Run, int]] = []
        first = 0
        for run in runs:
            count = next((i for i in range(first, known) if self._tokens[i][1] >= run.end), known) + 1
            if count > known and not last:
                # Its only token went to the run before. Both wait for the next token, so that each can have one.
                return []
            if count > known and shares:
                shares[-1] = (_joined(shares[-1][0], run), shares[-1][1])
                continue
            shares.append((run, min(count, known)))
            first = shares[-1][1]
        return self._send(shares, runs)

    def _send(self, shares: list[tuple[Run, int]], runs: list[Run]) -> list[Piece]:
        pieces: list[Piece] = []
        first = 0
        for run, count in shares:
            ids = tuple(token for token, _ in self._tokens[first:count])
            pieces.append(Piece(run.text, self._index + first, ids, part=run.part, heard=self._heard(run, first, count)))
            first = count
        if runs:
            sent_to = runs[-1].end
            self._runs = [left for run in self._runs if (left := _rest(run, sent_to)) is not None]
            self._begin = self._tokens[first - 1][1] if first else self._begin
            del self._tokens[:first]
            self._index += first
        return pieces

    def _heard(self, run: Run, first: int, count: int) -> tuple[bool, ...]:
        """Whether the run holds any of each of its tokens. One that only begins a character lies where that character does."""
        ends = [self._begin if first == 0 else self._tokens[first - 1][1], *(end for _, end in self._tokens[first:count])]
        return tuple(begin < run.end and (end > run.start or begin >= run.start) for begin, end in pairwise(ends))


def _cut(runs: list[Run], limit: int) -> list[Run]:
    """The runs before character `limit`. One that goes on beyond it is cut there, except a call, which is sent as a whole."""
    before = [run for run in runs if run.end <= limit]
    across = next((run for run in runs if run.start < limit < run.end), None)
    if across is not None and across.part != "tool":
        before.append(replace(across, text=across.text[: limit - across.start]))
    return before


def _rest(run: Run, sent_to: int) -> Run | None:
    if run.end <= sent_to:
        return None
    return replace(run, text=run.text[max(0, sent_to - run.start) :], start=max(run.start, sent_to))


def _joined(run: Run, following: Run) -> Run:
    """Two runs that one token at the very end of an answer holds: they cannot be sent apart."""
    return replace(run, text=run.text + following.text)
