"""What a followed job looks like: its answer on stdout, what it waits for on stderr; or every event as a line of JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final, Protocol, assert_never

import click
import msgspec

from rbees.protocol import codec
from rbees.protocol.errors import RbeesError
from rbees.protocol.events import End, Error, Event, Metrics, Queued, Result, Started, Token
from rbees.protocol.jobs import JobAccepted
from rbees.protocol.vectors import Embeddings, Ranking
from rbees.terminal.answer import AnswerWriter
from rbees.terminal.notes import Notes
from rbees.terminal.output import columns
from rbees.terminal.text import printable


class Unknown(Enum):
    """Says that a limit may or may not have been given."""

    UNKNOWN = 0


UNKNOWN: Final = Unknown.UNKNOWN


class Screen(Protocol):
    """Shows one job."""

    @property
    def is_left(self) -> bool:
        """What still comes is not for it, since `leave` was called."""
        ...

    def accepted(self, accepted: JobAccepted) -> None:
        """The job is durable."""
        ...

    def show(self, seq: int, event: Event) -> None:
        """The next event. A terminal `error` is raised as the `RbeesError` that it is."""
        ...

    def note(self, text: str) -> None:
        """Something that is not an event of the job."""
        ...

    def keep(self, text: str) -> None:
        """A note that stays after everything else."""
        ...

    def leave(self) -> None:
        """Nothing more comes; put the terminal in order."""
        ...


class PeopleScreen:
    """For people. While an answer runs on a terminal, notes would fall into its lines and are left out.

    Of several answers the first is shown as it comes, the others whole and numbered behind it.
    """

    def __init__(
        self,
        answer: AnswerWriter,
        notes: Notes,
        *,
        shares_terminal: bool,
        reasoning: bool = True,
        max_tokens: int | Unknown | None = UNKNOWN,
        documents: Sequence[str] = (),
    ) -> None:
        self._documents = documents
        self._answer = answer
        self._reasoning = reasoning
        self._max_tokens = max_tokens
        self._notes = notes
        self._shares_terminal = shares_terminal
        self._running = False
        self._further: dict[int, list[str]] = {}
        self.is_left = False

    def accepted(self, accepted: JobAccepted) -> None:
        """See `Screen`."""
        self.note(f"{accepted.job_id} accepted")

    def note(self, text: str, progress: float | None = None) -> None:
        """See `Screen`."""
        if not (self._running and self._shares_terminal):
            self._notes.note(text, progress)

    def show(self, seq: int, event: Event) -> None:  # noqa: ARG002
        """See `Screen`."""
        match event:
            case Queued():
                self.note(f"queued, position {event.queue_position}")
            case Metrics():
                self.note(describe(event), event.progress)
            case Started():
                self._notes.clear()
                self._running = True
            case Token() if event.choice:
                if event.part != "reasoning":
                    self._further.setdefault(event.choice, []).append(event.text)
            case Token(part="reasoning"):
                if self._reasoning:
                    self._answer.think(event.text)
            case Token():
                self._answer.write(event.text)
            case Result():
                self._answer.write("".join(f"{line}\n" for line in result_lines(event, self._documents)))
            case End():
                for choice, texts in sorted(self._further.items()):
                    self._answer.begin(choice + 1)
                    self._answer.write("".join(texts))
                self.leave()
                if any(choice.finish_reason == "length" for choice in event.choices):
                    self.keep(cut_text(self._max_tokens, event.usage.completion_tokens))
            case Error():
                self.leave()
                raise RbeesError.from_body(event.error)
            case _:
                assert_never(event)

    def keep(self, text: str) -> None:
        """See `Screen`."""
        self._notes.keep(text)

    def leave(self) -> None:
        """See `Screen`."""
        self._notes.clear()
        self._answer.finish()
        self._running = False
        self.is_left = True


class JsonScreen:
    """For programs: `{"type": "accepted", …}` where the job was just submitted, then `{"seq": N, "type": …}` for each event.

    It is never left: after Ctrl-C, too, every event is shown, down to the last.
    """

    is_left: Final = False

    def accepted(self, accepted: JobAccepted) -> None:
        """See `Screen`."""
        _print_line({"type": "accepted"}, accepted)

    def note(self, text: str) -> None:
        """See `Screen`; programs learn of events only."""

    def keep(self, text: str) -> None:
        """See `Screen`; as `note`."""

    def show(self, seq: int, event: Event) -> None:
        """See `Screen`."""
        _print_line({"seq": seq}, event)
        if isinstance(event, Error):
            raise RbeesError.from_body(event.error)

    def leave(self) -> None:
        """See `Screen`."""


def screen(
    *,
    as_json: bool,
    notes: Notes,
    reasoning: bool = True,
    max_tokens: int | Unknown | None = UNKNOWN,
    documents: Sequence[str] = (),
    wraps: bool = False,
) -> Screen:
    """The screen that the caller asked for; `reasoning`: show people what the model thinks, too; `wraps`: break lines at words.

    `max_tokens` and `documents` are what the job was submitted with, so that a cut can be explained and what was ranked shown;
    whoever only watches does not know them.
    """
    if as_json:
        return JsonScreen()
    shares_terminal = sys.stdout.isatty() and sys.stderr.isatty()
    return PeopleScreen(
        AnswerWriter(sys.stdout, (lambda: columns(sys.stdout)) if wraps else None),
        notes,
        shares_terminal=shares_terminal,
        reasoning=reasoning,
        max_tokens=max_tokens,
        documents=documents,
    )


def result_lines(result: Result | Embeddings | Ranking, documents: Sequence[str] = ()) -> Iterator[str]:
    """A line for each vector, in JSON, or for each ranked document: its score, its number from 0 and, where known, its text."""
    match result:
        case Result(embeddings=embeddings, ranking=ranked):
            pass
        case Embeddings(embeddings=embeddings):
            ranked = ()
        case Ranking(results=ranked):
            embeddings = ()
    for one in embeddings:
        yield codec.encode(one.embedding).decode()
    for place in ranked:
        text = f"\t{printable(documents[place.index])}" if place.index < len(documents) else ""
        yield f"{place.relevance_score:.6g}\t{place.index}{text}"


def cut_text(max_tokens: int | Unknown | None, completion_tokens: int) -> str:
    """What ended an answer before the model did."""
    if max_tokens is UNKNOWN:
        return "the answer was cut at max_tokens or at the end of the model's context"
    if max_tokens is None or completion_tokens < max_tokens:
        return "the answer was cut: the model's context is full"
    return f"the answer was cut at max_tokens={max_tokens}"


def describe(event: Metrics) -> str:
    """One line about what happens meanwhile."""
    where = f" on {event.pool_id}" if event.pool_id else ""
    match event.stage:
        case "waiting":
            return f"waiting: {event.reason}" if event.reason else "waiting"
        case "loading":
            return f"loading the model{where}"
        case "prefill":
            return "reading the prompt"
        case "attempt_failed":
            return f"attempt {event.epoch or 1} failed{where}: {event.reason or event.code or 'its worker is gone'}"
        case "preempted":
            return f"attempt {event.epoch or 1} gave way to an interactive job{where}; it goes on later"
        case "attempt_started":
            return f"attempt {event.epoch or 1} goes on{where}"
        case _:
            assert_never(event.stage)


def _print_line(first: dict[str, object], message: JobAccepted | Event) -> None:
    click.echo(codec.encode({**first, **msgspec.to_builtins(message)}).decode())
    sys.stdout.flush()
