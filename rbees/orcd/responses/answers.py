"""PURE: a response as its clients see it, at whatever point of its course."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from msgspec import UNSET, UnsetType

from rbees.orcd.responses.items import Item
from rbees.protocol.codec import Message

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Tier = Literal["default", "flex"]


class InputDetails(Message, frozen=True, kw_only=True):
    """Of the prompt's tokens."""

    cached_tokens: int
    cache_write_tokens: int = 0
    """Always 0: what is kept costs nothing."""


class OutputDetails(Message, frozen=True, kw_only=True):
    """Of the answer's tokens."""

    reasoning_tokens: int


class ResponseUsage(Message, frozen=True, kw_only=True):
    """Tokens that were computed or found in a cache."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(Message, frozen=True, kw_only=True):
    """Why it failed. The code is one of the few that this API has; the sentence says the rest."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(Message, frozen=True, kw_only=True):
    """Why it is not complete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class AnsweredTool(Message, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """A function that could be called."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "description", "parameters"})
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class AnsweredNamespace(Message, frozen=True, kw_only=True, tag_field="type", tag="namespace"):
    """Functions that could be called, under a name of their own."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "description", "tools"})
    name: str
    description: str
    tools: tuple[AnsweredTool, ...]


class AnsweredSearch(Message, frozen=True, kw_only=True, tag_field="type", tag="web_search"):
    """A search of the web, which was passed over; what was said of it is given back."""

    private: ClassVar[frozenset[str]] = frozenset({"filters", "user_location"})
    external_web_access: Any | UnsetType = UNSET
    filters: Any | UnsetType = UNSET
    search_content_types: Any | UnsetType = UNSET
    search_context_size: Any | UnsetType = UNSET
    user_location: Any | UnsetType = UNSET


class AnsweredDatedSearch(AnsweredSearch, frozen=True, kw_only=True, tag_field="type", tag="web_search_2025_08_26"):
    """The same in the form of that day."""


class AnsweredPreview(AnsweredSearch, frozen=True, kw_only=True, tag_field="type", tag="web_search_preview"):
    """The same under its first name."""


class AnsweredDatedPreview(AnsweredSearch, frozen=True, kw_only=True, tag_field="type", tag="web_search_preview_2025_03_11"):
    """The same in the form of that day."""


AnyAnsweredTool = AnsweredTool | AnsweredNamespace | AnsweredSearch | AnsweredDatedSearch | AnsweredPreview | AnsweredDatedPreview
SEARCHES: Final[Mapping[str, type[AnsweredSearch]]] = {
    str(type_.__struct_config__.tag): type_
    for type_ in (AnsweredSearch, AnsweredDatedSearch, AnsweredPreview, AnsweredDatedPreview)
}
"""By the type of the tool."""


class ReasoningSettings(Message, frozen=True, kw_only=True):
    """How the model was to think."""

    effort: str | None = None
    summary: str | None = None


class Response(Message, frozen=True, kw_only=True):
    """One response. What it repeats of its request never changes."""

    private: ClassVar[frozenset[str]] = frozenset({"instructions", "metadata", "output", "tools", "tool_choice", "text"})
    id: str = ""
    object: Literal["response"] = "response"
    created_at: int = 0
    """Seconds since 1970 at which the job was accepted."""
    completed_at: int | None = None
    status: ResponseStatus
    background: bool
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    """As the client wrote it."""
    output: tuple[Item, ...] = ()
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningSettings
    safety_identifier: str | None
    service_tier: Tier
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: tuple[AnyAnsweredTool, ...]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None


class Deleted(Message, frozen=True, kw_only=True):
    """It is gone."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class ItemPage(Message, frozen=True, kw_only=True):
    """Some of the items of an input."""

    private: ClassVar[frozenset[str]] = frozenset({"data"})
    object: Literal["list"] = "list"
    data: tuple[Item, ...]
    first_id: str
    """Empty where there is none, as `last_id`."""
    last_id: str
    has_more: bool


class CountedTokens(Message, frozen=True, kw_only=True):
    """How many tokens a prompt has."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
