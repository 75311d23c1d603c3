"""Answers of megabytes are encoded beside the event loop, piece by piece, where token streams share a process with them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from rbees.orcd.api.jobs import routes as orcd_routes
from rbees.protocol import codec
from rbees.protocol.events import Embedding, Usage
from rbees.protocol.jobs import JobView
from rbees.protocol.vectors import EmbedAnswer, Embeddings
from rbees.workerd.routes import routes as worker_routes
from tests.support.raw_http import request
from tests.support.service_app import serving

USAGE = Usage(prompt_tokens=3, cached_tokens=0, completion_tokens=0)


class Watched(tuple[Embedding, ...]):
    """Vectors that note which thread takes them one by one; the library's own encoder takes them without asking."""

    takers: list[threading.Thread]

    def __iter__(self) -> Iterator[Embedding]:
        self.takers.append(threading.current_thread())
        return super().__iter__()


def watched() -> Watched:
    found = Watched(Embedding(index=i, embedding=(0.25, -1e-9), tokens=1, truncated=False) for i in range(3))
    found.takers = []
    return found


def assert_taken_beside_the_loop(vectors: Watched) -> None:
    assert vectors.takers, "in one call other threads would wait as long as on the loop"
    assert threading.main_thread() not in vectors.takers


async def test_a_worker_encodes_vectors_beside_its_loop() -> None:
    vectors = watched()
    answer = EmbedAnswer(model="m", embeddings=vectors, usage=USAGE)

    async def embed(_request: Any) -> EmbedAnswer:
        return answer

    worker = SimpleNamespace(accepting=lambda: SimpleNamespace(vectors=SimpleNamespace(embed=embed)))
    async with serving(*worker_routes(cast(Any, worker))) as server:
        given = await asyncio.to_thread(request, "POST", f"{server.url}/embed", {"input": ["a", "b", "c"]})
    assert (given.status, given.headers["content-type"]) == (200, "application/json")
    assert given.body == codec.encode(answer)
    assert_taken_beside_the_loop(vectors)


async def test_orcd_encodes_a_job_s_vectors_beside_its_loop() -> None:
    vectors = watched()
    shown = JobView(
        job_id="j",
        status="completed",
        kind="embed",
        model="m",
        priority="batch",
        seed=1,
        created_at_ms=1,
        output=Embeddings(embeddings=vectors),
        usage=USAGE,
    )

    async def view(_job_id: str) -> JobView:
        return shown

    async with serving(*orcd_routes(cast(Any, SimpleNamespace(view=view)), cast(Any, None))) as server:
        given = await asyncio.to_thread(request, "GET", f"{server.url}/v2/tasks/j")
    assert given.body == codec.encode(shown)
    assert_taken_beside_the_loop(vectors)
