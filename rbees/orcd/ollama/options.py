"""PURE: what Ollama's requests have in common: `options`, `format`, `think`, and who asks for which model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from rbees.orcd.door.about_forms import CLOSED
from rbees.orcd.door.foreign import AnyStops, Foreign, Refused, refusal, stops_of
from rbees.orcd.ollama.keep_alive import KeepAlive
from rbees.orcd.openai.shared import AnySeed
from rbees.protocol.chat import TemplateOption
from rbees.protocol.jobs import MAX_TOKENS
from rbees.protocol.pools import ModelFacts
from rbees.protocol.response_format import JsonObjectFormat, JsonSchemaFormat, ResponseFormat
from rbees.protocol.sampling import (
    LEAST_TOP_P,
    MAX_SEED,
    FrequencyPenalty,
    MinP,
    PenaltyLastN,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TopLogprobs,
    TypicalP,
)

_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_TopK = Annotated[int, msgspec.Meta(ge=-1, le=1_000_000)]
Form = Annotated[
    Literal["", "json"] | dict[str, Any] | None,
    msgspec.Meta(description=f"`json`, or a JSON schema, which the answer follows to the letter. {CLOSED}"),
]
Think = Annotated[
    bool | Literal["low", "medium", "high", "max"] | None,
    msgspec.Meta(
        description="Told to the model's template as `enable_thinking`, a level as `reasoning_effort`; named as ignored where the "
        "model would have to do otherwise and its template has no such variable. Absent, the model does as it was trained."
    ),
]
ModelName = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=1024, description="`name`, `name:tag`, `hf.co/org/repo:quantization`, or any name that jobs take."
    ),
]


class Options(Foreign, frozen=True, kw_only=True):
    """How tokens are drawn, and how many."""

    private: ClassVar[frozenset[str]] = frozenset({"stop"})
    refused: ClassVar[Mapping[str, Refused]] = {
        "mirostat": Refused("use `temperature`, `top_p` or `min_p` in its place.", (0,)),
        "tfs_z": Refused("use `min_p` or `typical_p` in its place.", (1,)),
    }
    passed_over: ClassVar[Mapping[str, str]] = {
        "embedding_only": "What a model can do is known.",
        "f16_kv": "A worker's own matter.",
        "logits_all": "A worker's own matter.",
        "low_vram": "Where a model goes is orcd's decision.",
        "main_gpu": "Where a model goes is orcd's decision.",
        "mirostat_eta": "Without `mirostat` it says nothing.",
        "mirostat_tau": "Without `mirostat` it says nothing.",
        "num_batch": "A worker's own matter.",
        "num_ctx": "The context is as long as the worker has it; `/api/ps` tells.",
        "num_gpu": "Where a model goes is orcd's decision.",
        "num_keep": "A conversation that is too long is refused, never cut.",
        "num_thread": "A worker takes the cores that its pool gives it.",
        "numa": "A worker's own matter.",
        "penalize_newline": "Penalties fall on all tokens.",
        "use_mlock": "A worker's own matter.",
        "use_mmap": "A worker's own matter.",
        "vocab_only": "A worker's own matter.",
    }

    frequency_penalty: Annotated[FrequencyPenalty | None, msgspec.Meta(description="As it stands.")] = None
    min_p: Annotated[MinP | None, msgspec.Meta(description="As it stands.")] = None
    num_predict: Annotated[
        Annotated[int, msgspec.Meta(ge=-2, le=MAX_TOKENS)] | None,
        msgspec.Meta(
            description="The most tokens of the answer, cut to what the context leaves; -1 and -2, the default, are all of that."
        ),
    ] = None
    presence_penalty: Annotated[PresencePenalty | None, msgspec.Meta(description="As it stands.")] = None
    repeat_last_n: Annotated[PenaltyLastN | None, msgspec.Meta(description="The penalties' window; 0 is none, -1 all.")] = None
    repeat_penalty: Annotated[RepetitionPenalty | None, msgspec.Meta(description="As it stands; rbees' own default is 1.")] = None
    seed: Annotated[
        AnySeed | None,
        msgspec.Meta(description="Same seed, model and prompt: same draws. -1 leaves it open. The lowest 53 bits count."),
    ] = None
    stop: Annotated[AnyStops | None, msgspec.Meta(description="One text or up to 32, which the answer does not hold.")] = None
    temperature: Annotated[Temperature | None, msgspec.Meta(description="0 to 2; rbees' own default is 0.7.")] = None
    top_k: Annotated[_TopK | None, msgspec.Meta(description="-1 and 0 keep all tokens.")] = None
    top_p: Annotated[_Share | None, msgspec.Meta(description="0 to 1; rbees' own default is 0.95.")] = None
    typical_p: Annotated[TypicalP | None, msgspec.Meta(description="As it stands; above 0.")] = None


class ModelRequest(Foreign, frozen=True, kw_only=True):
    """Fields of all requests that need a model to be loaded."""

    content: ClassVar[str]
    """The field that holds what is asked."""
    model: ModelName
    keep_alive: KeepAlive = None
    options: Annotated[Options | None, msgspec.Meta(description="See the table of options.")] = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked but that the model be loaded, or go."""
        return not getattr(self, self.content)


class TextRequest(ModelRequest, frozen=True, kw_only=True):
    """Fields of both requests for text. A stream is what clients get that say nothing."""

    stream: Annotated[bool | None, msgspec.Meta(description="A JSON object on each line; false: one whole answer.")] = None
    format: Form = None
    think: Think = None
    logprobs: Annotated[bool | None, msgspec.Meta(description="Of the answer's text, not of thoughts and calls.")] = None
    top_logprobs: Annotated[TopLogprobs | None, msgspec.Meta(description="0 to 20, with `logprobs`.")] = None
    truncate: Annotated[
        bool | None,
        msgspec.Meta(description="Either way what is too long for the context is refused with both numbers, never cut."),
    ] = None
    shift: Annotated[
        bool | None, msgspec.Meta(description="Either way an answer ends where the context does, with `done_reason` `length`.")
    ] = None

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream."""
        return self.stream is not False


_SAME: Final = ("frequency_penalty", "min_p", "presence_penalty", "temperature", "typical_p")


def text_fields(request: TextRequest, reference: str, template_options: Mapping[str, TemplateOption]) -> dict[str, Any]:
    """The fields of a job that are the same for a chat and a prompt; what the client leaves open is left open.

    Raises:
        RbeesError: INVALID_REQUEST for an answer of no tokens.
    """
    options = request.options or Options()
    fields: dict[str, Any] = {name: value for name in _SAME if (value := getattr(options, name)) is not None}
    if options.num_predict == 0:
        raise refusal(
            "`options.num_predict` is 0; send how many tokens there may be, or -1 for as many as fit.", "options.num_predict"
        )
    if options.num_predict is not None and options.num_predict > 0:
        # A bound and no wish to that API's clients, which send the same figure to models of every context.
        fields |= {"max_tokens": options.num_predict, "fit_context": True}
    if options.repeat_penalty is not None:
        fields["repetition_penalty"] = options.repeat_penalty
    if options.repeat_last_n is not None:
        fields["penalty_last_n"] = options.repeat_last_n
    if options.seed is not None and options.seed != -1:
        fields["seed"] = options.seed & MAX_SEED
    if stops := stops_of(options.stop):
        fields["stop"] = stops
    if options.top_k is not None:
        fields["top_k"] = max(options.top_k, 0)
    if options.top_p is not None:
        fields["top_p"] = max(options.top_p, LEAST_TOP_P)
    return {
        **fields,
        "model": reference,
        "cancel_on_disconnect": True,
        "logprobs": bool(request.logprobs),
        "top_logprobs": request.top_logprobs or 0,
        "response_format": _form(request.format),
        "template_options": dict(template_options),
    }


def thinking(think: bool | str | None, facts: ModelFacts | None) -> tuple[dict[str, TemplateOption], tuple[str, ...]]:
    """What the model's template is told of the wish to think, and the field's name where it cannot be told and would have to be."""
    words = () if facts is None else facts.template_words
    if think is None:
        return {}, ()
    if isinstance(think, str) and "reasoning_effort" in words:
        return {"reasoning_effort": think}, ()
    if "enable_thinking" in words:
        return {"enable_thinking": bool(think)}, ("think",) if isinstance(think, str) else ()
    does_so_anyhow = facts is not None and not isinstance(think, str) and think == facts.thinks
    return {}, () if does_so_anyhow else ("think",)


def _form(format_: str | dict[str, Any] | None) -> ResponseFormat | None:
    if isinstance(format_, dict):
        return JsonSchemaFormat(schema=format_)
    return JsonObjectFormat() if format_ == "json" else None
