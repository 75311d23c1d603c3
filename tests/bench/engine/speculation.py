"""Speculation: a worker beside itself with it turned off, on text that repeats its prompt and on text that repeats nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import rbees
from rbees.clients.workerd import WorkerClient
from rbees.protocol.workers import TokenizeRequest
from tests.bench.engine import models
from tests.bench.engine.decoding import EIGHT, ONE, Form, streams
from tests.bench.engine.load import Answer, Ask, ask_one
from tests.bench.engine.servers import Rbees, Settings, rbees_worker
from tests.bench.engine.turns import in_turns, median_of
from tests.bench.rows import Row, against, at_most

HAIKU: Final = Path(rbees.__file__).parent / "host" / "data" / "models" / "haiku.gguf"
CTX: Final = 512
WORDS: Final = ("incomprehensibilities", "honey", "lighthouse", "thunderstorms", "moth", "counterrevolution", "lantern", "October")
END: Final = "<|end|>"
LONGEST_ANSWER: Final = 64
COPIES_GOAL: Final = 1.5
PLAIN_GOAL: Final = 0.98


def measure(short: bool) -> list[Row]:
    """Ratios of on to off."""
    rounds = 1 if short else 5
    rows = asyncio.run(_measure_copies(1 if short else 9))
    for form in (ONE, EIGHT):
        rows += asyncio.run(_measure_plain(form, rounds))
    return rows


async def _measure_copies(rounds: int) -> list[Row]:
    """The embedded model is asked the same again in the chat in which it has answered: it says the same again."""
    settings = Settings(HAIKU, 8, CTX)
    async with rbees_worker(settings) as on, rbees_worker(settings, "--speculation=off") as off:
        asks = [await _asked_again(off, word) for word in WORDS]
        rates = await in_turns({"on": _one_by_one(on, asks), "off": _one_by_one(off, asks)}, rounds)
        async with _client(on) as client:
            health = await client.health()
    (rate, spread), (plain, _) = median_of(rates["on"]), median_of(rates["off"])
    about = "1 client, the embedded model repeats a poem of its prompt: tokens a second while it decodes, beside itself without"
    acceptance = health.accepted_tokens_total / max(1, health.drafted_tokens_total)
    return [
        against("engine.prompt_lookup", rate, plain, "tok/s", COPIES_GOAL, about, least=True, spread=spread),
        at_most("engine.prompt_lookup_acceptance", acceptance, "of 1", None, "the same: share of the guessed tokens that held"),
    ]


async def _measure_plain(form: Form, rounds: int) -> list[Row]:
    """Random weights: nothing that they say stood in the prompt or was said before."""
    settings = Settings(models.path_of(models.HALF_BILLION), 8, CTX)
    async with rbees_worker(settings) as on, rbees_worker(settings, "--speculation=off") as off:
        efforts = await in_turns({"on": streams(on, form), "off": streams(off, form)}, rounds)
    (rate, spread), (plain, _) = (median_of([effort.rate for effort in efforts[name]]) for name in ("on", "off"))
    (cost, cost_spread), (plain_cost, _) = (median_of([effort.cpu_ms for effort in efforts[name]]) for name in ("on", "off"))
    clients = form[0]
    who = "1 client" if clients == 1 else f"{clients} clients at once"
    name = f"engine.speculation_idle_{clients}"
    about = f"{who}, {settings.model.stem}, answers that repeat nothing: tokens a second, beside the worker with speculation off"
    cpu = "the same: processor time of the worker for each token of an answer, prompts included"
    return [
        against(name, rate, plain, "tok/s", PLAIN_GOAL, about, least=True, spread=spread),
        against(f"{name}_cpu", cost, plain_cost, "ms", None, cpu, spread=cost_spread),
    ]


async def _asked_again(server: Rbees, word: str) -> Ask:
    question = f"<|begin|><|user|>Write a haiku that contains the word {word}.{END}<|assistant|>"
    first = await ask_one(server, Ask(await _tokens(server, question), LONGEST_ANSWER, temperature=0.0, ends=True))
    again = f"{question}{first.text}{END}{question.removeprefix('<|begin|>')}"
    return Ask(await _tokens(server, again), LONGEST_ANSWER, temperature=0.0, ends=True)


def _one_by_one(server: Rbees, asks: list[Ask]) -> Callable[[int], Awaitable[float]]:
    async def run(_turn: int) -> float:
        answers = [await ask_one(server, ask) for ask in asks]
        return _decode_rate(answers)

    return run


def _decode_rate(answers: list[Answer]) -> float:
    """Tokens a second after each answer's first frame, of all together."""
    tokens = sum(answer.tokens - answer.arrivals[0][1] for answer in answers)
    return tokens / sum(answer.arrivals[-1][0] - answer.first_s for answer in answers)


async def _tokens(server: Rbees, text: str) -> tuple[int, ...]:
    async with _client(server) as client:
        return (await client.tokenize(TokenizeRequest(prompt=text))).token_ids


def _client(server: Rbees) -> WorkerClient:
    return WorkerClient(f"http://{server.host}:{server.port}", token=server.headers["Authorization"].removeprefix("Bearer "))
