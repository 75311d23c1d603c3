"""Rendering a model's chat template in a child process that can be killed. Knows no jinja2."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import logs
from rbees.workerd.chat.traits import NEEDLES, RESERVED, TOOL_VARIABLES, TRIALS, TemplateTraits, trial_variables

RENDER_TIMEOUT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 128 * 1024 * 1024
_PASSED_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT")


class _Answer(msgspec.Struct, frozen=True):
    text: str | None = None
    problem: str | None = None
    names: tuple[str, ...] = ()
    shown: int | None = None


class TemplateProcess:
    """One template and the child that renders it; the child is started when first needed and again after it was killed."""

    def __init__(self, template: str, *, bos_text: str, eos_text: str, timeout_s: float = RENDER_TIMEOUT_S) -> None:
        self._template = template
        self._constants = {"bos_token": bos_text, "eos_token": eos_text, "add_generation_prompt": True, "tools": None}
        self._traits: TemplateTraits | None = None
        self._timeout_s = timeout_s
        self._child: asyncio.subprocess.Process | None = None
        self._one_at_a_time = asyncio.Lock()

    async def render(self, variables: Mapping[str, Any]) -> str:
        """The prompt's text, from the conversation's own variables (`messages`, `tools` and the client's options).

        Raises:
            RbeesError: INVALID_REQUEST where the template refuses the conversation, MODEL_INCOMPATIBLE where it fails or takes
            too much time or memory.
        """
        answer = await self._answer({"variables": {**variables, **self._constants, "tools": variables.get("tools")}})
        if answer.text is None:
            raise _refusal(answer.problem)
        return answer.text

    async def traits(self) -> TemplateTraits:
        """What the template asks for and how it takes calls.

        Raises:
            RbeesError: MODEL_INCOMPATIBLE, where it is faulty or finding out takes too much time or memory.
        """
        if self._traits is None:
            trials = [{**self._constants, **trial_variables(style)} for style in TRIALS]
            answer = await self._answer({"trials": trials, "needles": NEEDLES})
            if answer.problem is not None:
                raise _refusal(answer.problem)
            self._traits = TemplateTraits(
                options=frozenset(answer.names) - self._constants.keys() - RESERVED,
                takes_tools=bool(TOOL_VARIABLES & frozenset(answer.names)),
                calls=None if answer.shown is None else TRIALS[answer.shown],
            )
        return self._traits

    async def _answer(self, request: dict[str, Any]) -> _Answer:
        data = msgspec.json.encode({"template": self._template, **request})
        async with self._one_at_a_time:
            return await self._ask(data)

    async def close(self) -> None:
        """End the child."""
        async with self._one_at_a_time:
            await self._kill()

    async def _ask(self, request: bytes) -> _Answer:
        reused = self._child is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    return await self._try(request)
                except (asyncio.IncompleteReadError, ConnectionError):
                    if not reused:
                        raise
                # It may have died before it was asked, of something that this conversation has no part in.
                return await self._try(request)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            logs.logger().warning("the chat template was stopped", action="template_stopped", timeout_s=self._timeout_s)
            return _Answer(problem="stopped")

    async def _try(self, request: bytes) -> _Answer:
        finished = False
        try:
            answer = await self._exchange(await self._running_child(), request)
            finished = True
            return answer
        finally:
            if not finished:
                # Also when the caller was cancelled: an answer that nobody read would be taken for the next one.
                await asyncio.shield(self._kill())

    async def _exchange(self, child: asyncio.subprocess.Process, request: bytes) -> _Answer:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(len(request).to_bytes(4, "big") + request)
        await child.stdin.drain()
        size = int.from_bytes(await child.stdout.readexactly(4), "big")
        if size > MAX_ANSWER_BYTES:
            return _Answer(problem="too_large")
        return msgspec.json.decode(await child.stdout.readexactly(size), type=_Answer)

    async def _running_child(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                # Without it the current folder comes first among the places to import from, and a file there could pose as jinja2.
                "-P",
                "-m",
                "rbees.workerd.template",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                # A Ctrl-C in the terminal is for the worker, which still has prompts to render while it drains.
                start_new_session=True,
                env={name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ},
            )
        return self._child

    async def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            child.kill()
            await child.wait()


def _refusal(problem: str | None) -> RbeesError:
    sentences: dict[str | None, tuple[ErrorCode, str]] = {
        "refused": (
            ErrorCode.INVALID_REQUEST,
            "The model's chat template refuses this conversation, for instance because roles do not alternate; "
            "reorder the messages, or send a raw `prompt`.",
        ),
        "stopped": (
            ErrorCode.MODEL_INCOMPATIBLE,
            "The model's chat template took too much time or memory and was stopped; send a raw `prompt`.",
        ),
        "too_large": (ErrorCode.MODEL_INCOMPATIBLE, "The model's chat template writes too much text; send a raw `prompt`."),
    }
    code, sentence = sentences.get(
        problem, (ErrorCode.MODEL_INCOMPATIBLE, "The model's chat template is faulty; send a raw `prompt`.")
    )
    return RbeesError(code, sentence)
