"""PURE: `/v1/models` for Anthropic's clients: what can be asked for, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

from rbees.orcd.door.foreign import refusal
from rbees.protocol.codec import Message
from rbees.protocol.pools import ModelView

MADE: Final = "1970-01-01T00:00:00Z"
"""Nobody tells when a model was made; this is what the API reference asks for then."""
DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 1_000


class ModelInfo(Message, frozen=True, kw_only=True):
    """One model. What follows `lifecycle` is rbees' own."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str = MADE
    max_input_tokens: int
    """The largest that a ready worker has; where none is ready, what one would get, or what the model was trained for."""
    lifecycle: Literal["active"] = "active"
    status: Literal["ready", "available"]
    """Whether a worker serves it now, or one would be started for the first who asks."""


class ModelPage(Message, frozen=True, kw_only=True):
    """Some of the models that pools hold, those that are ready first."""

    data: tuple[ModelInfo, ...]
    has_more: bool
    first_id: str | None
    last_id: str | None


def model_info(model: ModelView, name: str | None = None) -> ModelInfo:
    """One model, under the name by which it was asked for or its own best one."""
    facts = model.facts
    best = facts.aliases[0] if facts.aliases else facts.ref
    return ModelInfo(
        id=name or best,
        display_name=best,
        max_input_tokens=model.context_length,
        status="ready" if model.ready_workers else "available",
    )


def model_page(models: Iterable[ModelView], limit: int | None, after: str | None, before: str | None) -> ModelPage:
    """So many models, behind or before the one with that id.

    Raises:
        RbeesError: INVALID_REQUEST for an id that is not in the list, or for both.
    """
    made = [model_info(model) for model in models]
    listed = sorted(made, key=lambda model: (model.status != "ready", model.id))
    count = limit or DEFAULT_LIMIT
    if after is not None and before is not None:
        raise refusal("`after_id` and `before_id` look in two directions; send one of them.", "before_id")
    if before is not None:
        end = _place(listed, before, "before_id")
        shown, more = listed[max(0, end - count) : end], end > count
    else:
        begin = 0 if after is None else _place(listed, after, "after_id") + 1
        shown, more = listed[begin : begin + count], begin + count < len(listed)
    return ModelPage(
        data=tuple(shown),
        has_more=more,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
    )


def _place(listed: Sequence[ModelInfo], id_: str, parameter: str) -> int:
    place = next((number for number, model in enumerate(listed) if model.id == id_), None)
    if place is None:
        raise refusal(f"`{parameter}` names no model of the list; begin again without it.", parameter)
    return place
