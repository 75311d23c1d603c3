"""Rendering a model's chat template in a child process that can be killed. Knows no jinja2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.chat.traits import NEEDLES, RESERVED, TOOL_VARIABLES, TRIALS, TemplateTraits, trial_variables
from rbees.workerd.child import Child


class _Answer(Message, frozen=True, kw_only=True):
    private: ClassVar[frozenset[str]] = frozenset({"text"})
    text: str | None = None
    problem: str | None = None
    names: tuple[str, ...] = ()
    shown: int | None = None
    turn: str | None = None


class TemplateProcess:
    """One template and the child that renders it."""

    def __init__(self, template: str, *, bos_text: str, eos_text: str) -> None:
        self._template = template
        self._constants = {"bos_token": bos_text, "eos_token": eos_text, "add_generation_prompt": True, "tools": None}
        self._traits: TemplateTraits | None = None
        self._child = Child("rbees.workerd.template")

    async def render(self, variables: Mapping[str, Any]) -> str:
        """The prompt's text, from the conversation's own variables (`messages`, `tools` and the client's options).

        Raises:
            RbeesError: INVALID_REQUEST where the template refuses the conversation, MODEL_INCOMPATIBLE where it fails or takes
            too much time or memory, WORKER_UNREACHABLE where the host is too busy.
        """
        answer = await self._answer({"variables": {**variables, **self._constants, "tools": variables.get("tools")}})
        if answer.text is None:
            raise _refusal(answer.problem)
        return answer.text

    async def traits(self) -> TemplateTraits:
        """What the template asks for and how it takes calls.

        Raises:
            RbeesError: MODEL_INCOMPATIBLE, where it is faulty or finding out takes too much time or memory, WORKER_UNREACHABLE
            where the host is too busy.
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
                turn=answer.turn,
            )
        return self._traits

    async def _answer(self, request: dict[str, Any]) -> _Answer:
        data = msgspec.json.encode({"template": self._template, **request})
        raw = await self._child.ask(data)
        return msgspec.json.decode(raw, type=_Answer) if raw is not None else _Answer(problem="stopped")

    async def close(self) -> None:
        """End the child."""
        await self._child.close()


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
