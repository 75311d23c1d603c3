"""`/v1/responses`: OpenAI's Responses API over the cluster. What it says is translated in `rbees.orcd.responses`.

A response that is kept outlives its connection and this process: its stream is made from the journal whenever somebody asks, the
same bytes each time, from behind whatever event the client has seen last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from aiohttp import web

from rbees.orcd.api.asked import ACCEPTING, KEY, PREFER, names_of, read_asked, wait_s
from rbees.orcd.api.openai import REQUEST_ID
from rbees.orcd.door.counts import Counts
from rbees.orcd.door.foreign import refusal
from rbees.orcd.door.runs import Run, Runs
from rbees.orcd.door.streams import stream
from rbees.orcd.kept_responses import Found, KeptResponses, answered, beside
from rbees.orcd.openai.errors import ErrorAnswer, headers_of, status_of
from rbees.orcd.openai.places import told_as_sent
from rbees.orcd.pools import Pools
from rbees.orcd.responses import errors
from rbees.orcd.responses.answers import CountedTokens, Deleted, ItemPage, Response
from rbees.orcd.responses.course import Frames
from rbees.orcd.responses.events import StreamEvent
from rbees.orcd.responses.items import read_items
from rbees.orcd.responses.pages import DEFAULT_LIMIT, MAX_LIMIT, Order, item_page
from rbees.orcd.responses.requests import CountRequest, ResponseRequest, counted_prompt, record_of, response_job, unmet
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import TERMINAL_STATUSES
from rbees.service.sse import SseWriter
from rbees.service.web import ErrorShape, Parameter, Route, WordedError, argument, reply

_LARGEST: Final = (1 << 53) - 1
_STREAM: Final = Parameter("stream", "True: the events of its stream, as when it was made.", bool)
_STARTING_AFTER: Final = Parameter(
    "starting_after",
    "With `stream`: only events behind the one with this `sequence_number`.",
    Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)],
)
_INCLUDE: Final = Parameter("include[]", "Passed over: whatever was made of it when the response was asked for is there.")
_OBFUSCATION: Final = Parameter("include_obfuscation", "Events are not padded here; false passes.", bool)
_ID = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_LIMIT: Final = Parameter(
    "limit", f"So many items at most, {DEFAULT_LIMIT} where nothing is said.", Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
)
_ORDER: Final = Parameter("order", "`desc`, where nothing is said: the last item first; `asc`: the first.", Order)
_AFTER: Final = Parameter("after", "Only those behind the one with this id, in that order.", _ID)
_BEFORE: Final = Parameter("before", "Only those before the one with this id.", _ID)


def _worded(error: RbeesError) -> WordedError:
    return WordedError(status_of(error), errors.body_of(error), headers_of(error))


SHAPE: Final = ErrorShape(ErrorAnswer, _worded, id_header=REQUEST_ID)


def routes(runs: Runs, kept: KeptResponses, pools: Pools) -> list[Route]:
    """The routes about responses."""
    counts = Counts(runs, pools)

    async def create(request: web.Request) -> web.StreamResponse:
        asked, headers = await read_asked(request, ResponseRequest, runs, missed)
        earlier = () if asked.previous_response_id is None else await kept.conversation(asked.previous_response_id)
        items = await kept.resolve(read_items(asked.input, asked.model))
        job = response_job(asked, earlier, items, pools.meant(asked.model).facts)
        record = record_of(asked, job, items)
        data = encode(record)
        with told_as_sent(asked):
            async with runs.of([job], argument(request, KEY), beside=beside(data, is_kept=asked.is_kept)) as [run]:
                found, headers = Found(run.row, record.asked, data), headers | names_of([run])
                if asked.background and not asked.streams:
                    return reply(await _now(found), headers=headers)
                if asked.background:
                    return await _replay(request, run, found, headers)
                if asked.streams:
                    return await stream(request, [run], Frames(found.begin()), headers, wait_s(request))
                return reply(await answered(run, found.begin(), wait_s(request)), headers=headers)

    async def show(request: web.Request) -> web.StreamResponse:
        found = await _found(request)
        after = argument(request, _STARTING_AFTER)
        if argument(request, _OBFUSCATION):
            raise refusal("`include_obfuscation` is not supported: events are not padded here; leave it out.", _OBFUSCATION.name)
        if argument(request, _STREAM):
            async with runs.again(found.row) as run:
                return await _replay(request, run, found, names_of([run]), -1 if after is None else after)
        if after is not None:
            raise refusal("`starting_after` goes with `stream`=true; send that too.", _STARTING_AFTER.name)
        return reply(await _now(found))

    async def cancel(request: web.Request) -> web.Response:
        return reply((await kept.cancel(await _found(request))).response)

    async def delete(request: web.Request) -> web.Response:
        await kept.forget(request.match_info["response_id"])
        return reply(Deleted(id=request.match_info["response_id"]))

    async def list_input(request: web.Request) -> web.Response:
        found = await _found(request)
        limit: int = argument(request, _LIMIT) or DEFAULT_LIMIT
        order: Order = argument(request, _ORDER) or "desc"
        return reply(item_page(found.input, limit, order, argument(request, _AFTER), argument(request, _BEFORE)))

    async def count(request: web.Request) -> web.Response:
        asked, headers = await read_asked(request, CountRequest, None, missed)
        earlier = () if asked.previous_response_id is None else await kept.conversation(asked.previous_response_id)
        items = await kept.resolve(read_items(asked.input, asked.model))
        prompt = counted_prompt(asked, earlier, items, pools.meant(asked.model).facts)
        counted = await counts.count(asked.model, prompt, wait_s(request))
        return reply(CountedTokens(input_tokens=counted), headers=headers)

    def missed(asked: ResponseRequest | CountRequest) -> tuple[str, ...]:
        return unmet(asked, pools.meant(asked.model).facts)

    async def _found(request: web.Request) -> Found:
        return await kept.find(request.match_info["response_id"])

    async def _now(found: Found) -> Response:
        return (await kept.course(found)).response

    not_there = (ErrorCode.JOB_NOT_FOUND, ErrorCode.OUTPUT_ERASED)
    return [
        Route(
            "POST",
            "/v1/responses",
            create,
            "Answer a conversation as a response, whole, as a stream of events, or in the background.",
            request=ResponseRequest,
            response=Response,
            events=StreamEvent,
            errors=(ErrorCode.JOB_NOT_FOUND, *ACCEPTING),
            parameters=(KEY, PREFER),
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1/responses/{response_id}",
            show,
            "Show a response as far as it has come, or take its stream up behind any event; every replay has the same bytes.",
            response=Response,
            events=StreamEvent,
            errors=not_there,
            parameters=(_STREAM, _STARTING_AFTER, _INCLUDE, _OBFUSCATION),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/v1/responses/{response_id}/cancel",
            cancel,
            "Cancel a response and show it once it has ended; one that had ended stays as it is.",
            response=Response,
            errors=(*not_there, ErrorCode.DRAINING),
            error_shape=SHAPE,
        ),
        Route(
            "DELETE",
            "/v1/responses/{response_id}",
            delete,
            "Delete a response and erase what its job was asked and answered; one that runs is cancelled first.",
            response=Deleted,
            errors=(*not_there, ErrorCode.DRAINING, ErrorCode.STORAGE_FULL),
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1/responses/{response_id}/input_items",
            list_input,
            "List what a response was asked, without what went before it.",
            response=ItemPage,
            errors=not_there,
            parameters=(_LIMIT, _ORDER, _AFTER, _BEFORE, _INCLUDE),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/v1/responses/input_tokens",
            count,
            "Count the tokens of a response's prompt as the model's own template and tokenizer make them.",
            request=CountRequest,
            response=CountedTokens,
            errors=(*ACCEPTING, ErrorCode.JOB_NOT_FOUND, ErrorCode.WORKER_UNREACHABLE),
            parameters=(PREFER,),
            error_shape=SHAPE,
        ),
    ]


async def _replay(request: web.Request, run: Run, found: Found, headers: Mapping[str, str], after: int = -1) -> web.StreamResponse:
    """The stream of a response that is kept, from behind the event `after` on; where it goes on, so does this.

    Raises:
        RbeesError: INVALID_REQUEST where it has ended before the event `after`.
    """
    course = found.begin()
    frames, batches = Frames(course, after), run.events()
    first = frames.begin()
    if run.row.status in TERMINAL_STATUSES:
        # Nothing new will come, so whether there is an event behind that one is known before the head is sent.
        async for events in batches:
            first += b"".join(frames.take(0, event) for event in events)
            if first:
                break
        if after > course.last_number:
            message = (
                f"`starting_after` must lie between 0 and {course.last_number}, the last event of this response, which has ended."
            )
            raise refusal(message, _STARTING_AFTER.name)
    writer = SseWriter(request, headers)
    async with writer as out:
        try:
            if first:
                await out.write(first)
            async for events in batches:
                if data := b"".join(frames.take(0, event) for event in events):
                    await out.write(data)
        except RbeesError as error:
            if error.code is not ErrorCode.DRAINING:
                raise
            # The response goes on when this process is back, and so may its reader.
    return writer.response
