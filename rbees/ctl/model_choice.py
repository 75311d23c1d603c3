"""Which model a chat talks to: the one that was named, else the one that there is."""

from __future__ import annotations

from collections.abc import Sequence

from rbees.ctl.target import Target
from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ERROR_TABLE, ErrorCode, Fault, RbeesError
from rbees.protocol.jobs import JobRequest
from rbees.protocol.pools import ModelFacts, ModelView


async def choose_model(target: Target, named: str | None) -> str:
    """The name of a model that can chat; `named`, where it can.

    Raises:
        RbeesError: what orcd would answer to its first job, such as MODEL_NOT_FOUND; where nobody named one, MODEL_NOT_FOUND for
            none that chats and INVALID_REQUEST for several.
    """
    async with target.client() as orcd:
        if named is None:
            return only_one((await orcd.models()).models)
        # Nothing is submitted by that, and it says whether a job would be refused.
        told = await orcd.plan(JobRequest(model=named, messages=(ChatMessage(role="user", content="Hello."),)))
    if told.error is not None and ERROR_TABLE[told.error.code].fault is Fault.CALLER:
        raise RbeesError.from_body(told.error)
    return named


async def models_text(target: Target, current: str) -> str:
    """The models that can chat, one a line, and which one answers now."""
    async with target.client() as orcd:
        models = chatting((await orcd.models()).models)
    lines = []
    for model in sorted(models, key=lambda model: short_name(model.facts).casefold()):
        here = current in (model.facts.ref, *model.facts.aliases)
        state = "answers now" if here else "ready" if model.ready_workers else ""
        lines.append(f"{short_name(model.facts)}{f'  ({state})' if state else ''}")
    return "\n".join(lines) or "no pool holds a model that chats"


def only_one(models: Sequence[ModelView]) -> str:
    """The one model that chats; where there are several, the one that is loaded.

    Raises:
        RbeesError: MODEL_NOT_FOUND, INVALID_REQUEST.
    """
    able = chatting(models)
    loaded = [model for model in able if model.ready_workers]
    if len(able) != 1 and len(loaded) == 1:
        able = loaded
    if len(able) == 1:
        return short_name(able[0].facts)
    if not able:
        message = "No pool holds a model that chats; have one fetched with `llorch models download NAME`."
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, message)
    names = ", ".join(sorted(short_name(model.facts) for model in able))
    raise RbeesError(ErrorCode.INVALID_REQUEST, f"There are several models; name one with `--model`: {names}.", field="model")


def chatting(models: Sequence[ModelView]) -> list[ModelView]:
    """Those that can, as far as their pools say."""
    return [model for model in models if not model.facts.capabilities or "chat" in model.facts.capabilities]


def short_name(facts: ModelFacts) -> str:
    """The name by which a person asks for it."""
    return next((name for name in facts.aliases if not name.startswith("hf:")), facts.ref)
