"""orcd and its worker beside LiteLLM's proxy and llama-server: the same model file, chats, slots, threads and clients.

Each server behind a front is asked directly too, so that it shows what the front adds and what lies in the servers themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from rbees.host.examination import packaged_model
from tests.bench.api.fronts import litellm_proxy
from tests.bench.api.ways import DISK, MEMORY, Heard, OpenAi, Site, Way, ask_together, chat, site
from tests.bench.engine.servers import Settings, llama_server
from tests.bench.engine.turns import in_turns, median_of
from tests.bench.rows import Row, against
from tests.bench.timing import Samples

RATE_GOAL: Final = 3.0
ADDED_GOAL: Final = 0.33
CLIENTS: Final = 32
EACH: Final = 5
ALONE: Final = 20
"""Chats of a run by one client alone."""
TOKENS: Final = 8
CTX: Final = 512
_FAR: Final = 1_000_000

Runs = dict[str, list[list[Heard]]]


def measure(short: bool) -> list[Row]:
    """Streams and whole answers to 32 clients, then streams to one alone."""
    memory = MEMORY if Path(MEMORY).is_dir() else DISK
    with site("haiku", CLIENTS, CTX) as place, site("haiku", CLIENTS, CTX, memory) as quick:
        return asyncio.run(_measure(place, quick, 1 if short else 4))


async def _measure(place: Site, quick: Site, rounds: int) -> list[Row]:
    settings = Settings(packaged_model(), CLIENTS, CTX)
    async with llama_server(settings) as server, litellm_proxy(server.port) as proxy:
        # After a stream llama-server closes the connection.
        straight = {True: OpenAi(server.port, "haiku", keeps=False), False: OpenAi(server.port, "haiku")}

        async def taken(kind: int, clients: int, each: int, *, streams: bool) -> Runs:
            ways: dict[str, Way] = {
                "orcd": place.through_orcd,
                "memory": quick.through_orcd,
                "litellm": proxy,
                "worker": place.bare,
                "server": straight[streams],
            }
            runs = {
                name: _run(way, (8 * kind + place_) * _FAR, clients, each, streams=streams)
                for place_, (name, way) in enumerate(ways.items())
            }
            return await in_turns(runs, rounds)

        streams = await taken(1, CLIENTS, EACH, streams=True)
        whole = await taken(2, CLIENTS, EACH, streams=False)
        alone = await taken(3, 1, ALONE, streams=True)
    form = f"{CLIENTS} clients, each {EACH} chats of {TOKENS} tokens one after the other, the embedded model, {CLIENTS} slots"
    in_memory = "the same with orcd's state in memory"
    return [
        _rate_row("api.proxy_streams", streams, f"{form}, as streams"),
        _added_row("api.proxy_streams_added", streams, "the same: what the front adds to the first token", _first_ms),
        _added_row("api.proxy_streams_added_memory", streams, in_memory, _first_ms, "memory"),
        _rate_row("api.proxy_whole", whole, f"{form}, as whole answers"),
        _added_row("api.proxy_whole_added", whole, "the same: what the front adds to the answer", _ended_ms),
        _added_row("api.proxy_whole_added_memory", whole, in_memory, _ended_ms, "memory"),
        _added_row("api.proxy_alone_added", alone, "one client alone, streams: what the front adds to the first token", _first_ms),
        _added_row("api.proxy_alone_added_memory", alone, in_memory, _first_ms, "memory"),
    ]


def _rate_row(name: str, runs: Runs, about: str) -> Row:
    rates = {way: median_of([_rate(run) for run in taken]) for way, taken in runs.items()}
    (rate, spread), (peer, _) = rates["orcd"], rates["litellm"]
    told = (
        f"{about}: requests a second through orcd, beside LiteLLM's proxy in front of llama-server "
        f"(with its state in memory {rates['memory'][0]:.0f}; directly: worker {rates['worker'][0]:.0f}, llama-server "
        f"{rates['server'][0]:.0f})"
    )
    return against(name, rate, peer, "/s", RATE_GOAL, told, least=True, spread=spread)


def _added_row(name: str, runs: Runs, about: str, moment: Callable[[Heard], float], ours: str = "orcd") -> Row:
    usual = _medians(runs, moment)
    told = (
        f"{about}, beside what LiteLLM's proxy adds; medians through orcd {usual[ours]:.1f} ms, of the worker "
        f"{usual['worker']:.1f}, through LiteLLM {usual['litellm']:.1f}, of llama-server {usual['server']:.1f}"
    )
    return against(name, usual[ours] - usual["worker"], usual["litellm"] - usual["server"], "ms", ADDED_GOAL, told)


def _medians(runs: Runs, moment: Callable[[Heard], float]) -> Mapping[str, float]:
    return {way: Samples(tuple(moment(heard) for run in taken for heard in run)).median for way, taken in runs.items()}


def _run(way: Way, first: int, clients: int, each: int, *, streams: bool) -> Callable[[int], Awaitable[list[Heard]]]:
    async def run(turn: int) -> list[Heard]:
        numbers = range(first + turn * clients * each, first + (turn + 1) * clients * each)
        chats = [chat(number, TOKENS, streams=streams) for number in numbers]
        return await ask_together(way, [chats[client::clients] for client in range(clients)])

    return run


def _rate(run: Sequence[Heard]) -> float:
    return len(run) / (max(heard.ended_s for heard in run) - min(heard.sent_s for heard in run))


def _first_ms(heard: Heard) -> float:
    return (heard.first_s - heard.sent_s) * 1000


def _ended_ms(heard: Heard) -> float:
    return (heard.ended_s - heard.sent_s) * 1000
