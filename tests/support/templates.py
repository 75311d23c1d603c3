"""A chat template and what its model would write: the assistant's turn that the template itself renders, read back."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from rbees.protocol.chat import ChatMessage
from rbees.workerd.chat.style import style_of
from rbees.workerd.chat.traits import NEEDLES, RESERVED, TOOL_VARIABLES, TRIALS, TemplateTraits, trial_variables
from rbees.workerd.engine.parts import Call
from rbees.workerd.engine.text import Piece
from rbees.workerd.template import answer, describe
from tests.support.answers import cut, read

CONSTANTS = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, "tools": None}
CALL = Call(NEEDLES[0], {"hive": NEEDLES[1]})


def traits_of(template: str) -> TemplateTraits:
    """As the worker finds them out."""
    found = describe(template, [{**CONSTANTS, **trial_variables(style)} for style in TRIALS], list(NEEDLES))
    shown = None if found["shown"] is None else TRIALS[found["shown"]]
    names = frozenset(found["names"])
    return TemplateTraits(names - CONSTANTS.keys() - RESERVED, bool(TOOL_VARIABLES & names), shown, found.get("turn"))


def rendered(template: str, **variables: Any) -> str:
    """The prompt; AssertionError with the problem where there is none."""
    answered: dict[str, str] = answer({"template": template, "variables": {**CONSTANTS, "functions": "[]", **variables}})
    assert "text" in answered, answered
    return answered["text"]


def turn_of(template: str, messages: list[dict[str, Any]], **variables: Any) -> tuple[str, str]:
    """The prompt for the last message, and what the template writes for that message: what its model was trained to write."""
    prompt = rendered(template, messages=messages[:-1], **variables)
    whole = rendered(template, messages=messages, add_generation_prompt=False, **variables)
    if not whole.startswith(prompt):
        # A thought that the prompt opens is left out of the history, or is opened by the model itself.
        marks = style_of(template, lambda _: None).reasoning
        stem = prompt.rstrip().removesuffix(marks.opens) if marks else prompt
        prompt = stem if whole.startswith(stem) else _common_lines(prompt, whole)
    return prompt, whole[len(prompt) :]


def _common_lines(one: str, other: str) -> str:
    pairs = zip(one.splitlines(keepends=True), other.splitlines(keepends=True), strict=False)
    return "".join(line for line, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def called_turn(template: str, size: int = 3) -> tuple[list[Piece], tuple[Call, ...]]:
    """The events and calls of the turn in which the template shows a call."""
    style = traits_of(template).calls
    assert style is not None, "the template shows calls"
    variables = trial_variables(style)
    prompt, turn = turn_of(template, variables["messages"][:2], tools=variables["tools"])
    how = style_of(template, lambda _: None).answer(prompt, {CALL.name: {}})
    events, calls, _ = read(cut(turn, size), how)
    return events, calls


def said(role: str, content: str) -> dict[str, Any]:
    """A message as templates get it."""
    return {"role": role, "content": ChatMessage(role="user", content=content).text}
