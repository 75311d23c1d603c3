"""How often an answer is the same, token for token, when others share its decode calls as when it is computed alone.

Alone is the deterministic lane, whose greedy answers are llama.cpp's own. No goal: sums over many rows round differently, and where
two tokens are nearly as likely, or by chance nearly as far ahead, that decides between them. Those who cannot bear it ask for the
lane. Sampled answers have the same seed in both, another for each answer.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

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
KINDS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "": ("greedy answers", {"temperature": 0.0}),
    "_sampled": ("answers at temperature 0.7 and top-k 40", {"temperature": 0.7, "top_k": 40, "top_p": 1.0}),
}
"""What the name of a row ends with, how its answers are called, and their sampling."""
_TOPICS: Final = ("bee", "moth", "crab", "rain", "lantern", "river", "orchard", "winter", "copper", "harbour", "thistle")


def measure(short: bool) -> list[Row]:
    """For the 0.5 B shape and for the embedded model, a row of greedy answers and one of sampled ones."""
    answers = TOGETHER if short else ANSWERS
    rows = []
    for name, about, path in (
        ("half_billion", "0.5 B shape, random weights", models.path_of(models.HALF_BILLION)),
        ("embedded", "the embedded model", EMBEDDED),
    ):
        found = asyncio.run(_measure(path, answers))
        for (suffix, (kind, _)), (equal, alike) in zip(KINDS.items(), found, strict=True):
            sentence = (
                f"{about}: of {answers} {kind} of {TOKENS} tokens made in batches of {TOGETHER}, those that are token for "
                f"token what each is alone; until the first difference {alike:.0%} of all tokens"
            )
            rows.append(at_most(f"engine.shared_batch_equality.{name}{suffix}", 100 * equal, "%", None, sentence))
    return rows


async def _measure(path: Path, answers: int) -> list[tuple[float, float]]:
    """For each kind, the share of equal answers, and of tokens before the first that differs."""
    async with rbees_worker(Settings(path, TOGETHER, CTX)) as worker, worker.client() as client:
        return [await _compare(client, answers, suffix) for suffix in KINDS]


async def _compare(client: WorkerClient, answers: int, suffix: str) -> tuple[float, float]:
    together: list[list[int]] = []
    for first in range(0, answers, TOGETHER):
        batch = [_answer(client, number, suffix, deterministic=False) for number in range(first, first + TOGETHER)]
        together += await asyncio.gather(*batch)
    alone = [await _answer(client, number, suffix, deterministic=True) for number in range(answers)]
    alike = [_alike(one, other) for one, other in zip(together, alone, strict=True)]
    return sum(length == TOKENS for length in alike) / answers, sum(alike) / (answers * TOKENS)


async def _answer(client: WorkerClient, number: int, suffix: str, *, deterministic: bool) -> list[int]:
    job = ExecuteRequest(
        job_id=f"{'alone' if deterministic else 'together'}{suffix}-{number}",
        epoch=1,
        prompt=_prompt(number),
        max_tokens=TOKENS,
        sampling=Sampling(**KINDS[suffix][1], ignore_eos=True, seed=number),
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
