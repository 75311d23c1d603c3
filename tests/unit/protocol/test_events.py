"""The legal order of a stream, checked against the grammar that the diagram in the module draws."""

from __future__ import annotations

import itertools
import re

import pytest

from rbees.protocol import codec
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.events import (
    Embedding,
    End,
    Error,
    Event,
    Metrics,
    Queued,
    Result,
    Started,
    StreamState,
    Timings,
    Token,
    Usage,
    advance,
    event_name,
    is_terminal,
)

EXAMPLES: dict[str, Event] = {
    "q": Queued(queue_position=1, created_at_ms=5),
    "s": Started(epoch=1, worker_id="w", model="haiku", prompt_tokens=3),
    "t": Token(text="ho", index=0, token_ids=(7,)),
    "r": Result(index=0, embeddings=(Embedding(index=0, embedding=(0.5,), tokens=1),)),
    "m": Metrics(stage="loading", progress=0.5),
    "e": End(
        choices=(),
        usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1),
        timings=Timings(prefill_ms=1.0, decode_ms=2.0),
    ),
    "x": Error(error=ErrorBody(code=ErrorCode.CANCELLED, message="The job was cancelled.")),
}
LEGAL_PREFIX = re.compile(r"(q(m*(x|s[trm]*[ex]?)?)?)?")
"""Every prefix of a legal stream of orcd, a letter per event."""


def states(word: str) -> StreamState | None:
    state = StreamState.NEW
    for letter in word:
        try:
            state = advance(state, EXAMPLES[letter])
        except AssertionError:
            return None
    return state


@pytest.mark.parametrize("length", range(6))
def test_every_order_of_events_is_legal_exactly_where_the_grammar_says(length: int) -> None:
    for letters in itertools.product(EXAMPLES, repeat=length):
        word = "".join(letters)
        assert (states(word) is not None) == (LEGAL_PREFIX.fullmatch(word) is not None), word


def test_terminal_events_end_the_stream_and_no_others_do() -> None:
    for word in ("qx", "qse", "qstmx", "q", "qs", "qst", "qm"):
        assert (states(word) is StreamState.ENDED) == is_terminal(EXAMPLES[word[-1]])


def test_an_illegal_event_is_a_defect_of_the_writer() -> None:
    with pytest.raises(AssertionError, match="Token may not follow in state NEW"):
        advance(StreamState.NEW, EXAMPLES["t"])


@pytest.mark.parametrize("event", EXAMPLES.values(), ids=lambda event: type(event).__name__)
def test_every_event_survives_the_wire(event: Event) -> None:
    wire = codec.encode(event)
    back: object = codec.decode(wire, Event)  # type: ignore[arg-type]  # A union is no type to mypy.
    assert back == event
    assert f'"type":"{event_name(event)}"'.encode() in wire


def test_what_was_generated_does_not_show() -> None:
    token = Token(text="canary", index=0, token_ids=(424242,))
    assert "canary" not in repr(token)
    assert "424242" not in repr(token)
