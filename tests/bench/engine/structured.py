"""Answers that must satisfy a JSON schema, several at once; each is checked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tests.bench.engine import models
from tests.bench.engine.load import Ask, Endpoint, ask_all, total_rate
from tests.bench.engine.servers import Settings, llama_server, rbees_worker
from tests.bench.engine.turns import in_turns, median_of, prompt
from tests.bench.rows import Row, against

CLIENTS: Final = 8
PROMPT, ANSWER = 64, 160
CTX: Final = 512
_COLOURS: Final = ["red", "green", "blue", "black", "white"]
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 4, "maxLength": 24},
        "size": {"type": "integer", "minimum": 0, "maximum": 9999},
        "sold": {"type": "boolean"},
        "colours": {"type": "array", "items": {"type": "string", "enum": _COLOURS}, "minItems": 4, "maxItems": 6},
        "note": {"type": "string", "maxLength": 40},
    },
    "required": ["name", "size", "sold", "colours", "note"],
    "additionalProperties": False,
}


def measure(short: bool) -> list[Row]:
    """Tokens a second of all clients together."""
    rates = asyncio.run(_measure(Settings(models.path_of(models.HALF_BILLION), CLIENTS, CTX), 1 if short else 3))
    rate, spread = median_of(rates["rbees"])
    about = (
        f"{CLIENTS} clients at once, answers by one JSON schema, temperature 0.8, prompts of {PROMPT} tokens: tokens a second, "
        "every answer valid"
    )
    return [against("engine.json_schema", rate, median_of(rates["peer"])[0], "tok/s", 1.8, about, least=True, spread=spread)]


async def _measure(settings: Settings, rounds: int) -> dict[str, list[float]]:
    async with rbees_worker(settings) as ours, llama_server(settings) as theirs:
        return await in_turns({"rbees": _run(ours), "peer": _run(theirs)}, rounds)


def _run(endpoint: Endpoint) -> Callable[[int], Awaitable[float]]:
    async def run(turn: int) -> float:
        numbers = range(turn * CLIENTS, (turn + 1) * CLIENTS)
        asks = [Ask(prompt(i, PROMPT), ANSWER, seed=i, temperature=0.8, schema=SCHEMA) for i in numbers]
        answers = await ask_all(endpoint, asks)
        for answer in answers:
            check(answer.text)
        return total_rate(answers)

    return run


def check(text: str) -> None:
    """AssertionError where `text` does not satisfy `SCHEMA`."""
    value = json.loads(text)
    assert list(value) == SCHEMA["required"], value
    assert 4 <= len(value["name"]) <= 24, value
    assert len(value["note"]) <= 40, value
    assert type(value["size"]) is int, value
    assert 0 <= value["size"] <= 9999, value
    assert type(value["sold"]) is bool, value
    assert 4 <= len(value["colours"]) <= 6, value
    assert set(value["colours"]) <= set(_COLOURS), value
