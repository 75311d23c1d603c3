"""What a worker says it has cached, with the embedded model: what it names need not be computed, what it does not is gone."""

from __future__ import annotations

from math import ceil
from pathlib import Path

from rbees.protocol.events import End
from rbees.protocol.prefix_chain import PrefixLink, chain_of
from rbees.protocol.workers import ExecuteRequest
from tests.support.worker_process import WorkerProcess, running_worker

HAIKU = Path(__file__).parents[2] / "rbees" / "host" / "data" / "models" / "haiku.gguf"
SYSTEM = "Write of honey, and then of the rain on the roof, and of the crab who said that the sea is wide. " * 8
PROMPTS = [SYSTEM + f"The {word} came home late. " * 10 for word in ("bee", "moth", "crab")]
OTHERS = [f"{word} and the sea, and the wind in the reeds. " * 24 for word in ("One", "Two", "Ten", "Six")]


async def run(worker: WorkerProcess, number: int, prompt: str) -> tuple[list[str], int, int]:
    """The names that are cached before the job runs, and of the job's prompt how many tokens were cached and how many there are."""
    request = ExecuteRequest(job_id=f"job-{number}", epoch=1, prompt=prompt, max_tokens=4)
    links = chain_of(request)
    request = ExecuteRequest(job_id=f"job-{number}", epoch=1, prompt=prompt, max_tokens=4, prefix_chain=links)
    async with worker.client() as client:
        told = (await client.health(prefixes=[link.hash for link in links])).cached_prefixes
        async with client.execute(request) as stream:
            end = [event async for _, event in stream][-1]
    assert isinstance(end, End)
    check(links, told, end.usage.cached_tokens, end.usage.prompt_tokens)
    return list(told), end.usage.cached_tokens, end.usage.prompt_tokens


def check(links: tuple[PrefixLink, ...], told: tuple[str, ...], cached: int, tokens: int) -> None:
    """What was told is the longest beginning that was found, to a token: the last one of a prompt is always computed."""
    assert list(told) == [link.hash for link in links[: len(told)]]
    for number, link in enumerate(links):
        needed = ceil(link.share * tokens)
        assert cached >= needed - 1 if number < len(told) else cached < needed


async def test_what_is_told_is_what_need_not_be_computed(tmp_path: Path) -> None:
    flags = ("--slots=2", "--ctx=512", "--kv-cells=700", "--cache-ram=0")
    async with running_worker(HAIKU, tmp_path, *flags, backend="cpu") as worker:
        await worker.ready()
        told, cached, tokens = await run(worker, 0, PROMPTS[0])
        assert (told, cached) == ([], 0)
        for number, prompt in enumerate(PROMPTS, 1):
            told, cached, tokens = await run(worker, number, prompt)
            assert told, "the same beginning, by the same names"
        assert cached > tokens / 3
        for number, prompt in enumerate(OTHERS, 10):
            told, cached, _ = await run(worker, number, prompt)
            assert told == []
        told, cached, tokens = await run(worker, 20, PROMPTS[-1])
        assert cached < tokens / 3, "others took its cells"
        told, cached, tokens = await run(worker, 21, PROMPTS[-1])
        assert cached == tokens - 1
        async with worker.client() as client:
            everything = (await client.health()).cached_prefixes
        assert everything[: len(told)] == tuple(told), "the newest come first"


async def test_what_main_memory_holds_is_told_as_well(tmp_path: Path) -> None:
    async with running_worker(HAIKU, tmp_path, "--slots=2", "--ctx=512", "--kv-cells=700", backend="cpu") as worker:
        await worker.ready()
        for number, prompt in enumerate([PROMPTS[0], *OTHERS]):
            await run(worker, number, prompt)
        async with worker.client() as client:
            health = await client.health()
        assert health.spilled_bytes > 0
        told, cached, tokens = await run(worker, 20, PROMPTS[0])
        assert told
        assert set(told) < set(health.cached_prefixes)
        assert cached == tokens - 1
