"""Looking on over breaks: the cluster as orcd tells it, round by round, whatever happens to the connection or to orcd."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from rbees.protocol.cluster import ClusterStatus
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.clock import Clock

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 2.0

_WORTH_ANOTHER_TRY: Final = frozenset({ErrorCode.ORCD_UNREACHABLE, ErrorCode.DRAINING})


class ClusterSource(Protocol):
    """The method of `OrcdClient` that looking on needs."""

    def watch(self, every_s: float) -> AbstractAsyncContextManager[AsyncIterator[ClusterStatus]]:
        """The cluster now and then every so many seconds."""
        ...


async def watch_cluster(
    orcd: ClusterSource, clock: Clock, every_s: float, on_break: Callable[[str], None], *, heard: bool = False
) -> AsyncGenerator[ClusterStatus]:
    """Yield the cluster for ever. `on_break` hears why there is no word of orcd, each time before it is asked again; `heard` says
    that it answered before.

    Raises:
        RbeesError: ORCD_UNREACHABLE where nobody ever answered, for then the address is probably wrong; what orcd answers.
    """
    delay_s = FIRST_DELAY_S
    while True:
        reason = "it ended the stream"
        try:
            async with orcd.watch(every_s) as rounds:
                async for cluster in rounds:
                    delay_s, heard = FIRST_DELAY_S, True
                    yield cluster
        except RbeesError as error:
            if error.code not in _WORTH_ANOTHER_TRY or not heard:
                raise
            reason = str(error.details.get("reason", error.message))
        on_break(reason)
        await clock.sleep(delay_s)
        delay_s = min(delay_s * 2, LONGEST_DELAY_S)
