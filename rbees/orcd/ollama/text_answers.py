"""PURE: what comes of a chat's or a prompt's job, as one whole answer and as the lines of a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from msgspec import UNSET, UnsetType

from rbees.orcd.door.collected import Collected, logprobs_of
from rbees.orcd.ollama import errors
from rbees.protocol.chat import ToolCall
from rbees.protocol.codec import Message, encode
from rbees.protocol.errors import RbeesError
from rbees.protocol.events import End, Event, FinishReason, Timings, Token, TokenLogprob, TopLogprob, Usage

DoneReason = Literal["stop", "length", "load", "unload"]
_REASONS: Final[dict[FinishReason, DoneReason]] = {"stop": "stop", "length": "length", "tool_calls": "stop"}
_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Stamp:
    """What all lines of an answer say alike."""

    model: str
    """As the client wrote it."""
    created_at: str
    """When the job was accepted, as RFC 3339 writes it."""


class Alternative(Message, frozen=True, kw_only=True):
    """A token that could have come."""

    private: ClassVar[frozenset[str]] = frozenset({"token", "bytes"})
    token: str
    bytes: tuple[int, ...]
    logprob: float


class Logprob(Alternative, frozen=True, kw_only=True):
    """A token that came."""

    top_logprobs: tuple[Alternative, ...] | UnsetType = UNSET


class Line(Message, frozen=True, kw_only=True):
    """What is the same for both: a line of a stream, or the whole answer. Durations are nanoseconds, on the last line only."""

    model: str
    created_at: str
    logprobs: tuple[Logprob, ...] | UnsetType = UNSET
    done: bool
    done_reason: DoneReason | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    """From the job's acceptance to its end."""
    load_duration: int | UnsetType = UNSET
    """Of that, until a worker took the job up: for its turn, and for the model to be loaded."""
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class AnsweredFunction(Message, frozen=True, kw_only=True):
    """What is called."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "arguments"})
    index: int
    name: str
    arguments: dict[str, Any]


class AnsweredCall(Message, frozen=True, kw_only=True):
    """A call."""

    id: str
    function: AnsweredFunction


class AnsweredMessage(Message, frozen=True, kw_only=True):
    """What the model says, or what of it is new."""

    private: ClassVar[frozenset[str]] = frozenset({"content", "thinking", "tool_calls"})
    role: Literal["assistant"] = "assistant"
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: tuple[AnsweredCall, ...] | UnsetType = UNSET


class ChatLine(Line, frozen=True, kw_only=True):
    """Of a chat."""

    message: AnsweredMessage


class GenerateLine(Line, frozen=True, kw_only=True):
    """Of a prompt."""

    private: ClassVar[frozenset[str]] = frozenset({"response", "thinking"})
    response: str
    thinking: str | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Said:
    """What a line tells of the answer."""

    text: str = ""
    thoughts: str = ""
    calls: Sequence[ToolCall] = ()
    logprobs: Sequence[TokenLogprob] = ()


NOTHING: Final = Said()
Spell = Callable[..., Line]
"""A line from a stamp, what is said, `done` and the fields of the last line."""


def chat_line(stamp: Stamp, said: Said, *, done: bool = False, **last: Any) -> ChatLine:
    """A line of a chat."""
    calls = tuple(
        AnsweredCall(id=call.id, function=AnsweredFunction(index=index, name=call.name, arguments=call.arguments))
        for index, call in enumerate(said.calls)
    )
    message = AnsweredMessage(content=said.text, thinking=said.thoughts or UNSET, tool_calls=calls or UNSET)
    return ChatLine(
        model=stamp.model, created_at=stamp.created_at, message=message, logprobs=_logprobs(said.logprobs), done=done, **last
    )


def generate_line(stamp: Stamp, said: Said, *, done: bool = False, **last: Any) -> GenerateLine:
    """A line of what a prompt led to."""
    return GenerateLine(
        model=stamp.model,
        created_at=stamp.created_at,
        response=said.text,
        thinking=said.thoughts or UNSET,
        logprobs=_logprobs(said.logprobs),
        done=done,
        **last,
    )


def whole_answer(spell: Spell, stamp: Stamp, collected: Collected) -> Line:
    """The answer of a job that has ended well."""
    (choice,) = collected.choices
    assert choice.end is not None
    assert collected.usage is not None
    assert collected.timings is not None
    said = Said(choice.text, choice.reasoning, choice.end.tool_calls, choice.logprobs)
    return spell(stamp, said, done=True, **_last(choice.end.finish_reason, collected.usage, collected.timings))


def loaded(spell: Spell, stamp: Stamp, collected: Collected) -> Line:
    """What is answered once a model is loaded of which nothing else was asked."""
    assert collected.timings is not None
    total, load = durations(collected.timings)
    return spell(stamp, NOTHING, done=True, done_reason="load", total_duration=total, load_duration=load)


def unloaded(spell: Spell, stamp: Stamp) -> Line:
    """What is answered where a model may go."""
    return spell(stamp, NOTHING, done=True, done_reason="unload")


def line(value: Message) -> bytes:
    """A value as a line of a stream."""
    return encode(value) + b"\n"


def waiting(spell: Spell, stamp: Stamp) -> bytes:
    """A line that says nothing, which keeps a connection alive while a model loads."""
    return line(spell(stamp, NOTHING))


class TextLines:
    """A stream of lines, made event by event."""

    def __init__(self, spell: Spell, stamp: Stamp) -> None:
        self._spell = spell
        self._stamp = stamp

    def take(self, _number: int, event: Event) -> bytes:
        """The lines of one event."""
        match event:
            case Token(part="reasoning"):
                return line(self._spell(self._stamp, Said(thoughts=event.text)))
            case Token(part="text"):
                return line(self._spell(self._stamp, Said(event.text, logprobs=logprobs_of(event))))
            case End():
                (end,) = event.choices
                last = line(self._spell(self._stamp, NOTHING, done=True, **_last(end.finish_reason, event.usage, event.timings)))
                return line(self._spell(self._stamp, Said(calls=end.tool_calls))) + last if end.tool_calls else last
            case _:
                return b""

    def ended(self) -> bytes:
        """Nothing: the line with `done` has been sent."""
        return b""

    def failed(self, error: RbeesError) -> bytes:
        """The failure in a line of its own; no line with `done` follows."""
        return line(errors.body_of(error))


def durations(timings: Timings) -> tuple[int, int]:
    """The whole time of a job, and what of it passed before it was taken up; nanoseconds."""
    queued_ms = timings.queued_ms or 0.0
    total_ms = timings.total_ms if timings.total_ms is not None else queued_ms + timings.prefill_ms + timings.decode_ms
    return _ns(total_ms), _ns(queued_ms)


def _last(reason: FinishReason, usage: Usage, timings: Timings) -> dict[str, Any]:
    total, load = durations(timings)
    return {
        "done_reason": _REASONS[reason],
        "total_duration": total,
        "load_duration": load,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": _ns(timings.prefill_ms),
        "eval_count": usage.completion_tokens,
        "eval_duration": _ns(timings.decode_ms),
    }


def _ns(milliseconds: float) -> int:
    return round(milliseconds * _NS_PER_MS)


def _logprobs(found: Sequence[TokenLogprob]) -> tuple[Logprob, ...] | UnsetType:
    told = tuple(
        Logprob(
            token=one.text,
            bytes=_bytes(one),
            logprob=one.logprob,
            top_logprobs=tuple(Alternative(token=top.text, bytes=_bytes(top), logprob=top.logprob) for top in one.top) or UNSET,
        )
        for one in found
    )
    return told or UNSET


def _bytes(token: TopLogprob) -> tuple[int, ...]:
    return tuple(token.text.encode()) if isinstance(token.bytes, UnsetType) else token.bytes
