"""PURE: the pools where a model could be started, the likeliest first, so that growth does not look at a whole fleet.

For each model, pools stand in four orders: by when a job would be done on their best free site, on their best site that only spare
workers would have to leave, on their best site with room, or, where only busy workers could give way, by how much is missing. A
pool is filed anew when the model is looked at after something has changed there; a change for the worse may go unmarked, so the
pools that come first in an order are filed anew before any is taken from it. In a fleet of up to `LIKELY` pools all are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rbees.orcd.scheduler import prospects, sites
from rbees.orcd.scheduler.roster import Roster
from rbees.orcd.scheduler.sites import Site
from rbees.orcd.scheduler.state import State

LIKELY: Final = 8
"""So many pools with a fitting site are compared."""
CROWDED: Final = 32
"""So many pools are tried where a busy worker would have to give way."""
ROUNDS: Final = 2
"""Of filing those anew that come first. Where a whole fleet has become worse unmarked, the next looks go on."""
LAST: Final = 1e9
"""Seconds by which doubtful sites come after all others."""


def further(state: State, model_sha256: str, now_s: float, *, pushing: bool = False) -> list[Site]:
    """Sites for one more worker, on the likeliest pools: those for which nothing has to be stopped, and with `pushing` also those
    where `pushes_replicas` holds."""
    look = _Look(state, model_sha256, now_s)
    found = [site for site in look.sites_of(look.rooms.free, LIKELY) if site.is_free]
    if pushing:
        found += [site for site in look.sites_of(look.rooms.pushing, LIKELY) if pushes_replicas(state, site)]
    return found


def with_room(state: State, model_sha256: str, now_s: float) -> list[Site]:
    """Sites that have room or get it from idle workers, on the likeliest pools."""
    look = _Look(state, model_sha256, now_s)
    return [site for site in look.sites_of(look.rooms.possible, LIKELY) if site.room is not None]


def crowded(state: State, model_sha256: str, now_s: float) -> list[Site]:
    """Sites where only busy workers could give way, on the pools where least is missing."""
    look = _Look(state, model_sha256, now_s)
    return [site for site in look.sites_of(look.rooms.crowded, CROWDED) if site.room is None]


def pushes_replicas(state: State, site: Site) -> bool:
    """True where room is made only by idle workers of models that keep another one."""
    if site.room is None or not site.room.victims:
        return False
    models = [victim.model_sha256 for victim in site.room.victims]
    return all(len(state.serving_of(model).workers) > models.count(model) for model in models)


class _Look:
    """One look at the pools of a model: the orders as they are now, and the sites that were made for it."""

    def __init__(self, state: State, model_sha256: str, now_s: float) -> None:
        self._state = state
        self._model_sha256 = model_sha256
        self._now_s = now_s
        self._made: dict[str, list[Site]] = {}
        self.rooms = state.rooms_of(model_sha256)
        for pool_id in self.rooms.changed:
            self._refile(pool_id)
        self.rooms.changed.clear()

    def sites_of(self, roster: Roster, count: int) -> Iterator[Site]:
        """All sites of the pools that come first in one of the orders."""
        for _ in range(ROUNDS):
            # One that has become worse unmarked goes to its right place, and the next takes its turn.
            for pool_id in roster.first(count):
                if pool_id not in self._made:
                    self._refile(pool_id)
        for pool_id in roster.first_of(self._made, count):
            yield from self._made[pool_id]

    def _refile(self, pool_id: str) -> None:
        state, rooms = self._state, self.rooms
        there = list(sites.sites_on(state, self._model_sha256, pool_id, self._now_s))
        generic = [(site, prospects.on_site(state, None, site, self._now_s).done_in_s) for site in there if site.room is not None]
        _file(rooms.free, pool_id, [done_in_s for site, done_in_s in generic if site.is_free])
        _file(rooms.pushing, pool_id, [done_in_s for site, done_in_s in generic if pushes_replicas(state, site)])
        _file(rooms.possible, pool_id, [done_in_s + LAST * site.doubtful for site, done_in_s in generic])
        _file(rooms.crowded, pool_id, [float(site.need_bytes - site.free_bytes) for site in there if site.room is None])
        self._made[pool_id] = there


def _file(roster: Roster, pool_id: str, numbers: list[float]) -> None:
    if numbers:
        roster.file(pool_id, min(numbers))
    else:
        roster.drop(pool_id)
