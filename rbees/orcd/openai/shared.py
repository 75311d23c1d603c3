"""PURE: what requests that make text have in common: how tokens are drawn, what form the answer has, who asks and how urgently."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from rbees.orcd.door.foreign import AnyStops, Foreign, Refused, read_object, refusal, stops_of
from rbees.orcd.openai.schema_formats import enforceable, unenforced
from rbees.protocol.jobs import MAX_CHOICES, MAX_DEADLINE_MS, MAX_TIMEOUT_MS, MAX_TOKENS, Priority
from rbees.protocol.response_format import GrammarFormat, JsonSchemaFormat, RegexFormat, ResponseFormat
from rbees.protocol.sampling import (
    LEAST_TOP_P,
    MAX_SEED,
    DryAllowedLength,
    DryBase,
    DryMultiplier,
    DryPenaltyLastN,
    DrySequenceBreakers,
    FrequencyPenalty,
    LogitBias,
    MinP,
    PenaltyLastN,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TypicalP,
    XtcProbability,
    XtcThreshold,
)

MAX_METADATA: Final = 16

# OpenAI's own limits (API reference, "metadata").
Metadata = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=64)], Annotated[str, msgspec.Meta(max_length=512)]],
    msgspec.Meta(max_length=MAX_METADATA),
]
MAX_NAME: Final = 128
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
MaxTokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
AnySeed = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast"]
AnyTier = Annotated[
    ServiceTier | None, msgspec.Meta(description="`flex` is a job of priority batch, every other an interactive one.")
]
AnyPriority = Annotated[
    Literal["interactive", "batch"] | int | None,
    msgspec.Meta(description="As for jobs; stronger than `service_tier`. A number, which vLLM takes, is passed over and named."),
]
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_TopK = Annotated[int, msgspec.Meta(ge=-1, le=1_000_000)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Schema = dict[str, Any] | _Text
_Alternatives = Annotated[tuple[_Text, ...], msgspec.Meta(min_length=1, max_length=1_024)]

# Rust's syntax takes a backslash before any of these (https://docs.rs/regex/latest/regex/#escape-sequences).
_SPECIAL: Final = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~]")

NOT_KEPT: Final = Refused(
    "what is kept of an answer is its job, for as long as the retention setting says; leave it out.", (False,)
)


class StructuredOutputs(Foreign, frozen=True, kw_only=True):
    """vLLM's name for the form of an answer; one of these."""

    json: _Schema | None = None
    regex: _Text | None = None
    choice: _Alternatives | None = None
    grammar: _Text | None = None


class StreamOptions(Foreign, frozen=True, kw_only=True):
    """What a stream tells beside the answer."""

    refused: ClassVar[Mapping[str, Refused]] = {
        "include_obfuscation": Refused("chunks are not padded here; send false or leave it out.", (False,))
    }
    include_usage: bool | None = None


class TextRequest(Foreign, frozen=True, kw_only=True):
    """Fields that every request for text has, OpenAI's first."""

    private: ClassVar[frozenset[str]] = frozenset(
        {"stop", "logit_bias", "metadata", "dry_sequence_breakers", "json_schema", "grammar", "structured_outputs"}
        | {"guided_json", "guided_regex", "guided_choice", "guided_grammar"}
    )
    extras: ClassVar[frozenset[str]] = frozenset(
        {"top_k", "min_p", "typical_p", "repetition_penalty", "repeat_penalty", "repeat_last_n", "ignore_eos", "cache_prompt"}
        | {"penalty_last_n"}
        | {"dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "n_predict"}
        | {"xtc_probability", "xtc_threshold", "guided_json", "guided_regex", "guided_choice", "guided_grammar"}
        | {"structured_outputs", "json_schema", "grammar"}
        | {"deterministic", "session_id", "timeout_ms", "deadline_ms", "cancel_on_disconnect"}
    )
    form_name: ClassVar[str] = "response_format"
    """The API's own field for the form of the answer."""
    model: Annotated[
        str, msgspec.Meta(min_length=1, max_length=1024, description="An alias, `hf:` or `file:` reference, sha256 or file name.")
    ]
    frequency_penalty: Annotated[FrequencyPenalty | None, msgspec.Meta(description="As it stands.")] = None
    logit_bias: Annotated[LogitBias | None, msgspec.Meta(description="Token id to -100 … 100.")] = None
    max_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=-1, le=MAX_TOKENS)] | None,
        msgspec.Meta(description="The most tokens of each answer; -1 is what the context leaves."),
    ] = None
    n: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None,
        msgspec.Meta(description=f"1 to {MAX_CHOICES} answers, which share the prompt's computation."),
    ] = None
    presence_penalty: Annotated[PresencePenalty | None, msgspec.Meta(description="As it stands.")] = None
    seed: Annotated[
        AnySeed | None, msgspec.Meta(description="Same seed, model and prompt: same draws. The lowest 53 bits count.")
    ] = None
    stop: Annotated[AnyStops | None, msgspec.Meta(description="One text or up to 32, which the answer does not hold.")] = None
    stream: Annotated[bool | None, msgspec.Meta(description="Server-sent events, closed by `[DONE]`.")] = None
    stream_options: Annotated[
        StreamOptions | None, msgspec.Meta(description="`include_usage`: a last chunk with usage and no choices.")
    ] = None
    temperature: Annotated[Temperature | None, msgspec.Meta(description="0 to 2; rbees' own default is 0.7.")] = None
    top_p: Annotated[_Share | None, msgspec.Meta(description="0 to 1; rbees' own default is 0.95.")] = None
    user: Annotated[str | None, msgspec.Meta(description="The job's session: where many wait, sessions take turns.")] = None

    top_k: Annotated[_TopK | None, msgspec.Meta(description="-1 and 0 keep all tokens.")] = None
    min_p: Annotated[MinP | None, msgspec.Meta(description="As for jobs.")] = None
    typical_p: Annotated[TypicalP | None, msgspec.Meta(description="As for jobs.")] = None
    repetition_penalty: Annotated[RepetitionPenalty | None, msgspec.Meta(description="As for jobs; vLLM's name.")] = None
    repeat_penalty: Annotated[RepetitionPenalty | None, msgspec.Meta(description="The same; llama.cpp's name.")] = None
    penalty_last_n: Annotated[PenaltyLastN | None, msgspec.Meta(description="As for jobs.")] = None
    repeat_last_n: Annotated[PenaltyLastN | None, msgspec.Meta(description="The same; llama.cpp's name.")] = None
    dry_multiplier: Annotated[DryMultiplier | None, msgspec.Meta(description="As for jobs.")] = None
    dry_base: Annotated[DryBase | None, msgspec.Meta(description="As for jobs.")] = None
    dry_allowed_length: Annotated[DryAllowedLength | None, msgspec.Meta(description="As for jobs.")] = None
    dry_penalty_last_n: Annotated[DryPenaltyLastN | None, msgspec.Meta(description="As for jobs.")] = None
    dry_sequence_breakers: Annotated[DrySequenceBreakers | None, msgspec.Meta(description="As for jobs.")] = None
    xtc_probability: Annotated[XtcProbability | None, msgspec.Meta(description="As for jobs.")] = None
    xtc_threshold: Annotated[XtcThreshold | None, msgspec.Meta(description="As for jobs.")] = None
    ignore_eos: Annotated[bool | None, msgspec.Meta(description="The answer goes on to its `max_tokens`.")] = None
    cache_prompt: Annotated[
        bool | None, msgspec.Meta(description="True is what happens anyhow; false is passed over and named.")
    ] = None
    n_predict: Annotated[
        Annotated[int, msgspec.Meta(ge=-1, le=MAX_TOKENS)] | None,
        msgspec.Meta(description="llama.cpp's `max_tokens`; -1 is what the context leaves."),
    ] = None
    guided_json: Annotated[_Schema | None, msgspec.Meta(description="vLLM's form: a JSON schema.")] = None
    guided_regex: Annotated[_Text | None, msgspec.Meta(description="A regular expression that the whole answer matches.")] = None
    guided_choice: Annotated[_Alternatives | None, msgspec.Meta(description="The answer is one of these texts.")] = None
    guided_grammar: Annotated[_Text | None, msgspec.Meta(description="A grammar: GBNF where it holds `::=`, else Lark.")] = None
    structured_outputs: Annotated[
        StructuredOutputs | None, msgspec.Meta(description="The same four as `json`, `regex`, `choice`, `grammar`.")
    ] = None
    json_schema: Annotated[dict[str, Any] | None, msgspec.Meta(description="llama.cpp's form: a JSON schema.")] = None
    grammar: Annotated[_Text | None, msgspec.Meta(description="llama.cpp's form: a grammar, as `guided_grammar`.")] = None
    deterministic: Annotated[bool | None, msgspec.Meta(description="As for jobs.")] = None
    session_id: Annotated[Name | None, msgspec.Meta(description="As for jobs; stronger than `user`.")] = None
    timeout_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=MAX_TIMEOUT_MS)] | None, msgspec.Meta(description="As for jobs.")
    ] = None
    deadline_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=MAX_DEADLINE_MS)] | None, msgspec.Meta(description="As for jobs.")
    ] = None
    cancel_on_disconnect: Annotated[
        bool | None,
        msgspec.Meta(
            description="False: the job goes on when its client has left. Default: true, with an `Idempotency-Key` false."
        ),
    ] = None

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream."""
        return bool(self.stream)

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


_SAME: Final = (
    *("frequency_penalty", "logit_bias", "presence_penalty", "temperature", "min_p", "typical_p", "repetition_penalty"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
    *("xtc_probability", "xtc_threshold", "ignore_eos", "n", "deterministic", "timeout_ms", "deadline_ms"),
)


def job_fields(request: TextRequest) -> dict[str, Any]:
    """The job's fields that are the same for every request for text; those that the client leaves open are left open.

    Raises:
        RbeesError: INVALID_REQUEST for fields that contradict each other.
    """
    if request.stream_options is not None and not request.stream:
        raise refusal("`stream_options` goes with `stream`: true; leave it out.", "stream_options")
    for name in ("max_tokens", "n_predict"):
        if getattr(request, name) == 0:
            raise refusal(f"`{name}` is at least 1, or -1 for what the context leaves; send one of them.", name)
    fields = {name: value for name in _SAME if (value := getattr(request, name)) is not None}
    if request.repeat_penalty is not None:
        fields["repetition_penalty"] = one_of(request, "repetition_penalty", "repeat_penalty")
    if request.repeat_last_n is not None or request.penalty_last_n is not None:
        fields["penalty_last_n"] = one_of(request, "penalty_last_n", "repeat_last_n")
    if request.top_p is not None:
        fields["top_p"] = max(request.top_p, LEAST_TOP_P)
    if request.top_k is not None:
        fields["top_k"] = max(request.top_k, 0)
    if request.seed is not None:
        fields["seed"] = request.seed & MAX_SEED
    if stops := stops_of(request.stop):
        fields["stop"] = stops
    fields["model"] = request.model
    fields["cancel_on_disconnect"] = request.cancel_on_disconnect is not False
    fields["session_id"] = request.session_id or session_of(request.user)
    return fields


def session_of(*names: str | None) -> str | None:
    """The session for which the first name stands that says anything; by its digest where a session's name cannot be so long."""
    name = next(filter(None, names), None)
    return name if name is None or len(name) <= MAX_NAME else hashlib.sha256(name.encode()).hexdigest()


def unmet(request: TextRequest) -> tuple[str, ...]:
    """Fields that are known, and whose value asks for what nobody does."""
    named = ["cache_prompt"] if request.cache_prompt is False else []
    for name, schema in _asked_schemas(request):
        named += unenforced(_schema(schema, name), name) if schema is not None else ()
    return tuple(named)


def urgency(priority: str | int | None, tier: str | None) -> Priority:
    """The job's priority, by rbees' own word for it or else by the API's."""
    if priority == "batch" or (tier == "flex" and priority != "interactive"):
        return "batch"
    return "interactive"


def unmet_urgency(priority: str | int | None) -> tuple[str, ...]:
    """As `unmet`: jobs have two priorities, and no number says which."""
    return ("priority",) if isinstance(priority, int) else ()


def one_of(request: TextRequest, *names: str) -> Any:
    """The value of fields that mean the same. Raises RbeesError INVALID_REQUEST where they differ."""
    given = {name: value for name in names if (value := getattr(request, name)) is not None}
    values = list(given.values())
    if any(value != values[0] for value in values):
        told = " and ".join(f"`{name}`" for name in given)
        raise refusal(f"{told} mean the same and differ; send one of them.", next(iter(given)))
    return values[0] if values else None


def asked_form(request: TextRequest) -> ResponseFormat | None:
    """The form that one of the extras asks for.

    Raises:
        RbeesError: INVALID_REQUEST where several do, or a schema is no JSON.
    """
    outputs = request.structured_outputs or StructuredOutputs()
    asked: list[tuple[str, ResponseFormat]] = []
    for name, schema in _asked_schemas(request):
        if schema is not None:
            asked.append((name, JsonSchemaFormat(schema=enforceable(_schema(schema, name)))))
    for name, pattern in (("guided_regex", request.guided_regex), ("structured_outputs.regex", outputs.regex)):
        if pattern is not None:
            asked.append((name, RegexFormat(pattern=pattern)))
    for name, texts in (("guided_choice", request.guided_choice), ("structured_outputs.choice", outputs.choice)):
        if texts is not None:
            asked.append((name, RegexFormat(pattern="|".join(map(_literally, texts)))))
    for name, grammar in (
        ("guided_grammar", request.guided_grammar),
        ("structured_outputs.grammar", outputs.grammar),
        ("grammar", request.grammar),
    ):
        if grammar is not None:
            asked.append((name, GrammarFormat(syntax="gbnf" if "::=" in grammar else "lark", grammar=grammar)))
    if len(asked) > 1:
        raise refusal(f"`{asked[0][0]}` and `{asked[1][0]}` each ask for a form; send one of them.", asked[1][0])
    return asked[0][1] if asked else None


def _asked_schemas(request: TextRequest) -> tuple[tuple[str, _Schema | None], ...]:
    outputs = request.structured_outputs
    return (
        ("guided_json", request.guided_json),
        ("structured_outputs.json", outputs.json if outputs is not None else None),
        ("json_schema", request.json_schema),
    )


def _schema(schema: dict[str, Any] | str, name: str) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else read_object(schema, name, "send the schema itself")


def _literally(text: str) -> str:
    return _SPECIAL.sub(lambda found: "\\" + found[0], text)
