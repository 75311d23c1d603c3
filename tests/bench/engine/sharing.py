"""Prompts that share a beginning: many requests with one preamble at once, and chats that grow turn by turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.bench.engine import models
from tests.bench.engine.load import Answer, Ask, Endpoint, ask_all, ask_one, total_rate
from tests.bench.engine.servers import Settings, llama_server, rbees_worker
from tests.bench.engine.turns import in_turns, median_of, prompt
from tests.bench.rows import Row, against
from tests.bench.timing import Samples

SLOTS: Final = 8
CTX: Final = 1_024
REQUESTS: Final = 24
SHARED, OWN, ANSWER = 496, 55, 32
CHATS, TURNS = 8, 4
SYSTEM, SAID, REPLY = 200, 40, 32
RETURNING, RETURNS, BEGUN_WITH = 24, 3, 300
_FAR: Final = 1_000_000
"""Numbers of prompts that are kept apart from those of others."""


@dataclass(frozen=True)
class Rush:
    """One run of the requests that share a preamble."""

    rate: float
    ttft_p95_s: float


def measure(short: bool) -> list[Row]:
    """The rows of one shared preamble, then of the chats."""
    settings = Settings(models.path_of(models.HALF_BILLION), SLOTS, CTX)
    return asyncio.run(_measure(settings, 1 if short else 3))


async def _measure(settings: Settings, rounds: int) -> list[Row]:
    async with rbees_worker(settings) as ours, llama_server(settings) as theirs:
        rushes = await in_turns({"rbees": _rush(ours), "peer": _rush(theirs)}, rounds)
        chats = await in_turns({"rbees": _chats(ours), "peer": _chats(theirs)}, rounds)
        returning = await in_turns({"rbees": _returning(ours), "peer": _returning(theirs)}, rounds)
    rates = {name: median_of([run.rate for run in runs]) for name, runs in rushes.items()}
    waits = {name: median_of([run.ttft_p95_s for run in runs]) for name, runs in rushes.items()}
    (rate, rate_spread), (wait, wait_spread), (chat, chat_spread) = rates["rbees"], waits["rbees"], median_of(chats["rbees"])
    back, back_spread = median_of(returning["rbees"])
    load = (
        f"{REQUESTS} requests at once over {SLOTS} slots, {SHARED} tokens of a new preamble and {OWN} of their own, {ANSWER} each"
    )
    talk = (
        f"{CHATS} chats of {TURNS} turns at once, {SYSTEM} tokens of a common system prompt, "
        f"{SAID} said and {REPLY} answered a turn"
    )
    come_back = (
        f"{RETURNING} chats over {SLOTS} slots, {BEGUN_WITH} tokens each that no other has, which take {RETURNS} turns in "
        f"rotation, {SAID} said and {REPLY} answered a turn"
    )
    return [
        against(
            "engine.shared_prefix", rate, rates["peer"][0], "tok/s", 2.0, f"{load}: tokens a second, beside llama-server",
            least=True, spread=rate_spread,
        ),
        against(
            "engine.shared_prefix_ttft", wait, waits["peer"][0], "s", 0.5, "the same: time to the first token, p95",
            spread=wait_spread,
        ),
        against(
            "engine.chats", chat, median_of(chats["peer"])[0], "tok/s", 1.3, f"{talk}: tokens a second, beside llama-server",
            least=True, spread=chat_spread,
        ),
        against(
            "engine.returning_chats", back, median_of(returning["peer"])[0], "tok/s", None,
            f"{come_back}: tokens a second, beside llama-server with its prompt cache in main memory", spread=back_spread,
        ),
    ]  # fmt: skip


def _rush(endpoint: Endpoint) -> Callable[[int], Awaitable[Rush]]:
    async def run(turn: int) -> Rush:
        shared = prompt(_FAR + turn, SHARED)
        asks = [Ask(shared + prompt(turn * REQUESTS + i, OWN), ANSWER, seed=i) for i in range(REQUESTS)]
        answers = await ask_all(endpoint, asks)
        return Rush(total_rate(answers), Samples(tuple(answer.ttft_s for answer in answers)).percentile(95))

    return run


def _chats(endpoint: Endpoint) -> Callable[[int], Awaitable[float]]:
    async def run(turn: int) -> float:
        system = prompt(2 * _FAR + turn, SYSTEM)
        talks = await asyncio.gather(*(_chat(endpoint, system, turn * CHATS + i) for i in range(CHATS)))
        return total_rate([answer for talk in talks for answer in talk])

    return run


def _returning(endpoint: Endpoint) -> Callable[[int], Awaitable[float]]:
    """All have their first turn before the first of them has its second."""

    async def run(turn: int) -> float:
        free = asyncio.Semaphore(SLOTS)
        histories = [prompt(4 * _FAR + turn * RETURNING + i, BEGUN_WITH) for i in range(RETURNING)]

        async def go_on(number: int) -> Answer:
            async with free:
                histories[number] += prompt(5 * _FAR + turn * RETURNING + number, SAID)
                answer = await ask_one(endpoint, Ask(histories[number], REPLY, seed=number, whole=True))
            histories[number] += answer.token_ids
            return answer

        answers: list[Answer] = []
        for _ in range(RETURNS):
            answers += await asyncio.gather(*map(go_on, range(RETURNING)))
        return total_rate(answers)

    return run


async def _chat(endpoint: Endpoint, system: tuple[int, ...], number: int) -> list[Answer]:
    """Each turn's prompt is everything so far and something new."""
    answers: list[Answer] = []
    history = system
    for turn in range(TURNS):
        history += prompt(3 * _FAR + number * TURNS + turn, SAID)
        answers.append(await ask_one(endpoint, Ask(history, REPLY, seed=number, whole=True)))
        history += answers[-1].token_ids
    return answers
