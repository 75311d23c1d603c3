"""PURE: `/v1/responses`: the request as a job, and what is kept of it beside the job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol

import msgspec

from rbees.orcd.door.about_forms import BESIDE_A_CHOICE, CLOSED
from rbees.orcd.door.foreign import Foreign, Refused, refusal
from rbees.orcd.openai.chat import FLEX, AnyObject, AnyText, ChatRequest, Effort
from rbees.orcd.openai.schema_formats import enforceable, unenforced
from rbees.orcd.openai.shared import (
    AnyPriority,
    MaxTokens,
    Metadata,
    Name,
    ServiceTier,
    StreamOptions,
    TextRequest,
    asked_form,
    job_fields,
    one_of,
    unmet_urgency,
    urgency,
)
from rbees.orcd.openai.shared import unmet as unmet_of_any
from rbees.orcd.responses import efforts, errors
from rbees.orcd.responses.answers import ReasoningSettings, Response
from rbees.orcd.responses.items import Input, Item, check_length, turns_of
from rbees.orcd.responses.tools import AnyTool, Choice, Tools, job_tools, told_choice, told_tools
from rbees.orcd.responses.tools import unmet as unmet_of_tools
from rbees.protocol.chat import ChatMessage, TemplateOption, TemplateOptions
from rbees.protocol.codec import Message
from rbees.protocol.jobs import JobRequest
from rbees.protocol.pools import ModelFacts
from rbees.protocol.response_format import JsonObjectFormat, JsonSchemaFormat, ResponseFormat
from rbees.protocol.sampling import TopLogprobs
from rbees.protocol.workers import TokenizeRequest

LOGPROBS: Final = "message.output_text.logprobs"
_Summary = Literal["auto", "concise", "detailed"]
_Included = Annotated[str, msgspec.Meta(max_length=128)]


class Reasoning(Foreign, frozen=True, kw_only=True):
    """How the model is to think."""

    refused: ClassVar[Mapping[str, Refused]] = {
        "context": Refused("which thoughts of earlier turns count is up to the model's template; leave it out.", ("auto",)),
        "mode": Refused("there is one mode only; leave it out.", ("standard",)),
    }
    effort: Effort | None = None
    summary: _Summary | None = None
    generate_summary: _Summary | None = None


class NamedForm(Foreign, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    """JSON as a schema says. It is always followed; what no text can be kept to is refused if it is `strict`, else passed over."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "description", "schema"})
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any]
    strict: bool | None = None


class TextSettings(Foreign, frozen=True, kw_only=True):
    """The form of the answer's text."""

    refused: ClassVar[Mapping[str, Refused]] = {"verbosity": ChatRequest.refused["verbosity"]}
    format: AnyText | AnyObject | NamedForm | None = None


ResponseId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]

_ABOUT_INPUT: Final = msgspec.Meta(
    description="A text, or items: messages (`input_text`, `output_text`), `function_call`, `function_call_output`, `reasoning`, "
    "and `item_reference` to an item that orcd named. Images, files and items of other kinds are refused by their place."
)
_ABOUT_INSTRUCTIONS: Final = msgspec.Meta(description="A system message before all else; a next response does not take it over.")
_ABOUT_PREVIOUS: Final = msgspec.Meta(
    description="The conversation goes on behind that response: what it was asked and what it answered come first."
)
_ABOUT_REASONING: Final = msgspec.Meta(
    description="`effort` is told to the model's template: `none` as `enable_thinking` false, others as `reasoning_effort` or else "
    "as `enable_thinking` true; named as ignored where the model does otherwise or knows no levels. Thoughts are answered as they "
    "are: `summary` is passed over and named."
)
_ABOUT_TEXT: Final = msgspec.Meta(
    description="`format`: `text`, `json_object`, `json_schema`; schemas are always followed, but for a `format` that is unknown: "
    f"it is refused where `strict` is true, else passed over and named. {CLOSED}"
)
_ABOUT_CHOICE: Final = msgspec.Meta(
    description="`auto`, `none`, `required`, a function by `name`, and `namespace` where several have it, `allowed_tools`; a "
    f"forced call is a single one. {BESIDE_A_CHOICE}"
)
_ABOUT_TOOLS: Final = msgspec.Meta(
    description="Functions, alone or in a `namespace`, which the model reads as `namespace__name`; `strict` holds where a call is "
    "forced, and is named where it is not. `web_search` and `web_search_preview` are passed over and named, unless `tool_choice` "
    "asks for them. All other tools are refused."
)
_ABOUT_PARALLEL: Final = msgspec.Meta(description="False: of several calls only the first is in the answer.")
_NO_CONVERSATION: Final = Refused("conversations are not kept here; send `previous_response_id`, or the items themselves.")
_NO_CUTTING: Final = Refused(
    "what exceeds the context is refused, and nothing is cut off; send `disabled` or leave it out.", ("disabled",)
)


class ResponseRequest(TextRequest, frozen=True, kw_only=True):
    """A response. Absent and null fields are left open."""

    private: ClassVar[frozenset[str]] = TextRequest.private | {
        *("input", "instructions", "text", "tools", "tool_choice", "chat_template_kwargs")
    }
    extras: ClassVar[frozenset[str]] = TextRequest.extras | {
        *("frequency_penalty", "logit_bias", "max_tokens", "n", "presence_penalty", "seed", "stop"),
        *("priority", "chat_template_kwargs"),
    }
    refused: ClassVar[Mapping[str, Refused]] = {
        "access_programs": Refused("there are no such programs here; leave it out."),
        "background_options": Refused("a job begins as soon as it can; leave it out.", ({"completion_window": "soonest"},)),
        "context_management": Refused("nothing is compacted here; leave it out."),
        "conversation": _NO_CONVERSATION,
        "image": Refused("no model here looks at images; leave it out."),
        "moderation": ChatRequest.refused["moderation"],
        "prompt": Refused("templates of prompts are not kept here; send `instructions` and `input`."),
        "prompt_cache_options": ChatRequest.refused["prompt_cache_options"],
        "prompt_cache_retention": ChatRequest.refused["prompt_cache_retention"],
        "truncation": _NO_CUTTING,
    }
    form_name: ClassVar[str] = errors.FORM
    input: Annotated[Input, _ABOUT_INPUT]
    instructions: Annotated[str | None, _ABOUT_INSTRUCTIONS] = None
    previous_response_id: Annotated[ResponseId | None, _ABOUT_PREVIOUS] = None
    background: Annotated[
        bool | None,
        msgspec.Meta(description="True: answered at once, and the response goes on whoever leaves; not with `store`: false."),
    ] = None
    store: Annotated[
        bool | None,
        msgspec.Meta(
            description="False: it cannot be asked for again, and its job is kept as every job is. Default: true, for as long "
            "as the retention setting says."
        ),
    ] = None
    include: Annotated[
        Annotated[tuple[_Included, ...], msgspec.Meta(max_length=32)] | None,
        msgspec.Meta(description=f"`{LOGPROBS}`; others tell of what there is none of, and are passed over and named."),
    ] = None
    max_output_tokens: Annotated[
        MaxTokens | None,
        msgspec.Meta(description="The most tokens of thoughts, text and calls; the rest of the context if absent."),
    ] = None
    max_tool_calls: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] | None,
        msgspec.Meta(description="Bounds the calls of tools that a server runs, of which there are none; given back."),
    ] = None
    metadata: Annotated[Metadata | None, msgspec.Meta(description="Given back with every answer.")] = None
    parallel_tool_calls: Annotated[bool | None, _ABOUT_PARALLEL] = None
    prompt_cache_key: Annotated[Name | None, msgspec.Meta(description="The job's session, where `user` is absent.")] = None
    reasoning: Annotated[Reasoning | None, _ABOUT_REASONING] = None
    safety_identifier: Annotated[Name | None, msgspec.Meta(description="The same as `user`.")] = None
    service_tier: Annotated[
        ServiceTier | Literal["ultrafast"] | None,
        msgspec.Meta(description="`flex` is a job of priority batch, every other an interactive one."),
    ] = None
    stream: Annotated[bool | None, msgspec.Meta(description="Server-sent events with `sequence_number`.")] = None
    stream_options: Annotated[
        StreamOptions | None, msgspec.Meta(description="Nothing to choose: the last event always has usage, and none is padded.")
    ] = None
    text: Annotated[TextSettings | None, _ABOUT_TEXT] = None
    tool_choice: Annotated[Choice | None, _ABOUT_CHOICE] = None
    tools: Annotated[Tools | None, _ABOUT_TOOLS] = None
    top_logprobs: Annotated[TopLogprobs | None, msgspec.Meta(description=f"0 to 20; more than 0 asks for `{LOGPROBS}` too.")] = None

    priority: AnyPriority = None
    chat_template_kwargs: Annotated[
        TemplateOptions | None, msgspec.Meta(description="Variables of the model's template, `template_options` of a job.")
    ] = None

    @property
    def is_kept(self) -> bool:
        """Whether it can be asked for again."""
        return self.store is not False


class CountRequest(Foreign, frozen=True, kw_only=True):
    """A response whose prompt is to be counted. Absent and null fields are left open."""

    private: ClassVar[frozenset[str]] = frozenset({"input", "instructions", "text", "tools", "tool_choice"})
    refused: ClassVar[Mapping[str, Refused]] = {
        "conversation": _NO_CONVERSATION,
        "personality": Refused("say in `instructions` how the model is to speak; leave it out."),
        "truncation": _NO_CUTTING,
    }
    model: Annotated[
        str, msgspec.Meta(min_length=1, max_length=1024, description="An alias, `hf:` or `file:` reference, sha256 or file name.")
    ]
    input: Annotated[Input, _ABOUT_INPUT]
    instructions: Annotated[str | None, _ABOUT_INSTRUCTIONS] = None
    previous_response_id: Annotated[ResponseId | None, _ABOUT_PREVIOUS] = None
    parallel_tool_calls: Annotated[bool | None, msgspec.Meta(description="Changes nothing about a prompt.")] = None
    reasoning: Annotated[Reasoning | None, _ABOUT_REASONING] = None
    text: Annotated[TextSettings | None, msgspec.Meta(description="Changes nothing about a prompt.")] = None
    tool_choice: Annotated[Choice | None, _ABOUT_CHOICE] = None
    tools: Annotated[Tools | None, _ABOUT_TOOLS] = None


class Asked(Message, frozen=True, kw_only=True):
    """What every answer repeats of the request."""

    asked: Response
    """Its id and time are those of the job."""


class Record(Asked, frozen=True, kw_only=True):
    """What is kept of a response beside its job. The input may have megabytes, which only those read who ask for it."""

    private: ClassVar[frozenset[str]] = frozenset({"input"})
    input: tuple[Item, ...]


class PromptSource(Protocol):
    """What makes a prompt, in requests for one and for its length."""

    @property
    def instructions(self) -> str | None:
        """A system message before all else."""

    @property
    def tools(self) -> Sequence[AnyTool] | None:
        """What may be called."""

    @property
    def tool_choice(self) -> Choice | None:
        """Whether it may."""

    @property
    def reasoning(self) -> Reasoning | None:
        """How to think."""


def response_job(
    request: ResponseRequest, earlier: Sequence[ChatMessage], items: Sequence[Item], facts: ModelFacts | None
) -> JobRequest:
    """The job that a response asks for, of a model of which that is known; `earlier` is the conversation before its `items`.

    Raises:
        RbeesError: INVALID_REQUEST for what contradicts itself or cannot be read, by its place.
    """
    if request.background and not request.is_kept:
        raise refusal("`background` goes with a response that is kept; leave `store` out.", "background")
    if request.n not in (None, 1):
        raise refusal("A response is one answer; leave `n` out, or ask `/v1/chat/completions`.", "n")
    fields = job_fields(request)
    if request.background:
        fields["cancel_on_disconnect"] = False
    fields["session_id"] = fields["session_id"] or request.safety_identifier or request.prompt_cache_key
    max_tokens: int | None = one_of(request, "max_output_tokens", "max_tokens", "n_predict")
    return JobRequest(
        **fields,
        **_prompt(request, earlier, items, facts, request.chat_template_kwargs or {}),
        max_tokens=None if max_tokens == -1 else max_tokens,
        logprobs=LOGPROBS in (request.include or ()) or bool(request.top_logprobs),
        top_logprobs=request.top_logprobs or 0,
        response_format=_form(request),
        priority=urgency(request.priority, request.service_tier),
    )


def counted_prompt(
    request: CountRequest, earlier: Sequence[ChatMessage], items: Sequence[Item], facts: ModelFacts | None
) -> TokenizeRequest:
    """What a worker is to count. Raises as `response_job`."""
    return TokenizeRequest(**_prompt(request, earlier, items, facts, {}))


def record_of(request: ResponseRequest, job: JobRequest, items: Sequence[Item]) -> Record:
    """What is kept beside the job, and what answers repeat of the request."""
    settings = request.reasoning or Reasoning()
    asked = Response(
        status="queued" if request.background else "in_progress",
        background=bool(request.background),
        instructions=request.instructions,
        max_output_tokens=job.max_tokens,
        max_tool_calls=request.max_tool_calls,
        metadata=request.metadata or {},
        model=request.model,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=ReasoningSettings(effort=settings.effort),
        safety_identifier=request.safety_identifier,
        service_tier="flex" if request.service_tier == FLEX else "default",
        store=request.is_kept,
        temperature=job.temperature,
        text={"format": _told_form(request)},
        tool_choice=told_choice(request.tool_choice),
        tools=told_tools(request.tools or ()),
        top_logprobs=job.top_logprobs,
        top_p=job.top_p,
        user=request.user,
    )
    return Record(asked=asked, input=tuple(items))


def conversation_of(job: JobRequest, asked: Response, output: Sequence[Item]) -> tuple[ChatMessage, ...]:
    """What a response was asked and what it answered, for the one that goes on behind it: its instructions are not carried over."""
    told = job.messages or ()
    return (*(told if asked.instructions is None else told[1:]), *turns_of(output))


def unmet(request: ResponseRequest | CountRequest, facts: ModelFacts | None) -> tuple[str, ...]:
    """Fields that are known, and whose value asks for what nobody does, or not this model."""
    settings = request.reasoning or Reasoning()
    names = ["reasoning.effort"] if efforts.is_unmet(settings.effort, facts) else []
    names += [f"reasoning.{name}" for name in ("summary", "generate_summary") if getattr(settings, name) is not None]
    if isinstance(request, ResponseRequest):
        names += [*unmet_of_any(request), *unmet_urgency(request.priority), *_unmet_form(request)]
        names += [f"include[{number}]" for number, name in enumerate(request.include or ()) if name != LOGPROBS]
    names += unmet_of_tools(request.tools or (), request.tool_choice)
    return tuple(names)


def _prompt(
    request: PromptSource,
    earlier: Sequence[ChatMessage],
    items: Sequence[Item],
    facts: ModelFacts | None,
    options: Mapping[str, TemplateOption],
) -> dict[str, Any]:
    instructions = () if request.instructions is None else (ChatMessage(role="system", content=request.instructions),)
    messages = (*instructions, *earlier, *turns_of(items))
    check_length(messages)
    tools, choice = job_tools(request.tools or (), request.tool_choice)
    told = efforts.told((request.reasoning or Reasoning()).effort, facts)
    return {"messages": messages, "tools": tools, "tool_choice": choice, "template_options": {**told, **options}}


# ---- forms ---------------------------------------------------------------------------------------------------------------


def _form(request: ResponseRequest) -> ResponseFormat | None:
    extra = asked_form(request)
    match None if request.text is None else request.text.format:
        case None | AnyText():
            return extra
        case AnyObject(schema=schema):
            form: ResponseFormat = JsonObjectFormat() if schema is None else JsonSchemaFormat(schema=enforceable(schema))
        case NamedForm() as named:
            form = JsonSchemaFormat(schema=named.schema if named.strict else enforceable(named.schema))
    if extra is not None:
        raise refusal("`text.format` and another field each ask for a form; send one of them.", "text.format")
    return form


def _unmet_form(request: ResponseRequest) -> Iterator[str]:
    """Formats that no text is kept to, where the schema is not `strict`."""
    match None if request.text is None else request.text.format:
        case AnyObject(schema=schema) if schema is not None:
            yield from unenforced(schema, f"{errors.FORM}.schema")
        case NamedForm() as named if not named.strict:
            yield from unenforced(named.schema, f"{errors.FORM}.schema")
        case _:
            pass


def _told_form(request: ResponseRequest) -> dict[str, Any]:
    match None if request.text is None else request.text.format:
        case None | AnyText():
            return {"type": "text"}
        case AnyObject():
            return {"type": "json_object"}
        case NamedForm() as form:
            told = {"description": form.description, "schema": form.schema, "strict": form.strict is not False}
            return {"type": "json_schema", "name": form.name or "answer", **told}
