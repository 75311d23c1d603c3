"""Looking on over breaks, on a clock that is turned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest

from rbees.ctl import top
from rbees.ctl.watching import LONGEST_DELAY_S, watch_cluster
from rbees.protocol.cluster import LONGEST_WATCH_S, SHORTEST_WATCH_S, ClusterStatus
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.clock import ManualClock
from tests.support.glances import cluster

GONE = RbeesError(ErrorCode.ORCD_UNREACHABLE, "No orchestrator answers.", reason="nobody listens there")


class Orcd:
    """Answers each call with the next of `calls`: rounds, and an error where the stream breaks."""

    def __init__(self, *calls: list[ClusterStatus | RbeesError]) -> None:
        self.calls = list(calls)

    @asynccontextmanager
    async def watch(self, every_s: float) -> AsyncIterator[AsyncIterator[ClusterStatus]]:
        call: Sequence[ClusterStatus | RbeesError] = self.calls.pop(0) if self.calls else [GONE]
        if call and isinstance(call[0], RbeesError):
            raise call[0]
        yield self._rounds(call)

    async def _rounds(self, call: Sequence[ClusterStatus | RbeesError]) -> AsyncIterator[ClusterStatus]:
        for one in call:
            if isinstance(one, RbeesError):
                raise one
            yield one


async def test_a_restart_is_told_and_got_over() -> None:
    first, second, third = cluster(version="1"), cluster(version="2"), cluster(version="3")
    orcd, clock, breaks = Orcd([first], [GONE], [second, GONE], [third]), ManualClock(), list[str]()
    seen: list[ClusterStatus] = []
    async with aclosing(watch_cluster(orcd, clock, 1.0, breaks.append)) as rounds:

        async def follow() -> None:
            async for one in rounds:
                seen.append(one)  # noqa: PERF401  (one by one, as they come)

        following = asyncio.create_task(follow())
        await clock.advance(0.1 + 0.2 + 0.1)
        assert seen == [first, second, third]
        assert breaks == ["it ended the stream", "nobody listens there", "nobody listens there", "it ended the stream"]
        await clock.advance(60.0)
        assert 60.0 / LONGEST_DELAY_S <= len(breaks) <= 60.0 / LONGEST_DELAY_S + 10, "it goes on trying, and not too often"
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def test_what_can_be_typed_is_what_orcd_takes() -> None:
    assert (top.SHORTEST_S, top.LONGEST_S) == (SHORTEST_WATCH_S, LONGEST_WATCH_S)


@pytest.mark.parametrize("heard", [False, True])
async def test_who_never_answered_is_not_waited_for(heard: bool) -> None:
    refusal = RbeesError(ErrorCode.UNAUTHENTICATED, "Send the token.")
    clock, breaks = ManualClock(), list[str]()
    async with aclosing(watch_cluster(Orcd([GONE], [refusal]), clock, 1.0, breaks.append, heard=heard)) as rounds:
        first = asyncio.ensure_future(anext(rounds))
        await clock.advance(1.0)
        with pytest.raises(RbeesError) as caught:
            await first
    assert caught.value.code is (ErrorCode.UNAUTHENTICATED if heard else ErrorCode.ORCD_UNREACHABLE)
    assert len(breaks) == heard
