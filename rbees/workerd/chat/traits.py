"""What is found out about a chat template by looking at it and trying it once. PURE: the trials are rendered elsewhere.

Templates disagree about an assistant's turn that only calls a tool: some want an empty content, some none at all; most want
arguments as an object, some as text. Which one it is shows when the call appears in what is rendered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rbees.protocol.chat import ChatMessage, Tool, ToolCall
from rbees.workerd.chat.conversation import CallStyle, call_id, template_variables

TRIALS: Final = (CallStyle(""), CallStyle(None), CallStyle("", arguments_as_text=True), CallStyle(None, arguments_as_text=True))
NEEDLES: Final = ("count_bees", "hive_of_the_trial")
"""The name of the tool and its argument."""
QUESTION: Final = "How many bees are there?"
TOOL_VARIABLES: Final = frozenset({"tools", "functions"})
RESERVED: Final = TOOL_VARIABLES | {"messages"}


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What a template can be told."""

    options: frozenset[str]
    """The variables beside those that every template gets."""
    takes_tools: bool
    calls: CallStyle | None
    """How calls are told; None: it does not show them at all."""
    turn: str | None = None
    """The question of the trial and the call that answers it, as the template shows them."""


def trial_variables(style: CallStyle) -> dict[str, Any]:
    """A short conversation with one call."""
    name, place = NEEDLES
    schema = {"type": "object", "properties": {"hive": {"type": "string", "description": "Which one."}}, "required": ["hive"]}
    tools = (Tool(name=name, description="Count them.", parameters=schema),)
    messages = (
        ChatMessage(role="user", content=QUESTION),
        ChatMessage(role="assistant", tool_calls=(ToolCall(id=call_id(place), name=name, arguments={"hive": place}),)),
        ChatMessage(role="tool", content='{"bees": 7}', name=name, tool_call_id=call_id(place)),
    )
    return template_variables(messages, tools, {}, style, lambda text: text)
