"""How much a pool that may be a stranger's can make its caller read."""

from __future__ import annotations

import pytest

from rbees.clients.poold import MAX_OFFER_BYTES, PooldClient
from rbees.protocol.errors import ErrorCode, RbeesError
from tests.support.strange_pools import StrangePool

SUM = "0" * 64


async def test_an_offer_has_an_end() -> None:
    offer = {"model_ref": "x", "sha256": SUM, "files": []}
    with StrangePool(offer) as pool, StrangePool({**offer, "more": "x" * MAX_OFFER_BYTES}) as flood:
        async with PooldClient(pool.url) as client:
            assert (await client.offer("x")).sha256 == SUM
        async with PooldClient(flood.url) as client:
            with pytest.raises(RbeesError) as caught:
                await client.offer("x")
    assert caught.value.code is ErrorCode.POOL_UNREACHABLE


async def test_the_sums_of_pieces_are_as_long_as_they_can_be() -> None:
    with StrangePool({"sha256": SUM, "size_bytes": 1, "piece_bytes": 1, "pieces": [SUM] * 100}) as pool:
        async with PooldClient(pool.url) as client:
            assert len((await client.pieces(SUM, 10_000)).pieces) == 100
            with pytest.raises(RbeesError) as caught:
                await client.pieces(SUM, 5_000)
    assert caught.value.code is ErrorCode.POOL_UNREACHABLE
