"""PURE: a response's course, made from the events of its job alone: whoever reads them again gets the same, byte by byte.

Items come one after the other: thoughts, text, calls. Each begins empty, grows, and is told once more when it is whole; calls
come whole and at the end, as a job tells them. Nothing here depends on when or in what portions events arrive, so a stream can be
taken up behind any of its events, by another connection and by another process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, TypeVar

from msgspec import UNSET
from msgspec.structs import replace

from rbees.orcd.door.collected import logprobs_of
from rbees.orcd.openai.chat_answers import ContentLogprob, chat_logprobs
from rbees.orcd.responses import errors
from rbees.orcd.responses.answers import (
    AnsweredNamespace,
    IncompleteDetails,
    InputDetails,
    OutputDetails,
    Response,
    ResponseError,
    ResponseUsage,
)
from rbees.orcd.responses.events import (
    ArgumentsDelta,
    ArgumentsDone,
    Completed,
    Created,
    Failed,
    Incomplete,
    InProgress,
    ItemAdded,
    ItemDone,
    Numbered,
    PartAdded,
    PartDone,
    ReasoningDelta,
    ReasoningDone,
    StreamEvent,
    TextDelta,
    TextDone,
    Trouble,
    WaitsInQueue,
    frame,
)
from rbees.orcd.responses.items import CallItem, Item, MessageItem, OutputText, ReasoningItem, ReasoningText, Status
from rbees.orcd.responses.names import name_for_model, output_id, response_id
from rbees.protocol.chat import ToolCall
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import ChoiceEnd, End, Error, Event, Started, Token, Usage

N = TypeVar("N", bound=Numbered)
Growing = Literal["text", "reasoning"]

_OF_THE_PROMPT: Final = frozenset({ErrorCode.INVALID_REQUEST, ErrorCode.CONTEXT_EXCEEDED, ErrorCode.MODEL_INCOMPATIBLE})
_OF_THE_HOUR: Final = frozenset({ErrorCode.QUEUE_FULL, ErrorCode.QUOTA_EXCEEDED})


class Course:
    """Takes the events of a job in their order; `response` is what has come of them by now."""

    def __init__(self, asked: Response, job_id: str, created_at_ms: int) -> None:
        self._job_id = job_id
        self._created_at_ms = created_at_ms
        self._settled = replace(asked, id=response_id(job_id), created_at=created_at_ms // 1000)
        self._namespaced = {
            name_for_model(group.name, tool.name): (group.name, tool.name)
            for group in asked.tools
            if isinstance(group, AnsweredNamespace)
            for tool in group.tools
        }
        """What the model calls by one name, and the client knows by two."""
        self._next_number = 0
        self._items: list[Item] = []
        """Those that are whole."""
        self._growing: Growing | None = None
        self._texts: list[str] = []
        self._logprobs: list[ContentLogprob] = []
        self._thought_tokens = 0
        self.error: ErrorBody | None = None
        """Why it failed or was cancelled."""

    @property
    def last_number(self) -> int:
        """Of the latest event; -1 where there was none."""
        return self._next_number - 1

    @property
    def response(self) -> Response:
        """As it stands."""
        items = self._items
        if self._growing is not None:
            items = [*items, self._item(self._growing, "in_progress" if self.error is None else "incomplete")]
        return replace(self._settled, output=tuple(items))

    def begin(self) -> list[StreamEvent]:
        """What a stream begins with. It is told with the job's first event, or before that where the job was only just accepted."""
        return list(self._begun())

    def take(self, event: Event) -> list[StreamEvent]:
        """The events that an event of the job makes."""
        return [*self._begun(), *self._taken(event)]

    def _begun(self) -> Iterator[StreamEvent]:
        if self._next_number == 0:
            yield self._numbered(Created, response=self.response)
            if self._settled.background:
                yield self._numbered(WaitsInQueue, response=self.response)

    def _taken(self, event: Event) -> Iterator[StreamEvent]:
        match event:
            case Started():
                self._settle(status="in_progress")
                yield self._numbered(InProgress, response=self.response)
            case Token(part="reasoning"):
                self._thought_tokens += len(event.token_ids)
                yield from self._grow("reasoning", event)
            case Token(part="text"):
                yield from self._grow("text", event)
            case End():
                (end,) = event.choices
                yield from self._end(end, event)
            case Error():
                yield from self._fail(event.error)
            case _:
                pass

    # ---- items ---------------------------------------------------------------------------------------------------------

    def _grow(self, part: Growing, token: Token) -> Iterator[StreamEvent]:
        found = logprobs_of(token)
        logprobs = (chat_logprobs(found).content or ()) if found else ()
        if not token.text and not logprobs:
            return
        if self._growing != part:
            yield from self._close("completed")
            yield from self._open(part)
        self._texts.append(token.text)
        if part == "reasoning":
            yield self._of_part(ReasoningDelta, delta=token.text)
            return
        self._logprobs += logprobs
        yield self._of_part(TextDelta, delta=token.text, logprobs=logprobs)

    def _open(self, part: Growing) -> Iterator[StreamEvent]:
        self._growing, self._texts, self._logprobs = part, [], []
        item = self._item(part, "in_progress")
        yield self._numbered(ItemAdded, output_index=len(self._items), item=replace(item, content=()))
        yield self._of_part(PartAdded, part=item.content[0])

    def _close(self, status: Status) -> Iterator[StreamEvent]:
        if self._growing is None:
            return
        item = self._item(self._growing, status)
        if self._growing == "reasoning":
            yield self._of_part(ReasoningDone, text="".join(self._texts))
        else:
            yield self._of_part(TextDone, text="".join(self._texts), logprobs=tuple(self._logprobs))
        yield self._of_part(PartDone, part=item.content[0])
        self._growing = None
        yield self._done(item)

    def _call(self, call: ToolCall) -> Iterator[StreamEvent]:
        """Its arguments in one piece: what is called is known only once the whole of it was read."""
        place: dict[str, Any] = {"item_id": self._id("fc"), "output_index": len(self._items)}
        namespace, name = self._namespaced.get(call.name, (UNSET, call.name))
        arguments = encode(call.arguments).decode()
        item = CallItem(id=self._id("fc"), call_id=call.id, name=name, namespace=namespace, arguments=arguments)
        begun = replace(item, arguments="", status="in_progress")
        yield self._numbered(ItemAdded, output_index=len(self._items), item=begun)
        yield self._numbered(ArgumentsDelta, **place, delta=item.arguments)
        yield self._numbered(ArgumentsDone, **place, name=item.name, arguments=item.arguments)
        yield self._done(item)

    def _done(self, item: Item) -> StreamEvent:
        self._items.append(item)
        return self._numbered(ItemDone, output_index=len(self._items) - 1, item=item)

    def _item(self, part: Growing, status: Status) -> MessageItem | ReasoningItem:
        text = "".join(self._texts)
        if part == "reasoning":
            return ReasoningItem(id=self._id("rs"), content=(ReasoningText(text=text),), status=status)
        said = OutputText(text=text, logprobs=tuple(self._logprobs) or UNSET)
        return MessageItem(id=self._id("msg"), role="assistant", status=status, content=(said,))

    def _id(self, kind: str) -> str:
        return output_id(kind, self._job_id, len(self._items))

    # ---- ends ----------------------------------------------------------------------------------------------------------

    def _end(self, end: ChoiceEnd, event: End) -> Iterator[StreamEvent]:
        is_cut = end.finish_reason == "length"
        yield from self._close("incomplete" if is_cut else "completed")
        for call in end.tool_calls if self._settled.parallel_tool_calls else end.tool_calls[:1]:
            yield from self._call(call)
        if not is_cut and not any(isinstance(item, MessageItem | CallItem) for item in self._items):
            # Clients look for a message in what is complete, also where the model had nothing to say.
            yield from self._open("text")
            yield from self._close("completed")
        self._settle(usage=_usage(event.usage, self._thought_tokens))
        if is_cut:
            self._settle(status="incomplete", incomplete_details=IncompleteDetails())
            yield self._numbered(Incomplete, response=self.response)
        else:
            ended_at_ms = self._created_at_ms + (event.timings.total_ms or 0.0)
            self._settle(status="completed", completed_at=int(ended_at_ms // 1000))
            yield self._numbered(Completed, response=self.response)

    def _fail(self, error: ErrorBody) -> Iterator[StreamEvent]:
        self.error = error
        if error.code is ErrorCode.CANCELLED:
            self._settle(status="cancelled")
        else:
            said = RbeesError.from_body(error)
            said.message = errors.sentence(error)
            told = errors.body_of(said).error
            yield self._numbered(Trouble, code=told.code, message=told.message, param=told.param)
            self._settle(status="failed", error=ResponseError(code=_code(error.code), message=said.message))
        yield self._numbered(Failed, response=self.response)

    # ---- events --------------------------------------------------------------------------------------------------------

    def _settle(self, **fields: Any) -> None:
        self._settled = replace(self._settled, **fields)

    def _of_part(self, type_: Callable[..., N], **fields: Any) -> N:
        id_ = self._id("rs" if self._growing == "reasoning" else "msg")
        return self._numbered(type_, item_id=id_, output_index=len(self._items), **fields)

    def _numbered(self, type_: Callable[..., N], **fields: Any) -> N:
        self._next_number += 1
        return type_(sequence_number=self._next_number - 1, **fields)


class Frames:
    """A course as the bytes of a stream, from behind the event with the number `after` on."""

    def __init__(self, course: Course, after: int = -1) -> None:
        self._course = course
        self._after = after

    def begin(self) -> bytes:
        """The frames of what a stream begins with."""
        return self._frames(self._course.begin())

    def take(self, _number: int, event: Event) -> bytes:
        """The frames of one event."""
        return self._frames(self._course.take(event))

    def ended(self) -> bytes:
        """Nothing: the last event says that it is the last."""
        return b""

    def failed(self, error: RbeesError) -> bytes:
        """The job's failure; none where it goes on and only this process ends, for that is no part of the course."""
        return b"" if error.code is ErrorCode.DRAINING else self.take(0, Error(error=error.body()))

    def _frames(self, events: Iterable[StreamEvent]) -> bytes:
        return b"".join(frame(event) for event in events if event.sequence_number > self._after)


def _usage(usage: Usage, thought_tokens: int) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputDetails(reasoning_tokens=thought_tokens),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def _code(code: ErrorCode) -> Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]:
    if code in _OF_THE_PROMPT:
        return "invalid_prompt"
    return "rate_limit_exceeded" if code in _OF_THE_HOUR else "server_error"
