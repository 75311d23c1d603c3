"""How often a greedy answer is the same, token for token, when others share its decode calls as when it is computed alone.

Alone is the deterministic lane, whose answers are llama.cpp's own. No goal: sums over many rows round differently, and where two
tokens are nearly as likely that decides between them. Those who cannot bear it ask for the lane.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from rbees.clients.workerd import WorkerClient
from rbees.protocol.events import End, Token
from rbees.protocol.sampling import Sampling
from rbees.protocol.workers import ExecuteRequest
from tests.bench.engine import models
from tests.bench.engine.servers import Settings, rbees_worker
from tests.bench.rows import Row, at_most

TOGETHER: Final = 8
ANSWERS: Final = 32
TOKENS: Final = 48
CTX: Final = 512
EMBEDDED: Final = Path("rbees/host/data/models/haiku.gguf").absolute()
_TOPICS: Final = ("bee", "moth", "crab", "rain", "lantern", "river", "orchard", "winter", "copper", "harbour", "thistle")


def measure(short: bool) -> list[Row]:
    """A row for the 0.5 B shape and one for the embedded model."""
    answers = TOGETHER if short else ANSWERS
    rows = []
    for name, about, path in (
        ("half_billion", "0.5 B shape, random weights", models.path_of(models.HALF_BILLION)),
        ("embedded", "the embedded model", EMBEDDED),
    ):
        equal, alike = asyncio.run(_measure(path, answers))
        sentence = (
            f"{about}: of {answers} greedy answers of {TOKENS} tokens made in batches of {TOGETHER}, those that are token for "
            f"token what each is alone; until the first difference {alike:.0%} of all tokens"
        )
        rows.append(at_most(f"engine.shared_batch_equality.{name}", 100 * equal, "%", None, sentence))
    return rows


async def _measure(path: Path, answers: int) -> tuple[float, float]:
    """The share of equal answers, and of tokens before the first that differs."""
    async with rbees_worker(Settings(path, TOGETHER, CTX)) as worker, worker.client() as client:
        together: list[list[int]] = []
        for first in range(0, answers, TOGETHER):
            batch = [_answer(client, number, deterministic=False) for number in range(first, first + TOGETHER)]
            together += await asyncio.gather(*batch)
        alone = [await _answer(client, number, deterministic=True) for number in range(answers)]
    alike = [_alike(one, other) for one, other in zip(together, alone, strict=True)]
    return sum(length == TOKENS for length in alike) / answers, sum(alike) / (answers * TOKENS)


async def _answer(client: WorkerClient, number: int, *, deterministic: bool) -> list[int]:
    job = ExecuteRequest(
        job_id=f"{'alone' if deterministic else 'together'}-{number}",
        epoch=1,
        prompt=_prompt(number),
        max_tokens=TOKENS,
        sampling=Sampling(temperature=0.0, ignore_eos=True),
        deterministic=deterministic,
    )
    async with client.execute(job) as events:
        came = [event async for _, event in events]
    assert isinstance(came[-1], End), came[-1]
    return [token for event in came if isinstance(event, Token) for token in event.token_ids]


def _prompt(number: int) -> str:
    """Prompts of 20 to 120 words that share only a few at their beginning."""
    words = [_TOPICS[(number * 7 + place * (number % 5 + 1)) % len(_TOPICS)] for place in range(20 + number * 37 % 100)]
    return f"Write {number} lines of the {' and the '.join(words[:3])}: {' '.join(words[3:])}"


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens they have in common at their beginning."""
    return next((place for place, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), len(one))
