"""Requests for vectors before and after they are computed: special tokens, cuts, pairs, templates, and who stops waiting."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.vectors import EmbedRequest, RerankRequest
from rbees.workerd.engine.backend import EmbedderFacts
from rbees.workerd.engine.embedding import EmbedWork
from rbees.workerd.engine.outputs import Embedded, Failed
from rbees.workerd.engine.refusals import not_computed
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.pairs import Pairs
from rbees.workerd.vectors import VectorDesk, capabilities_of

RANKER = EmbedderFacts("rank", 1, 64, 64, 64, 8, True)


class Door:
    """An engine that only records."""

    def __init__(self) -> None:
        self.works: list[EmbedWork] = []
        self.cancelled: list[str] = []

    def embed(self, work: EmbedWork) -> None:
        self.works.append(work)

    def cancel_embed(self, key: str) -> None:
        self.cancelled.append(key)


def desk_of(**script: Any) -> tuple[VectorDesk, Door]:
    backend, door = ScriptedBackend(Script(**script), slots=2, ctx=32, cells=64), Door()
    return VectorDesk(backend, door, model_ref="m"), door


async def given_to(door: Door) -> EmbedWork:
    async with asyncio.timeout(30):
        while not door.works:  # noqa: ASYNC110 - tokenizing is done in a thread
            await asyncio.sleep(0.001)
    return door.works.pop()


async def test_whoever_stops_waiting_ends_the_computing() -> None:
    desk, door = desk_of(pooling="mean")
    asking = asyncio.create_task(desk.embed(EmbedRequest(input=("bee",))))
    work = await given_to(door)
    assert desk.pending == 1
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert door.cancelled == [work.key]
    assert desk.pending == 0
    desk.deliver(Embedded(work.key, np.zeros((1, 8), dtype=np.float32), 0.0, 1.0))


async def test_what_the_engine_could_not_compute_is_told() -> None:
    desk, door = desk_of(pooling="mean")
    asking = asyncio.create_task(desk.embed(EmbedRequest(input=("bee",))))
    work = await given_to(door)
    assert desk.waits_for(work.key)
    desk.deliver(Failed(work.key, not_computed().body()))
    with pytest.raises(RbeesError) as caught:
        await asking
    assert caught.value.code is ErrorCode.INTERNAL
    assert not door.cancelled


async def test_equal_scores_keep_their_order_and_only_the_best_are_shown() -> None:
    desk, door = desk_of(pooling="rank")
    asking = asyncio.create_task(desk.rerank(RerankRequest(query="q", documents=("a", "b", "c", "d"), top_n=3)))
    work = await given_to(door)
    desk.deliver(Embedded(work.key, np.array([[1], [3], [1], [0]], dtype=np.float32), 0.0, 1.0))
    answer = await asking
    assert [(one.index, one.relevance_score) for one in answer.results] == [(1, 3.0), (0, 1.0), (2, 1.0)]
    assert answer.usage.prompt_tokens == 8


@pytest.mark.parametrize(
    ("script", "request_", "code"),
    [
        ({}, EmbedRequest(input=("x",)), ErrorCode.MODEL_INCOMPATIBLE),
        ({}, RerankRequest(query="x", documents=("y",)), ErrorCode.MODEL_INCOMPATIBLE),
        ({"pooling": "rank"}, EmbedRequest(input=("x",)), ErrorCode.MODEL_INCOMPATIBLE),
        ({"pooling": "mean"}, RerankRequest(query="x", documents=("y",)), ErrorCode.MODEL_INCOMPATIBLE),
        ({"pooling": "mean"}, EmbedRequest(input=("x", "y" * 33)), ErrorCode.CONTEXT_EXCEEDED),
        ({"pooling": "mean"}, EmbedRequest(input=((512,),)), ErrorCode.INVALID_REQUEST),
        ({"pooling": "mean", "dimensions": 4}, EmbedRequest(input=("x",), dimensions=5), ErrorCode.INVALID_REQUEST),
        ({"pooling": "mean", "dimensions": 9_000}, EmbedRequest(input=("x",) * 200), ErrorCode.INVALID_REQUEST),
        ({"pooling": "rank"}, RerankRequest(query="x" * 20, documents=("y" * 20,)), ErrorCode.CONTEXT_EXCEEDED),
        ({"pooling": "rank"}, RerankRequest(query="x", documents=("y", " ")), ErrorCode.INVALID_REQUEST),
    ],
)
async def test_what_cannot_be_computed_is_refused_before_anything_is(script: Any, request_: Any, code: ErrorCode) -> None:
    desk, door = desk_of(**script)
    with pytest.raises(RbeesError) as caught:
        await desk.inputs(request_)
    assert caught.value.code is code
    assert not door.works


@pytest.mark.parametrize("truncate", [False, True])
async def test_a_query_that_leaves_no_room_is_not_told_to_have_it_cut(truncate: bool) -> None:
    desk, _ = desk_of(pooling="rank")
    with pytest.raises(RbeesError, match="shorten the query") as caught:
        await desk.inputs(RerankRequest(query="x" * 32, documents=("y",), truncate=truncate))
    assert "send `truncate`" not in caught.value.message
    with pytest.raises(RbeesError, match="send `truncate`"):
        await desk.inputs(RerankRequest(query="x", documents=("y" * 40,)))


def test_capabilities_are_facts_of_the_model() -> None:
    def can(**script: Any) -> tuple[str, ...]:
        return capabilities_of(ScriptedBackend(Script(**script), slots=2, ctx=32, cells=64))

    assert can() == ("generate", "chat")
    assert can(chat_template=None, pooling="last") == ("generate", "embed")
    assert can(generates=False, pooling="cls") == ("embed",)
    assert can(generates=False, pooling="rank") == ("rerank",)


def test_a_pair_stands_between_the_special_tokens_of_its_model() -> None:
    backend = ScriptedBackend(Script(), slots=1, ctx=64, cells=64)
    facts = replace(RANKER, opening=(300,), between=(301, 302), closing=(303,))
    pairs = Pairs(backend, facts, "q<end>")
    whole = pairs.of("doc", 0).tolist()
    assert whole == [300, *b"q<end>", 301, 302, *b"doc", 303], "a control token that is spelled out stays text"
    long = pairs.of("d" * 100, 0)
    cut = pairs.cut(long).tolist()
    assert len(cut) == 64
    assert cut[-1] == 303
    assert pairs.room == 64 - 10


def test_a_template_is_filled_once_and_keeps_the_space_with_the_word() -> None:
    backend = ScriptedBackend(Script(), slots=1, ctx=64, cells=64)
    calls: list[tuple[str, bool]] = []
    tokenize = backend.tokenize

    def recording(text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        calls.append((text, parse_special))
        return tokenize(text, add_special=add_special, parse_special=parse_special)

    backend.tokenize = recording  # type: ignore[method-assign]
    facts = replace(RANKER, rerank_template="<end>Query: {query}\nDocument: {document}<end>\n")
    pairs = Pairs(backend, facts, "{document}<end>")
    ids = pairs.of("{query}", 0)
    text = bytes(token for token in ids.tolist() if token < 256).decode()
    assert text == "Query: {document}<end>\nDocument: {query}\n"
    assert [token for token in ids.tolist() if token >= 256] == [256, 256], "only the template writes control tokens"
    assert (" {document}<end>", False) in calls
    assert (" {query}", False) in calls
