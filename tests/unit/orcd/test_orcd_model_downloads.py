"""What orcd tells a pool that is to fetch a model: from whom, which one, and who was chosen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from rbees.clients.poold import PooldClient
from rbees.orcd.directory import Directory
from rbees.orcd.model_downloads import ModelDownloads
from rbees.protocol.downloads import DownloadDone, DownloadEvent, DownloadPlanned, DownloadRequest, PoolChosen
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import ModelFacts, PoolView
from tests.support.host_facts import device, model

REF = f"hf:org/m-GGUF@{'a' * 40}::file=m-Q4_K_M.gguf"
MODEL = model(REF, aliases=("mine",), sha256="1" * 64)


class Door(PooldClient):
    """A pool daemon that plans the download it is asked for, and goes on once it may."""

    goes_to_the_hub = False
    """After a moment, because no source is left."""

    def __init__(self, endpoint: str, asked: list[DownloadRequest], may_go_on: asyncio.Event) -> None:
        super().__init__(endpoint)
        self._asked = asked
        self._may_go_on = may_go_on

    async def download(self, request: DownloadRequest) -> AsyncGenerator[DownloadEvent]:
        self._asked.append(request)
        ref = REF if request.model_ref.startswith("hf:") else request.model_ref
        yield DownloadPlanned(model_ref=ref, files=("m.gguf",), total_bytes=1, sources=request.sources)
        if self.goes_to_the_hub:
            yield DownloadPlanned(model_ref=ref, files=("m.gguf",), total_bytes=1)
        await self._may_go_on.wait()
        yield DownloadDone(model_ref=ref, sha256="1" * 64, paths=("/m.gguf",), fetched_bytes=1)


class Town(Directory):
    """Pools by name; `asked` is what they were asked for."""

    def __init__(self) -> None:
        super().__init__(token=None, tls=None)
        self.asked: list[DownloadRequest] = []
        self.may_go_on = asyncio.Event()
        self.held: dict[str, tuple[ModelFacts, ...]] = {}
        self.downloads = ModelDownloads(self, self.views)

    def pool_client(self, endpoint: str) -> PooldClient:
        return Door(endpoint, self.asked, self.may_go_on)

    def settle(self, pool_id: str, *held: ModelFacts, dial: str | None = None) -> None:
        self.held[pool_id] = held
        self.put_pool(pool_id, endpoint=f"http://{pool_id}:9200", dial=dial, version="1", boot_id="b")

    def views(self) -> tuple[PoolView, ...]:
        return tuple(
            PoolView(
                pool_id=pool_id,
                endpoint=self.pool(pool_id).client.url,
                state="live",
                version="1",
                last_heartbeat_age_ms=1,
                devices=(device(),),
                models=held,
                workers=(),
            )
            for pool_id, held in self.held.items()
        )


@pytest.fixture
async def town() -> Town:
    town = Town()
    town.may_go_on.set()
    return town


def request(model_ref: str = "mine", **more: Any) -> DownloadRequest:
    return DownloadRequest(model_ref=model_ref, **more)


async def all_of(events: AsyncGenerator[DownloadEvent]) -> list[DownloadEvent]:
    return [event async for event in events]


async def test_the_pools_that_hold_it_are_its_sources(town: Town) -> None:
    town.settle("new")
    town.settle("old", MODEL)
    town.settle("named", MODEL, dial="http://10.1.2.3:9200")
    town.settle("beside", MODEL, dial="http://127.0.0.1:9200")
    await all_of(town.downloads.to_pool("new", request(quantization="Q4_K_M")))
    sources = ("http://beside:9200", "http://10.1.2.3:9200", "http://old:9200")
    assert town.asked == [request(REF, sha256="1" * 64, sources=sources)]


async def test_a_request_goes_on_as_it_is_where_nobody_holds_it(town: Town) -> None:
    town.settle("new")
    town.settle("old", model("file:/other.gguf"))
    await all_of(town.downloads.to_pool("new", request(quantization="Q8_0")))
    assert town.asked == [request(quantization="Q8_0")]


async def test_only_the_pool_says_that_its_own_file_is_still_there(town: Town) -> None:
    town.settle("new", model("file:/srv/mine.gguf", aliases=("mine",), sha256="1" * 64))
    assert [event async for event in town.downloads.to_pool("new", request())]
    assert town.asked == [request(sha256="1" * 64)]
    town.settle("old", MODEL)
    town.settle("other", model("file:/mine.gguf", aliases=("mine",), sha256="3" * 64))
    await all_of(town.downloads.to_pool("new", request()))
    assert town.asked[1:] == [request(sha256="1" * 64, sources=("http://old:9200",))], "and by the name that its own file has"


async def test_a_callers_sum_is_not_replaced(town: Town) -> None:
    town.settle("new", MODEL)
    town.settle("old", MODEL)
    town.settle("other", model("file:/mine.gguf", aliases=("mine",), sha256="3" * 64))
    await all_of(town.downloads.to_pool("new", request(sha256="3" * 64)))
    await all_of(town.downloads.to_pool("new", request(sha256="4" * 64)))
    assert town.asked == [request(sha256="3" * 64, sources=("http://other:9200",)), request(sha256="4" * 64)]


async def test_who_fetches_it_from_pools_is_a_source_too(town: Town) -> None:
    for name in ("first", "second", "third", "old"):
        town.settle(name)
    town.may_go_on.clear()
    named = "hf:org/m-GGUF::file=m-Q4_K_M.gguf"
    first = town.downloads.to_pool("first", request(named, sources=("http://old:9200",)))
    await anext(first)
    second = town.downloads.to_pool("second", request(named))
    await anext(second)
    await anext(open_ := town.downloads.to_pool("third", request("hf:org/m-GGUF")))
    assert town.asked[1:] == [request(REF, sources=("http://first:9200",)), request("hf:org/m-GGUF")]
    await first.aclose()
    await anext(third := town.downloads.to_pool("third", request(named)))
    assert town.asked[-1].sources == ("http://second:9200",), "who stopped has nothing more to give"
    for events in (second, third, open_):
        await events.aclose()
    await anext(again := town.downloads.to_pool("first", request(named)))
    assert town.asked[-1] == request(named)
    await again.aclose()


async def test_who_fetches_it_from_the_hub_has_nothing_to_give(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second", "third", "old"):
        town.settle(name)
    town.may_go_on.clear()
    named = "hf:org/m-GGUF::file=m-Q4_K_M.gguf"
    await anext(first := town.downloads.to_pool("first", request(named)))
    await anext(second := town.downloads.to_pool("second", request(named)))
    assert town.asked == [request(named)] * 2
    monkeypatch.setattr(Door, "goes_to_the_hub", True)
    third = town.downloads.to_pool("third", request(named, sources=("http://old:9200",)))
    told = [await anext(third), await anext(third)]
    assert [event.sources for event in told if isinstance(event, DownloadPlanned)] == [("http://old:9200",), ()]
    monkeypatch.setattr(Door, "goes_to_the_hub", False)
    await anext(last := town.downloads.to_pool("old", request(named)))
    assert town.asked[-1] == request(named)
    for events in (first, second, third, last):
        await events.aclose()


async def test_sources_of_a_callers_own_are_pools(town: Town) -> None:
    town.settle("new")
    town.settle("old", MODEL)
    asked = request("hf:org/m-GGUF", sources=("http://old:9200",))
    await all_of(town.downloads.to_pool("new", asked))
    assert town.asked == [asked]
    with pytest.raises(RbeesError) as caught:
        town.downloads.to_pool("new", request(sources=("http://169.254.169.254",)))
    assert (caught.value.code, caught.value.details["field"]) == (ErrorCode.INVALID_REQUEST, "sources")


async def test_the_chosen_pool_is_told_first(town: Town) -> None:
    town.settle("new")
    events = await all_of(town.downloads.where_it_fits(request("hf:org/other-1B-GGUF")))
    assert isinstance(events[0], PoolChosen)
    assert (events[0].pool_id, len(town.asked), type(events[-1])) == ("new", 1, DownloadDone)
    town.settle("old", MODEL)
    there = await all_of(town.downloads.where_it_fits(request()))
    assert there[0] == PoolChosen(pool_id="old", why="it has the model already")
    assert town.asked[1:] == [request(REF, sha256="1" * 64)], "it looks whether it is still there"
    town.settle("spare", MODEL)
    await all_of(town.downloads.where_it_fits(request(quantization="Q4_K_M")))
    assert town.asked[2:] == [request(REF, sha256="1" * 64, sources=("http://spare:9200",))]
    town.settle("old", model("haiku", sha256="5" * 64))
    await all_of(town.downloads.where_it_fits(request("haiku")))
    assert town.asked[3:] == [request("haiku", sha256="5" * 64)]


async def test_refusals_come_before_anything_is_sent(town: Town) -> None:
    async def code_of(pool_id: str | None, asked: DownloadRequest) -> ErrorCode:
        with pytest.raises(RbeesError) as caught:
            await anext(town.downloads.where_it_fits(asked) if pool_id is None else town.downloads.to_pool(pool_id, asked))
        return caught.value.code

    assert await code_of(None, request()) is ErrorCode.POOL_NOT_FOUND
    assert await code_of("nobody", request()) is ErrorCode.POOL_NOT_FOUND
    town.settle("new")
    assert await code_of("new", request("hf:a/../b")) is ErrorCode.INVALID_REQUEST
    assert await code_of(None, request("hf:a/../b")) is ErrorCode.INVALID_REQUEST
    assert not town.asked
