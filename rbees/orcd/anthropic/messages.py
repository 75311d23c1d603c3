"""PURE: `/v1/messages` and `/v1/messages/count_tokens`: the requests as a job and as a prompt to be counted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from rbees.orcd.anthropic import errors, thoughts
from rbees.orcd.anthropic import tools as tools_of
from rbees.orcd.anthropic.blocks import CacheControl, Texts
from rbees.orcd.anthropic.thoughts import Effort, ThinkingConfig
from rbees.orcd.anthropic.tools import Choice, Tools, is_single, job_choice, job_tools
from rbees.orcd.anthropic.turns import Turns, chat_messages
from rbees.orcd.door.about_forms import BESIDE_A_CHOICE, CLOSED
from rbees.orcd.door.foreign import Foreign, ManyStops, Refused, refusal, stops_of
from rbees.protocol.chat import TemplateOptions
from rbees.protocol.jobs import MAX_DEADLINE_MS, MAX_TIMEOUT_MS, MAX_TOKENS, JobRequest, Priority
from rbees.protocol.pools import ModelFacts
from rbees.protocol.response_format import JsonSchemaFormat
from rbees.protocol.sampling import LEAST_TOP_P, MAX_SEED, MinP, Temperature
from rbees.protocol.workers import TokenizeRequest

MAX_SESSION: Final = 128
"""Of a job's session; longer names of users are told by their hash."""
_AS_FOR_JOBS: Final = msgspec.Meta(description="As for jobs.")


class OwnSchema(Foreign, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    """JSON as a schema says."""

    private: ClassVar[frozenset[str]] = frozenset({"schema"})
    schema: dict[str, Any]


class OutputConfig(Foreign, frozen=True, kw_only=True):
    """How much is thought about an answer, and in what form it comes."""

    effort: Effort | None = None
    format: OwnSchema | None = None


class Metadata(Foreign, frozen=True, kw_only=True):
    """Who asks."""

    user_id: Annotated[str, msgspec.Meta(max_length=4_096)] | None = None


class PromptRequest(Foreign, frozen=True, kw_only=True):
    """What both routes ask about. Absent and null fields are left open."""

    private: ClassVar[frozenset[str]] = frozenset({"messages", "system", "tools", "tool_choice", "chat_template_kwargs"})
    extras: ClassVar[frozenset[str]] = frozenset({"chat_template_kwargs", "output_format", "mcp_servers", errors.THREAD})
    refused: ClassVar[Mapping[str, Refused]] = {
        "mcp_servers": Refused("nobody here calls such servers for a model; define their tools and run those yourself.", ([],)),
        "speed": Refused("an answer comes as fast as it can; leave it out.", ("standard",)),
        errors.THREAD: Refused(
            "conversations are not kept here; send all turns in `messages`, with `system` and `tools`, and leave it out."
        ),
    }
    model: Annotated[
        str, msgspec.Meta(min_length=1, max_length=1024, description="An alias, `hf:` or `file:` reference, sha256 or file name.")
    ]
    messages: Annotated[
        Turns,
        msgspec.Meta(
            description="Turns of user and assistant, and of system; content as a text or as blocks: text, documents and search "
            "results of text, thinking, tool_use, tool_result. Images and what is about Anthropic's own tools are refused by their "
            "place, and so is an assistant's turn at the end, for answers begin anew."
        ),
    ]
    cache_control: Annotated[
        CacheControl | None,
        msgspec.Meta(description="Taken everywhere; prompts are cached as far as they are alike."),
    ] = None
    output_config: Annotated[
        OutputConfig | None,
        msgspec.Meta(
            description=f"`format`: a JSON schema, which is always followed. {CLOSED} `effort` is told to the model's template as "
            "`reasoning_effort`; passed over and named where the template has no such variable."
        ),
    ] = None
    system: Annotated[str | Texts | None, msgspec.Meta(description="A text or blocks of text.")] = None
    thinking: Annotated[
        ThinkingConfig | None,
        msgspec.Meta(
            description="`enabled`, `adaptive`, `between_tools`: thoughts are shown as blocks, unless `display` is `omitted`; "
            "`disabled` or absent: they are not. The wish is told to the model's template as `enable_thinking`; where that has no "
            "such variable and does otherwise, the field is named as passed over. `budget_tokens` always is."
        ),
    ] = None
    tool_choice: Annotated[
        Choice | None,
        msgspec.Meta(
            description="`auto`, `any`, `tool` by name, `none`; a forced call is a single one. `disable_parallel_tool_use`: of "
            f"several calls only the first is in the answer. {BESIDE_A_CHOICE}"
        ),
    ] = None
    tools: Annotated[
        Tools | None,
        msgspec.Meta(
            description="Tools with an `input_schema`; `strict` holds where a call is forced, else it is passed over and named, as "
            "are `input_examples` and `eager_input_streaming`. Tools of other types are refused by their place."
        ),
    ] = None

    output_format: Annotated[
        OwnSchema | None, msgspec.Meta(description="What `output_config.format` was called before; send one of them.")
    ] = None
    chat_template_kwargs: Annotated[
        TemplateOptions | None, msgspec.Meta(description="Variables of the model's template, `template_options` of a job.")
    ] = None

    @property
    def shows_thoughts(self) -> bool:
        """Whether the answer tells what the model thought."""
        return thoughts.are_shown(self.thinking)

    @property
    def effort(self) -> Effort | None:
        """How much is thought."""
        return self.output_config.effort if self.output_config is not None else None

    @property
    def calls_once(self) -> bool:
        """Whether the answer may hold no more than one call."""
        return is_single(self.tool_choice)


class CountRequest(PromptRequest, frozen=True, kw_only=True):
    """A prompt whose tokens are to be counted."""


class MessagesRequest(PromptRequest, frozen=True, kw_only=True):
    """A conversation that is to go on."""

    private: ClassVar[frozenset[str]] = PromptRequest.private | {"stop_sequences", "metadata", "diagnostics"}
    extras: ClassVar[frozenset[str]] = PromptRequest.extras | {
        *("temperature", "top_p", "top_k", "min_p", "seed", "deterministic", "priority"),
        *("session_id", "timeout_ms", "deadline_ms", "cancel_on_disconnect"),
    }
    refused: ClassVar[Mapping[str, Refused]] = {
        **PromptRequest.refused,
        "container": Refused("no code runs here; leave it out."),
        "inference_geo": Refused("answers are computed where your workers are; leave it out."),
    }
    max_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)],
        msgspec.Meta(
            description="The most tokens of the answer. Where the context leaves less, the answer ends there, with "
            "`model_context_window_exceeded`. 0: the prompt is computed and kept for later requests, and the answer is empty."
        ),
    ]
    diagnostics: Annotated[
        dict[str, Any] | None, msgspec.Meta(description="Passed over and named: nobody tells why a prompt was not cached.")
    ] = None
    metadata: Annotated[
        Metadata | None, msgspec.Meta(description="`user_id` is the job's session: where many wait, sessions take turns.")
    ] = None
    service_tier: Annotated[
        Literal["auto", "standard_only"] | None, msgspec.Meta(description="Either is an interactive job; see `priority`.")
    ] = None
    stop_sequences: Annotated[
        ManyStops | None,
        msgspec.Meta(description="Up to 32 texts, which the answer does not hold; it names the one that came."),
    ] = None
    stream: Annotated[bool | None, msgspec.Meta(description="Server-sent events, typed as in the API reference.")] = None

    temperature: Annotated[Temperature | None, msgspec.Meta(description="0 to 2; rbees' own default is 0.7.")] = None
    top_p: Annotated[
        Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None, msgspec.Meta(description="0 to 1; rbees' own default is 0.95.")
    ] = None
    top_k: Annotated[
        Annotated[int, msgspec.Meta(ge=-1, le=1_000_000)] | None, msgspec.Meta(description="-1 and 0 keep all tokens.")
    ] = None
    min_p: Annotated[MinP | None, _AS_FOR_JOBS] = None
    seed: Annotated[Annotated[int, msgspec.Meta(ge=0, le=MAX_SEED)] | None, _AS_FOR_JOBS] = None
    deterministic: Annotated[bool | None, _AS_FOR_JOBS] = None
    priority: Annotated[Priority | None, _AS_FOR_JOBS] = None
    session_id: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_SESSION)] | None,
        msgspec.Meta(description="As for jobs; stronger than `metadata.user_id`."),
    ] = None
    timeout_ms: Annotated[Annotated[int, msgspec.Meta(ge=1, le=MAX_TIMEOUT_MS)] | None, _AS_FOR_JOBS] = None
    deadline_ms: Annotated[Annotated[int, msgspec.Meta(ge=1, le=MAX_DEADLINE_MS)] | None, _AS_FOR_JOBS] = None
    cancel_on_disconnect: Annotated[
        bool | None,
        msgspec.Meta(
            description="False: the job goes on when its client has left. Default: true, with an `Idempotency-Key` false."
        ),
    ] = None

    @property
    def says_nothing(self) -> bool:
        """Whether only the prompt is to be computed, for later requests."""
        return self.max_tokens == 0


_SAME: Final = ("temperature", "min_p", "seed", "deterministic", "priority", "timeout_ms", "deadline_ms")


def message_job(request: MessagesRequest, facts: ModelFacts | None) -> JobRequest:
    """The job that a request asks for, of a model of which that is known.

    Raises:
        RbeesError: INVALID_REQUEST for what contradicts itself or cannot be read, by its place.
    """
    fields = {name: value for name in _SAME if (value := getattr(request, name)) is not None}
    if request.top_p is not None:
        fields["top_p"] = max(request.top_p, LEAST_TOP_P)
    if request.top_k is not None:
        fields["top_k"] = max(request.top_k, 0)
    form = _form(request)
    return JobRequest(
        **fields,
        **_prompt(request, facts),
        model=request.model,
        max_tokens=max(request.max_tokens, 1),
        fit_context=True,
        stop=stops_of(request.stop_sequences),
        response_format=None if form is None else JsonSchemaFormat(schema=form.schema),
        session_id=request.session_id or _session(request.metadata),
        cancel_on_disconnect=request.cancel_on_disconnect is not False,
    )


def counted_prompt(request: CountRequest, facts: ModelFacts | None) -> TokenizeRequest:
    """What a worker is to count. Raises as `message_job`."""
    return TokenizeRequest(**_prompt(request, facts))


def unmet(request: PromptRequest, facts: ModelFacts | None) -> tuple[str, ...]:
    """Fields that are known, and whose value asks for what nobody does, or not this model."""
    names = [*tools_of.unmet(request.tools or (), request.tool_choice), *thoughts.unmet(request.thinking, request.effort, facts)]
    if isinstance(request, MessagesRequest) and request.diagnostics:
        names.append("diagnostics")
    return tuple(names)


def _prompt(request: PromptRequest, facts: ModelFacts | None) -> dict[str, Any]:
    if isinstance(request.tool_choice, tools_of.AnyChoice | tools_of.NamedChoice) and not request.tools:
        raise refusal("`tool_choice` asks for a call, but there are no `tools`; send them too.", "tool_choice")
    return {
        "messages": chat_messages(request.system, request.messages),
        "tools": job_tools(request.tools or ()),
        "tool_choice": job_choice(request.tool_choice),
        "template_options": thoughts.told(request.thinking, request.effort, facts) | (request.chat_template_kwargs or {}),
    }


def _form(request: PromptRequest) -> OwnSchema | None:
    form = request.output_config.format if request.output_config is not None else None
    if form is not None and request.output_format is not None:
        raise refusal("`output_format` is what `output_config.format` was called before; send one of them.", "output_format")
    return form or request.output_format


def _session(metadata: Metadata | None) -> str | None:
    name = metadata.user_id if metadata is not None else None
    if not name or len(name) <= MAX_SESSION:
        return name or None
    return f"user-{hashlib.sha256(name.encode()).hexdigest()}"
