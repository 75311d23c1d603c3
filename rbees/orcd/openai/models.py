"""PURE: `/v1/models`: what can be asked for, by the names that the other routes take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rbees.protocol import model_ref
from rbees.protocol.codec import Message
from rbees.protocol.errors import RbeesError
from rbees.protocol.model_ref import HubRef
from rbees.protocol.pools import ModelView
from rbees.protocol.vectors import Capability

OWN: Literal["rbees"] = "rbees"


class ModelObject(Message, frozen=True, kw_only=True):
    """One model. What follows `owned_by` is rbees' own."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    """Nobody tells when a model was made, so this is always 0."""
    owned_by: str
    """The organisation of a hub whose repository it comes from, else `rbees`."""
    status: Literal["ready", "available"]
    """Whether a worker serves it now, or one would be started for the first who asks."""
    reference: str
    aliases: tuple[str, ...]
    sha256: str
    capabilities: tuple[Capability, ...]
    context_length: int
    """The largest that a ready worker has; where none is ready, what one would get, or what the model was trained for."""
    parameters: int
    quantization: str
    size_bytes: int


class ModelObjects(Message, frozen=True, kw_only=True):
    """All models that pools hold, those that are ready first."""

    object: Literal["list"] = "list"
    data: tuple[ModelObject, ...]


def model_list(models: Iterable[ModelView]) -> ModelObjects:
    """The list."""
    made = [model_object(model) for model in models]
    return ModelObjects(data=tuple(sorted(made, key=lambda model: (model.status != "ready", model.id))))


def model_object(model: ModelView, name: str | None = None) -> ModelObject:
    """One model, under the name by which it was asked for or its own best one."""
    facts = model.facts
    return ModelObject(
        id=name or (facts.aliases[0] if facts.aliases else facts.ref),
        owned_by=_owner(facts.ref),
        status="ready" if model.ready_workers else "available",
        reference=facts.ref,
        aliases=facts.aliases,
        sha256=facts.sha256,
        capabilities=facts.capabilities,
        context_length=model.context_length,
        parameters=facts.parameters,
        quantization=facts.quantization,
        size_bytes=facts.size_bytes,
    )


def _owner(reference: str) -> str:
    try:
        parsed = model_ref.parse(reference)
    except RbeesError:
        return OWN
    return parsed.repository.partition("/")[0] if isinstance(parsed, HubRef) else OWN
