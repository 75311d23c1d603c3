"""PURE: `/v1/completions`: the request as a job for each prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

import msgspec

from rbees.orcd.door.foreign import Refused, refusal
from rbees.orcd.openai.chat import AnyForm, form_of, unmet_form
from rbees.orcd.openai.shared import (
    AnyPriority,
    AnyTier,
    TextRequest,
    job_fields,
    one_of,
    unmet,
    unmet_urgency,
    urgency,
)
from rbees.protocol.jobs import MAX_PROMPT_IDS, JobRequest, PromptIds
from rbees.protocol.sampling import MAX_TOP_LOGPROBS

MAX_PROMPTS: Final = 128
DEFAULT_MAX_TOKENS: Final = 16
"""As the API reference says; clients that want more say so."""

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_TokenId = Annotated[int, msgspec.Meta(ge=0)]


class CompletionRequest(TextRequest, frozen=True, kw_only=True):
    """Raw prompts, to which no template is applied. Absent and null fields are left open."""

    private: ClassVar[frozenset[str]] = TextRequest.private | {"prompt"}
    extras: ClassVar[frozenset[str]] = TextRequest.extras | {"response_format", "service_tier", "priority"}
    refused: ClassVar[Mapping[str, Refused]] = {
        "best_of": Refused("ask for `n` answers and choose among them.", (1,)),
        "suffix": Refused("no model here fills in the middle by itself; write its marks into the prompt.", ("",)),
    }
    prompt: Annotated[
        _Text | Annotated[tuple[_Text | PromptIds | _TokenId, ...], msgspec.Meta(min_length=1, max_length=MAX_PROMPT_IDS)],
        msgspec.Meta(
            description=f"A text, an array of up to {MAX_PROMPTS} texts, an array of token ids, or an array of such arrays; "
            "each prompt is a job of its own."
        ),
    ]
    echo: Annotated[bool | None, msgspec.Meta(description="The answer begins with its prompt; for texts, without `logprobs`.")] = (
        None
    )
    logprobs: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None,
        msgspec.Meta(description=f"So many of the likeliest tokens at each place, up to {MAX_TOP_LOGPROBS}."),
    ] = None

    response_format: AnyForm = None
    service_tier: AnyTier = None
    priority: AnyPriority = None

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """One or more. Raises RbeesError INVALID_REQUEST for an array that mixes ids with prompts."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        ids = tuple(part for part in self.prompt if isinstance(part, int))
        if not ids:
            return tuple(part for part in self.prompt if not isinstance(part, int))
        if len(ids) < len(self.prompt):
            raise refusal("`prompt` mixes token ids with prompts; send either.", "prompt")
        return (ids,)


def completion_jobs(request: CompletionRequest) -> list[JobRequest]:
    """A job for each prompt.

    Raises:
        RbeesError: INVALID_REQUEST for what contradicts itself.
    """
    prompts = request.prompts
    if len(prompts) > MAX_PROMPTS:
        raise refusal(f"`prompt` holds {len(prompts)} prompts; send at most {MAX_PROMPTS}.", "prompt")
    if request.echo and (request.logprobs is not None or not all(isinstance(prompt, str) for prompt in prompts)):
        raise refusal("`echo` goes with texts and without `logprobs`; leave one out.", "echo")
    asked: int | None = one_of(request, "max_tokens", "n_predict")
    fields: dict[str, Any] = {
        **job_fields(request),
        "max_tokens": {None: DEFAULT_MAX_TOKENS, -1: None}.get(asked, asked),
        "logprobs": request.logprobs is not None,
        "top_logprobs": request.logprobs or 0,
        "response_format": form_of(request, request.response_format),
        "priority": urgency(request.priority, request.service_tier),
    }
    return [JobRequest(**fields, **_source(prompt)) for prompt in prompts]


def unmet_of_completion(request: CompletionRequest) -> tuple[str, ...]:
    """As `unmet`, with what only completions have."""
    return (*unmet(request), *unmet_urgency(request.priority), *unmet_form(request.response_format))


def _source(prompt: str | tuple[int, ...]) -> dict[str, Any]:
    return {"prompt": prompt} if isinstance(prompt, str) else {"token_ids": prompt}
