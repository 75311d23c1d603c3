"""What is found of a host on which no pool daemon runs."""

from __future__ import annotations

import asyncio

from rbees import __version__
from rbees.protocol.pools import HostStatus


async def found_here() -> HostStatus:
    """Look without a daemon, as `rbees-pool worker list` does; only who does pays for the imports.

    Raises:
        DaemonRuns: one has started since this command looked for one.
    """
    from rbees.pool.here import Here
    from rbees.pool.local_workers import DaemonRuns, LocalWorkers
    from rbees.pool.state import own_state
    from rbees.service import logs

    # What is found is shown; a log beside it would say it once more.
    logs.configure("pool", "error")
    own, here = own_state(), Here()
    if own.daemon_runs():
        raise DaemonRuns()
    async with LocalWorkers(own, lambda _: None) as keeper:
        workers = (await keeper.workers()).workers
    models = await asyncio.to_thread(here.models)
    return HostStatus(
        version=__version__,
        devices=await here.devices(),
        models=models.models,
        workers=tuple(one for one in workers if one.end is None),
    )
