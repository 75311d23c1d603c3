"""PURE: `/v1/chat/completions`: the request as a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from rbees.orcd.door.about_forms import BESIDE_A_CHOICE, CLOSED
from rbees.orcd.door.foreign import Foreign, Refused, refusal
from rbees.orcd.openai.messages import Choice, Messages, Tools, chat_messages, job_tools, loosely_called
from rbees.orcd.openai.schema_formats import enforceable, unenforced
from rbees.orcd.openai.shared import (
    NOT_KEPT,
    AnyPriority,
    AnyTier,
    MaxTokens,
    Metadata,
    TextRequest,
    asked_form,
    job_fields,
    one_of,
    session_of,
    unmet,
    unmet_urgency,
    urgency,
)
from rbees.protocol.chat import TemplateOption, TemplateOptions
from rbees.protocol.jobs import JobRequest
from rbees.protocol.response_format import JsonObjectFormat, JsonSchemaFormat, ResponseFormat
from rbees.protocol.sampling import TopLogprobs

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class AnyText(Foreign, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """No form."""


class AnyObject(Foreign, frozen=True, kw_only=True, tag_field="type", tag="json_object"):
    """Some JSON object; llama.cpp's clients may send a schema with it."""

    private: ClassVar[frozenset[str]] = frozenset({"schema"})
    schema: dict[str, Any] | None = None


class NamedSchema(Foreign, frozen=True, kw_only=True):
    """A JSON schema. It is always followed; what no text can be kept to is refused where it is `strict`, else passed over."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "description", "schema"})
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any]
    strict: bool | None = None


class SchemaForm(Foreign, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    """JSON as a schema says."""

    json_schema: NamedSchema


AnyForm = Annotated[
    AnyText | AnyObject | SchemaForm | None,
    msgspec.Meta(
        description="`text`, `json_object`, `json_schema`; schemas are always followed, but for "
        "a `format` that is unknown: it is refused where `strict` is true, else passed over and named. "
        f"{CLOSED}"
    ),
]


_ANEW: Final = "an answer is always a new turn; send what it is to go on from as a raw `prompt` to /v1/completions."


class ChatRequest(TextRequest, frozen=True, kw_only=True):
    """A chat. Absent and null fields are left open."""

    private: ClassVar[frozenset[str]] = TextRequest.private | {
        *("messages", "tools", "tool_choice", "chat_template_kwargs", "template_options")
    }
    extras: ClassVar[frozenset[str]] = TextRequest.extras | {
        *("priority", "chat_template_kwargs", "template_options", "add_generation_prompt", "continue_final_message")
    }
    refused: ClassVar[Mapping[str, Refused]] = {
        "add_generation_prompt": Refused(_ANEW, (True,)),
        "audio": Refused("no model here speaks; leave it out."),
        "continue_final_message": Refused(_ANEW, (False,)),
        "function_call": Refused("it gave way to `tool_choice`; send that."),
        "functions": Refused("it gave way to `tools`; send those.", ([],)),
        "modalities": Refused("answers are text; send `text` alone or leave it out.", (["text"],)),
        "moderation": Refused("nothing is moderated here; leave it out."),
        "prediction": Refused("workers guess ahead by themselves; leave it out."),
        "prompt_cache_options": Refused("prompts are cached as far as they are alike; leave it out.", ({"mode": "implicit"},)),
        "prompt_cache_retention": Refused(
            "how long a prompt stays cached depends on what else comes; leave it out.", ("in_memory",)
        ),
        "store": NOT_KEPT,
        "verbosity": Refused("say in the messages how long the answer is to be; leave it out.", ("medium",)),
        "web_search_options": Refused("no model here searches the web; give it a tool that does."),
    }
    messages: Annotated[
        Messages,
        msgspec.Meta(
            description="Roles system, developer (the same), user, assistant and tool; content as a text or as parts of text. "
            "Images, audio and files are refused by their place. Thoughts of earlier turns as `reasoning_content` or `reasoning`. "
            "The answer is a new turn also behind an assistant's; `prefix` in that one is refused."
        ),
    ]
    logprobs: Annotated[bool | None, msgspec.Meta(description="Of the answer's text, not of thoughts and calls.")] = None
    max_completion_tokens: Annotated[
        MaxTokens | None, msgspec.Meta(description="The same as `max_tokens`; both leave the rest of the context if absent.")
    ] = None
    metadata: Annotated[Metadata | None, msgspec.Meta(description="Given back with a whole answer.")] = None
    parallel_tool_calls: Annotated[
        bool | None, msgspec.Meta(description="False: of several calls only the first is in the answer.")
    ] = None
    prompt_cache_key: Annotated[str | None, msgspec.Meta(description="The job's session, where `user` is absent.")] = None
    reasoning_effort: Annotated[
        Effort | None,
        msgspec.Meta(
            description="Told to the model's template: `none` as `enable_thinking` false, others as `reasoning_effort`; "
            "refused where the template has no such variable."
        ),
    ] = None
    response_format: AnyForm = None
    safety_identifier: Annotated[str | None, msgspec.Meta(description="The same as `user`.")] = None
    service_tier: AnyTier = None
    tool_choice: Annotated[
        Choice | None,
        msgspec.Meta(
            description="`auto`, `none`, `required`, a function by name, `allowed_tools`; a forced call is a single one. "
            f"{BESIDE_A_CHOICE}"
        ),
    ] = None
    tools: Annotated[
        Tools | None,
        msgspec.Meta(
            description="Functions; `strict` holds where a call is forced, and is named where it is not. "
            "A call of a function that is not among them is text. Tools of type `custom` are refused."
        ),
    ] = None
    top_logprobs: Annotated[TopLogprobs | None, msgspec.Meta(description="0 to 20, with `logprobs`.")] = None

    priority: AnyPriority = None
    chat_template_kwargs: Annotated[
        TemplateOptions | None, msgspec.Meta(description="Variables of the model's template; vLLM's and llama.cpp's name.")
    ] = None
    template_options: Annotated[TemplateOptions | None, msgspec.Meta(description="The same, as for jobs.")] = None


FLEX: Final = "flex"


def chat_job(request: ChatRequest) -> JobRequest:
    """The job that a chat asks for.

    Raises:
        RbeesError: INVALID_REQUEST for what contradicts itself or cannot be read, by its place.
    """
    fields = job_fields(request)
    fields["session_id"] = fields["session_id"] or session_of(request.safety_identifier, request.prompt_cache_key)
    tools, choice = job_tools(request.tools or (), request.tool_choice)
    return JobRequest(
        **fields,
        messages=chat_messages(request.messages),
        tools=tools,
        tool_choice=choice,
        max_tokens=_max_tokens(request),
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
        response_format=form_of(request, request.response_format),
        template_options=_template_options(request),
        priority=urgency(request.priority, request.service_tier),
    )


def unmet_of_chat(request: ChatRequest) -> tuple[str, ...]:
    """As `unmet`, with what only chats have."""
    loose = loosely_called(request.tools or (), request.tool_choice)
    return (*unmet(request), *unmet_urgency(request.priority), *unmet_form(request.response_format), *loose)


def unmet_form(asked: AnyText | AnyObject | SchemaForm | None) -> tuple[str, ...]:
    """As `unmet`: formats that no text is kept to, where the schema is not `strict`."""
    match asked:
        case AnyObject(schema=schema) if schema is not None:
            return tuple(unenforced(schema, "response_format.schema"))
        case SchemaForm(json_schema=named) if not named.strict:
            return tuple(unenforced(named.schema, "response_format.json_schema.schema"))
        case _:
            return ()


def _max_tokens(request: ChatRequest) -> int | None:
    asked: int | None = one_of(request, "max_completion_tokens", "max_tokens", "n_predict")
    return None if asked == -1 else asked


def form_of(request: TextRequest, asked: AnyText | AnyObject | SchemaForm | None) -> ResponseFormat | None:
    """The form of the answer, as its `response_format` or an extra asks for it. Raises RbeesError INVALID_REQUEST where both do."""
    extra = asked_form(request)
    match asked:
        case None | AnyText():
            return extra
        case AnyObject(schema=schema):
            form: ResponseFormat = JsonObjectFormat() if schema is None else JsonSchemaFormat(schema=enforceable(schema))
        case SchemaForm(json_schema=named):
            form = JsonSchemaFormat(schema=named.schema if named.strict else enforceable(named.schema))
    if extra is not None:
        raise refusal("`response_format` and another field each ask for a form; send one of them.", "response_format")
    return form


def _template_options(request: ChatRequest) -> dict[str, TemplateOption]:
    options = dict(one_of(request, "chat_template_kwargs", "template_options") or {})
    if request.reasoning_effort == "none":
        options.setdefault("enable_thinking", False)
    elif request.reasoning_effort is not None:
        options.setdefault("reasoning_effort", request.reasoning_effort)
    return options
