"""Frames of a stream about the cluster back into the cluster itself. Kinds that only a newer orcd knows are passed over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from rbees.clients.failures import not_understood
from rbees.protocol import codec
from rbees.protocol.cluster import ClusterStatus, Overview, PoolChanged, PoolGlance, PoolGone, StatusEvent
from rbees.protocol.errors import RbeesError
from rbees.service.sse_parser import SseFrame

EVENT_NAMES: Final = frozenset({"pool", "gone", "overview"})


async def cluster_rounds(url: str, frames: AsyncIterator[SseFrame]) -> AsyncIterator[ClusterStatus]:
    """The whole cluster after each round of changes, pools by id.

    Raises:
        RbeesError: INTERNAL where a frame's data has another form.
    """
    pools: dict[str, PoolGlance] = {}
    async for frame in frames:
        if frame.event not in EVENT_NAMES:
            continue
        match _decode(url, frame):
            case PoolChanged(pool=pool):
                pools[pool.pool_id] = pool
            case PoolGone(pool_id=pool_id):
                pools.pop(pool_id, None)
            case Overview() as overview:
                yield ClusterStatus(overview=overview, pools=tuple(pools[pool_id] for pool_id in sorted(pools)))


def _decode(url: str, frame: SseFrame) -> StatusEvent:
    try:
        event: StatusEvent = codec.decode(frame.data, StatusEvent)  # type: ignore[arg-type]  # A union is no type to mypy.
    except RbeesError:
        raise not_understood(url) from None
    return event
