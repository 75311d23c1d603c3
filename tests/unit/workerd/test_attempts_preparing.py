"""Prompts that are being made when the worker ends or fails at it, with an engine that must never hear of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from rbees.protocol.chat import ChatMessage
from rbees.protocol.workers import ExecuteRequest
from rbees.service import logs
from rbees.service.clock import ManualClock
from rbees.workerd.chat.traits import TemplateTraits
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from rbees.workerd.forms import Forms
from rbees.workerd.jobs import Attempt, Attempts
from rbees.workerd.prompts import Prompts, Renderer
from rbees.workerd.sampling_needs import SamplingNeeds
from rbees.workerd.vectors import VectorDesk
from tests.support.scripted_models import NoEmbedding

CHAT = (ChatMessage(role="user", content="x"),)


class NoEngine:
    def submit(self, work: Work) -> None:
        raise AssertionError

    def cancel(self, key: str) -> None:
        raise AssertionError

    def pause(self, key: str, paused: bool) -> None:
        raise AssertionError


def begun(renderer: Renderer) -> tuple[Attempts, Attempt]:
    """An attempt whose prompt needs the renderer."""
    backend = ScriptedBackend(Script(), slots=2, ctx=64, cells=128)
    attempts = Attempts(
        engine=NoEngine(),
        prompts=Prompts(backend, renderer),
        forms=Forms(backend),
        needs=SamplingNeeds(backend),
        vectors=VectorDesk(backend, NoEmbedding(), model_ref="m"),
        clock=ManualClock(),
        ctx=64,
        worker_id="w",
        model_ref="m",
    )
    return attempts, attempts.execute(ExecuteRequest(job_id="a", epoch=1, messages=CHAT))


class StuckRenderer:
    """A template that takes for ever."""

    async def render(self, variables: Mapping[str, Any]) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async def traits(self) -> TemplateTraits:
        await asyncio.Event().wait()
        raise AssertionError


async def test_closing_gives_up_prompts_that_are_being_made() -> None:
    attempts, attempt = begun(StuckRenderer())
    await asyncio.sleep(0)
    assert attempt.preparing is not None
    await asyncio.wait_for(attempts.close(), 30)
    assert attempt.preparing.cancelled()
    assert not attempt.events.ended, "its job is not over: another worker goes on with it"


class BrokenRenderer(StuckRenderer):
    """A defect of ours."""

    async def render(self, variables: Mapping[str, Any]) -> str:
        raise ZeroDivisionError

    async def traits(self) -> TemplateTraits:
        raise ZeroDivisionError


async def test_a_defect_while_preparing_ends_the_attempt_with_its_own_correlation_id() -> None:
    asked = logs.correlation_id.set("asked-by-orcd")
    _, attempt = begun(BrokenRenderer())
    logs.correlation_id.reset(asked)
    for _ in range(5):
        await asyncio.sleep(0)
    (frame,) = attempt.events.after(0)
    assert b'"INTERNAL"' in frame
    assert b'"correlation_id":"asked-by-orcd"' in frame
    assert b"ZeroDivisionError" not in frame
