"""Let a model call functions of this program until it has what it needs to answer. `pip install openai`

    python examples/openai_tools.py http://127.0.0.1:8080 qwen3 "How many bees live in hive a and hive b together?"

The model has to be one whose chat template takes tools; another is refused with a sentence that says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, Literal, cast

from openai import APIError, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

MOST_ROUNDS = 4
HIVES = {"a": 41_000, "b": 38_500, "c": 12_250}


def count(hive: str) -> dict[str, Any]:
    """What the tool answers: a number, or a sentence that the model can make something of."""
    return {"bees": HIVES[hive]} if hive in HIVES else {"error": f"no hive is called {hive!r}; there are {', '.join(HIVES)}"}


FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {"count": count}
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "count",
            "description": "Count the bees of one hive.",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"hive": {"type": "string", "description": "The hive's letter.", "maxLength": 20}},
                "required": ["hive"],
                "additionalProperties": False,
            },
        },
    }
]


def called(name: str, arguments: str) -> dict[str, Any]:
    """What the call gives. A model may call what there is not, or with what does not fit, and is told so, as it may mend it."""
    if name not in FUNCTIONS:
        return {"error": f"no function is called {name!r}; there are {', '.join(FUNCTIONS)}"}
    try:
        return FUNCTIONS[name](**json.loads(arguments))
    except (TypeError, ValueError):
        return {"error": f"{name} cannot be called with {arguments}; see its parameters"}


def converse(client: OpenAI, model: str, question: str) -> str:
    """The answer, after as many calls as the model wants and rounds allow."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    for turn in range(MOST_ROUNDS):
        choice: Literal["auto", "none"] = "none" if turn == MOST_ROUNDS - 1 else "auto"
        answer = client.chat.completions.create(model=model, messages=messages, tools=TOOLS, tool_choice=choice, temperature=0)
        said = answer.choices[0].message
        if not said.tool_calls:
            return said.content or ""
        # The model's own turn goes back as it came, then one message for each call, by its id.
        messages.append(cast(ChatCompletionMessageParam, said.to_dict()))
        for call in said.tool_calls:
            assert call.type == "function"
            result = called(call.function.name, call.function.arguments)
            print(f"[{call.function.name}({call.function.arguments}) = {result}]", file=sys.stderr)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})
    return ""


def main() -> int:
    """Print the calls to standard error as they are made, and the answer."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("url")
    arguments.add_argument("model")
    arguments.add_argument("question")
    given = arguments.parse_args()
    try:
        print(converse(OpenAI(base_url=f"{given.url}/v1", api_key="none"), given.model, given.question))
    except APIError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
