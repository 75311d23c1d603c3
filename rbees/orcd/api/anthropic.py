"""`/v1/messages`: Anthropic's API over the cluster. What it says is translated in `rbees.orcd.anthropic`, what it does is done by
the door.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from aiohttp import web

from rbees.orcd.anthropic import errors
from rbees.orcd.anthropic.answers import PING, AnsweredMessage, MessageStream, StreamEvent, TokenCount, message_answer, message_id
from rbees.orcd.anthropic.messages import CountRequest, MessagesRequest, PromptRequest, counted_prompt, message_job, unmet
from rbees.orcd.anthropic.models import MAX_LIMIT, ModelInfo, ModelPage, model_info, model_page
from rbees.orcd.api.asked import ACCEPTING, KEY, PREFER, names_of, read_asked, wait_s
from rbees.orcd.door.counts import Counts
from rbees.orcd.door.runs import Runs
from rbees.orcd.door.streams import stream, whole
from rbees.orcd.pools import Pools
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.correlation import correlation_id
from rbees.service.sse import StreamForm
from rbees.service.web import ErrorShape, Parameter, Route, WordedError, argument, reply

REQUEST_ID: Final = "request-id"
"""Header by which this API's clients know a request; here it is the correlation id."""
VERSION: Final = Parameter(
    "anthropic-version",
    "Sent by Anthropic's clients, which are answered in the shape of their API. All versions are taken as the one described here.",
    where="header",
)
BETA: Final = Parameter("beta", "Taken and passed over, whatever it says.")
_ID = Annotated[str, msgspec.Meta(min_length=1, max_length=1_024)]
PAGES: Final = (
    Parameter("limit", "So many models at most, 20 where nothing is said.", Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]),
    Parameter("after_id", "Only those behind the one with this id.", _ID),
    Parameter("before_id", "Only those before the one with this id.", _ID),
)
"""Of a list of models; only with `anthropic-version`."""


def _worded(error: RbeesError) -> WordedError:
    return WordedError(errors.status_of(error), errors.body_of(error, correlation_id.get()), errors.headers_of(error))


FORM: Final = StreamForm(comment=PING)
SHAPE: Final = ErrorShape(errors.ErrorAnswer, _worded, sign=VERSION.name, id_header=REQUEST_ID)


def is_client(request: web.Request) -> bool:
    """Whether Anthropic's own clients ask, on a path that they share with others."""
    return VERSION.name in request.headers


def list_models(request: web.Request, pools: Pools) -> ModelPage:
    """The models for those clients. Raises RbeesError INVALID_REQUEST for parameters that do not fit."""
    limit, after, before = (argument(request, parameter) for parameter in PAGES)
    return model_page(pools.models(), limit, after, before)


def show_model(name: str, pools: Pools) -> ModelInfo:
    """One of them. Raises RbeesError MODEL_NOT_FOUND."""
    found = pools.find_model(pools.meant(name).reference)
    return model_info(found, name)


def refuse_files(request: web.Request) -> None:
    """Tell those clients that files of their API are none of those here. Raises RbeesError NOT_FOUND."""
    if is_client(request):
        message = "Files of Anthropic's API are not supported; send what they hold in `messages`, as text or a `document` of text."
        raise RbeesError(ErrorCode.NOT_FOUND, message)


def routes(runs: Runs, pools: Pools) -> list[Route]:
    """The routes of Anthropic's clients."""
    counts = Counts(runs, pools)

    async def messages(request: web.Request) -> web.StreamResponse:
        asked, headers = await read_asked(request, MessagesRequest, runs, missed)
        async with runs.of([message_job(asked, pools.meant(asked.model).facts)], argument(request, KEY)) as [run]:
            id_, headers = message_id(run.row.job_id), headers | names_of([run])
            if asked.stream:
                return await stream(request, [run], MessageStream(asked, id_), headers, wait_s(request), form=FORM)
            return reply(message_answer(asked, id_, await whole(run, wait_s=wait_s(request))), headers=headers)

    async def count(request: web.Request) -> web.StreamResponse:
        asked, headers = await read_asked(request, CountRequest, None, missed)
        prompt = counted_prompt(asked, pools.meant(asked.model).facts)
        counted = await counts.count(asked.model, prompt, wait_s(request))
        return reply(TokenCount(input_tokens=counted), headers=headers)

    def missed(asked: PromptRequest) -> tuple[str, ...]:
        return unmet(asked, pools.meant(asked.model).facts)

    return [
        Route(
            "POST",
            "/v1/messages",
            messages,
            "Answer a conversation, whole or as a stream of events.",
            request=MessagesRequest,
            response=AnsweredMessage,
            events=StreamEvent,
            errors=ACCEPTING,
            parameters=(VERSION, KEY, PREFER, BETA),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/v1/messages/count_tokens",
            count,
            "Count the tokens of a conversation as the model's own template and tokenizer make them.",
            request=CountRequest,
            response=TokenCount,
            errors=(*ACCEPTING, ErrorCode.WORKER_UNREACHABLE),
            parameters=(VERSION, PREFER, BETA),
            error_shape=SHAPE,
        ),
    ]
