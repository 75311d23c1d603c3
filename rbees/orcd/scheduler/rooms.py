"""PURE: the pools where a model could be started, the likeliest first, so that growth does not look at a whole fleet.

For each model, pools stand in three orders: by when a job would be done on their best free site, on their best site with room, or,
where only busy workers could give way, by how much is missing. A pool is filed anew when the model is looked at after something
has changed there; a change for the worse may go unmarked, so sites are made afresh for the pools that are taken from an order, and
a pool that turns out to have none any more is put right. In a fleet of up to `LIKELY` pools all are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rbees.orcd.scheduler import prospects, sites
from rbees.orcd.scheduler.roster import Rooms, Roster
from rbees.orcd.scheduler.sites import Site
from rbees.orcd.scheduler.state import State

LIKELY: Final = 8
"""So many pools with a fitting site are compared."""
CROWDED: Final = 32
"""So many pools are tried where a busy worker would have to give way."""
LAST: Final = 1e9
"""Seconds by which doubtful sites come after all others."""


def further(state: State, model_sha256: str, now_s: float, *, pushing: bool = False) -> list[Site]:
    """Sites for one more worker, on the likeliest pools: those for which nothing has to be stopped, and with `pushing` also those
    where `pushes_replicas` holds."""
    rooms, made = _refiled(state, model_sha256, now_s)
    found = [site for site in _sites(state, rooms, rooms.free, LIKELY, made, model_sha256, now_s) if site.is_free]
    if pushing:
        sites_there = _sites(state, rooms, rooms.pushing, LIKELY, made, model_sha256, now_s)
        found += [site for site in sites_there if pushes_replicas(state, site)]
    return found


def with_room(state: State, model_sha256: str, now_s: float) -> list[Site]:
    """Sites that have room or get it from idle workers, on the likeliest pools."""
    rooms, made = _refiled(state, model_sha256, now_s)
    return [site for site in _sites(state, rooms, rooms.possible, LIKELY, made, model_sha256, now_s) if site.room is not None]


def crowded(state: State, model_sha256: str, now_s: float) -> list[Site]:
    """Sites where only busy workers could give way, on the pools where least is missing."""
    rooms, made = _refiled(state, model_sha256, now_s)
    return [site for site in _sites(state, rooms, rooms.crowded, CROWDED, made, model_sha256, now_s) if site.room is None]


def pushes_replicas(state: State, site: Site) -> bool:
    """True where room is made only by idle workers of models that keep another one."""
    if site.room is None or not site.room.victims:
        return False
    models = [victim.model_sha256 for victim in site.room.victims]
    return all(len(state.serving_of(model).workers) > models.count(model) for model in models)


def _refiled(state: State, model_sha256: str, now_s: float) -> tuple[Rooms, dict[str, list[Site]]]:
    """The orders as they are now, and the sites of the pools that had to be looked at for that."""
    rooms = state.rooms_of(model_sha256)
    made = {pool_id: list(sites.sites_on(state, model_sha256, pool_id, now_s)) for pool_id in rooms.changed}
    for pool_id, there in made.items():
        generic = [(site, prospects.on_site(state, None, site, now_s).done_in_s) for site in there if site.room is not None]
        _file(rooms.free, pool_id, [done_in_s for site, done_in_s in generic if site.is_free])
        _file(rooms.pushing, pool_id, [done_in_s for site, done_in_s in generic if pushes_replicas(state, site)])
        _file(rooms.possible, pool_id, [done_in_s + LAST * site.doubtful for site, done_in_s in generic])
        _file(rooms.crowded, pool_id, [float(site.need_bytes - site.free_bytes) for site in there if site.room is None])
    rooms.changed.clear()
    return rooms, made


def _file(roster: Roster, pool_id: str, numbers: list[float]) -> None:
    if numbers:
        roster.file(pool_id, min(numbers))
    else:
        roster.drop(pool_id)


def _sites(
    state: State, rooms: Rooms, roster: Roster, count: int, made: dict[str, list[Site]], model_sha256: str, now_s: float
) -> Iterator[Site]:
    for pool_id in roster.first(count):
        # It may have become worse unmarked; then it stands in its right place from the next look on.
        rooms.changed[pool_id] = None
        yield from made[pool_id] if pool_id in made else sites.sites_on(state, model_sha256, pool_id, now_s)
