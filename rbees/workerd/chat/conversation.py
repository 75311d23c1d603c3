"""From messages and tools to what a chat template is given. PURE.

Templates expect the shape in which transformers and llama.cpp hand conversations over: calls nested under `function`,
arguments as objects, keys that have nothing to say left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from rbees.protocol.chat import ChatMessage, TemplateOption, Tool, ToolCall

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 9
_ID: Final = re.compile(rf"[A-Za-z0-9]{{{_ID_LENGTH}}}")

Clean = Callable[[str], str]
"""Takes from a client's text what must not reach the tokenizer as it stands."""


@dataclass(frozen=True, slots=True)
class CallStyle:
    """How a template wants to be told of an assistant's calls, found by trying."""

    empty_content: str | None = ""
    """What stands for the content that a message with calls lacks."""
    arguments_as_text: bool = False


def template_variables(
    messages: Sequence[ChatMessage], tools: Sequence[Tool], options: dict[str, TemplateOption], style: CallStyle, clean: Clean
) -> dict[str, Any]:
    """What the template is rendered with. Every text of the client went through `clean`."""
    told = {name: clean(value) if isinstance(value, str) else value for name, value in options.items()}
    functions = [_tool(tool, clean) for tool in tools]
    return {
        **told,
        "messages": [_message(message, style, clean) for message in messages],
        "tools": functions or None,
        # Before templates agreed on `tools`, some took the same as text.
        "functions": msgspec.json.encode(functions).decode(),
    }


def call_id(*place: str | int) -> str:
    """An id for the call at this place, always the same. Nine letters and digits: some templates take no other form."""
    number = int.from_bytes(hashlib.sha256("/".join(map(str, place)).encode()).digest())
    digits = []
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(digits)


def _message(message: ChatMessage, style: CallStyle, clean: Clean) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role}
    told["content"] = style.empty_content if message.content is None else clean(message.text)
    if message.reasoning is not None:
        told["reasoning_content"] = clean(message.reasoning)
    if message.name is not None:
        told["name"] = clean(message.name)
    if message.tool_call_id is not None:
        told["tool_call_id"] = _short_id(message.tool_call_id)
    if message.tool_calls:
        told["tool_calls"] = [_call(call, style, clean) for call in message.tool_calls]
    return told


def _call(call: ToolCall, style: CallStyle, clean: Clean) -> dict[str, Any]:
    arguments = _cleaned(call.arguments, clean)
    told = json.dumps(arguments, ensure_ascii=False) if style.arguments_as_text else arguments
    return {"id": _short_id(call.id), "type": "function", "function": {"name": clean(call.name), "arguments": told}}


def _tool(tool: Tool, clean: Clean) -> dict[str, Any]:
    function = {
        "name": clean(tool.name),
        "description": clean(tool.description),
        "parameters": _cleaned(tool.parameters, clean) or {"type": "object", "properties": {}},
    }
    return {"type": "function", "function": function}


def _cleaned(value: Any, clean: Clean) -> Any:
    """JSON whose texts and keys are clean; its depth was bounded when it was decoded."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item, clean) for item in value]
    if isinstance(value, dict):
        return {clean(key): _cleaned(item, clean) for key, item in value.items()}
    return value


def _short_id(given: str) -> str:
    """Ids mean nothing to a model; one that some template would refuse is told by another, always the same."""
    return given if _ID.fullmatch(given) else call_id(given)
