"""PURE: `/api/tags`, `/api/show` and `/api/ps`: what there is, what one model is, and what is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from rbees.orcd.door.foreign import Foreign, refusal
from rbees.orcd.door.model_names import Known, names_of
from rbees.protocol.codec import Message
from rbees.protocol.pools import ModelFacts, ModelView, WorkerFacts

UNKNOWN_TIME: Final = "1970-01-01T00:00:00Z"
"""Nobody tells when a model was made or came here."""
_Name = Annotated[str, msgspec.Meta(max_length=1024)]
_LARGE: Final = ((1_000_000_000_000, "T", 1), (1_000_000_000, "B", 1), (1_000_000, "M", 2), (1_000, "K", 1))
_LOADED: Final = frozenset({"ready", "draining"})


class NamedRequest(Foreign, frozen=True, kw_only=True):
    """A request about one model; `name` is what older clients write."""

    model: Annotated[_Name | None, msgspec.Meta(description="Any name of the model, as for chats.")] = None
    name: Annotated[_Name | None, msgspec.Meta(description="The same, as older clients write it.")] = None

    @property
    def wanted(self) -> str:
        """The name. Raises RbeesError INVALID_REQUEST where there is none."""
        found = self.model or self.name
        if not found:
            raise refusal("`model` is missing; send the name of a model.", "model")
        return found


class ShowRequest(NamedRequest, frozen=True, kw_only=True):
    """Which model to show."""

    verbose: Annotated[bool | None, msgspec.Meta(description="There is nothing more to tell.")] = None


class ModelDetails(Message, frozen=True, kw_only=True):
    """What kind of model it is."""

    parent_model: str = ""
    format: str
    family: str
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str


class ListedModel(Message, frozen=True, kw_only=True):
    """One model that some pool holds."""

    name: str
    model: str
    modified_at: str = UNKNOWN_TIME
    size: int
    digest: str
    details: ModelDetails


class ListAnswer(Message, frozen=True, kw_only=True):
    """All models that pools hold, those that are ready first."""

    models: tuple[ListedModel, ...]


class ShownModel(Message, frozen=True, kw_only=True):
    """What is known of a model from its file."""

    modified_at: str = UNKNOWN_TIME
    details: ModelDetails
    model_info: dict[str, Any]
    capabilities: tuple[str, ...]


class RunningModel(Message, frozen=True, kw_only=True):
    """A model that workers have loaded, all of them together."""

    name: str
    model: str
    size: int
    """Memory that they take."""
    digest: str
    details: ModelDetails
    expires_at: str
    """When it goes if nobody asks for it."""
    size_vram: int
    """Of the memory, what is an accelerator's."""
    context_length: int
    """The largest that one of them has."""


class RunningAnswer(Message, frozen=True, kw_only=True):
    """What is loaded."""

    models: tuple[RunningModel, ...]


class VersionAnswer(Message, frozen=True, kw_only=True):
    """The version of Ollama whose API this is, by which clients tell what they may ask for."""

    version: str
    rbees: str
    """What answers."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and the workers that have it."""

    facts: ModelFacts
    workers: Sequence[WorkerFacts]
    expires_at: str


def model_list(models: Iterable[ModelView], known: Known) -> ListAnswer:
    """The list."""
    held = list(models)
    names = names_of([model.facts for model in held], known)
    order = sorted(held, key=lambda model: (not model.ready_workers, model.facts.ref))
    return ListAnswer(models=tuple(_listed(model.facts, names[model.facts.sha256]) for model in order))


def shown_model(facts: ModelFacts) -> ShownModel:
    """One model."""
    family = facts.architecture
    info = {
        "general.architecture": family,
        "general.parameter_count": facts.parameters,
        f"{family}.attention.head_count": facts.head_count,
        f"{family}.attention.head_count_kv": facts.head_count_kv,
        f"{family}.attention.key_length": facts.key_length,
        f"{family}.attention.value_length": facts.value_length,
        f"{family}.block_count": facts.layers,
        f"{family}.context_length": facts.context_length,
        f"{family}.embedding_length": facts.embedding_length,
        f"{family}.vocab_size": facts.vocabulary_size,
        "rbees.reference": facts.ref,
        "rbees.aliases": list(facts.aliases),
        "rbees.sha256": facts.sha256,
    }
    return ShownModel(details=_details(facts), model_info=info, capabilities=_capabilities(facts))


def loaded_models(models: Iterable[ModelFacts], workers: Iterable[WorkerFacts]) -> list[tuple[ModelFacts, list[WorkerFacts]]]:
    """The models that workers have loaded, with those workers."""
    by_model: dict[str, list[WorkerFacts]] = {}
    for worker in workers:
        if worker.state in _LOADED:
            by_model.setdefault(worker.model_sha256, []).append(worker)
    return [(facts, by_model[facts.sha256]) for facts in models if facts.sha256 in by_model]


def running(loaded: Iterable[Loaded], models: Iterable[ModelFacts], known: Known) -> RunningAnswer:
    """What is loaded of all `models`, and until when."""
    names = names_of(models, known)
    return RunningAnswer(models=tuple(_running(one, names[one.facts.sha256]) for one in loaded))


def _running(one: Loaded, name: str) -> RunningModel:
    return RunningModel(
        name=name,
        model=name,
        size=sum(worker.memory_bytes for worker in one.workers),
        digest=one.facts.sha256,
        details=_details(one.facts),
        expires_at=one.expires_at,
        size_vram=sum(worker.memory_bytes for worker in one.workers if worker.backend in {"cuda", "metal"}),
        context_length=max(worker.ctx for worker in one.workers),
    )


def _listed(facts: ModelFacts, name: str) -> ListedModel:
    return ListedModel(name=name, model=name, size=facts.size_bytes, digest=facts.sha256, details=_details(facts))


def _details(facts: ModelFacts) -> ModelDetails:
    return ModelDetails(
        format="scripted" if facts.architecture == "scripted" else "gguf",
        family=facts.architecture,
        families=(facts.architecture,),
        parameter_size=_rounded(facts.parameters),
        quantization_level=facts.quantization,
    )


def _capabilities(facts: ModelFacts) -> tuple[str, ...]:
    """In Ollama's words; it has none for a model that ranks."""
    chats = "chat" in facts.capabilities
    able = {
        "completion": "generate" in facts.capabilities,
        "tools": chats and "tools" in facts.template_words,
        "thinking": chats and facts.thinks,
        "embedding": "embed" in facts.capabilities,
    }
    return tuple(name for name, can in able.items() if can)


def _rounded(count: int) -> str:
    """A count as people say it: 7.2B, 494.03M."""
    return next((f"{count / unit:.{digits}f}{letter}" for unit, letter, digits in _LARGE if count >= unit), str(count))
