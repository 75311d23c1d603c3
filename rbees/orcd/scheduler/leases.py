"""PURE: which pools can be relied upon, by how long ago they were heard, on the monotonic clock at receipt.

live --suspect_after_s--> suspect --lost_after_s--> lost; a report makes a pool live again at once. A suspect pool gets no new
work; the jobs of a lost one go on elsewhere.

**Out of reach.** A suspect pool may be slow and its streams go on, so its lease is long. A job whose stream fell silent as well
has two witnesses against its host and goes on elsewhere without waiting for the end of the lease, where there is an elsewhere:
should the host turn out to live, its results are fenced by their epoch.

**Correlated silence.** When of at least `silence_least_pools` pools more than half fall silent within `suspect_after_s` of one
another, the fault is more likely orcd's own. No pool is then lost until one of them returns or `silence_hold_s` pass. When one
returns, the others get what a suspect pool has left of its lease, so that they can return as well. A pool's silence is held
against orcd once: if it goes on after that, the pool is lost like any other.
"""

from __future__ import annotations

from rbees.orcd.scheduler.fleet import Pool
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.pools import PoolState


def heard(turn: Turn, pool: Pool) -> None:
    """The pool has reported: its lease begins anew."""
    if pool.state == "suspect" and turn.state.hold_until_s is not None:
        _end_hold(turn)
    pool.heard_at_s = turn.now_s
    pool.excused = False
    if pool.state != "live":
        _move(turn, pool, "live")


def _move(turn: Turn, pool: Pool, state: PoolState) -> None:
    pool.state = state
    if state == "suspect":
        turn.state.suspects[pool.pool_id] = None
    else:
        turn.state.suspects.pop(pool.pool_id, None)
    turn.state.changed.update(dict.fromkeys(pool.workers))
    turn.touch_pool(pool)


def extend(turn: Turn, seconds: float) -> None:
    """orcd itself stood still: nobody could be heard meanwhile."""
    for pool in turn.state.pools.values():
        pool.heard_at_s = min(turn.now_s, pool.heard_at_s + seconds)
    for job_id in turn.state.held_until:
        turn.state.held_until[job_id] += seconds
    if turn.state.hold_until_s is not None:
        turn.state.hold_until_s += seconds


def check(turn: Turn) -> list[Pool]:
    """Look at every lease; the pools that have just been lost. Their jobs are the caller's to move."""
    now_s, suspect_after_s = turn.now_s, turn.policy.suspect_after_s
    silent = [pool for pool in turn.state.pools.values() if now_s - pool.heard_at_s >= suspect_after_s]
    for pool in silent:
        if pool.state == "live":
            _move(turn, pool, "suspect")
    _consider_hold(turn)
    if turn.state.hold_until_s is not None:
        return []
    lost = [pool for pool in silent if pool.state == "suspect" and _silence_s(turn, pool) >= turn.policy.lost_after_s]
    for pool in lost:
        _move(turn, pool, "lost")
    return lost


def out_of_reach(turn: Turn) -> list[Pool]:
    """Suspect pools whose silence is their own; none while it may be orcd's, which hears most of the others well if it is not."""
    state, policy = turn.state, turn.policy
    if state.hold_until_s is not None or not state.suspects:
        return []
    counted = [pool for pool in state.pools.values() if pool.state != "lost"]
    heard = sum(not is_quiet(turn, pool) for pool in counted)
    if len(counted) >= policy.silence_least_pools and 2 * heard < len(counted):
        return []
    return [pool for pool_id in state.suspects if not (pool := state.pools[pool_id]).excused]


def _consider_hold(turn: Turn) -> None:
    state, policy = turn.state, turn.policy
    if state.hold_until_s is not None:
        if turn.now_s >= state.hold_until_s:
            state.hold_until_s = None
        return
    silent = [pool for pool_id in state.suspects if not (pool := state.pools[pool_id]).excused]
    if not silent:
        return
    counted = [pool for pool in state.pools.values() if pool.state != "lost"]
    if len(counted) < policy.silence_least_pools:
        return
    newest_s = max(pool.heard_at_s for pool in silent)
    together = [pool for pool in silent if newest_s - pool.heard_at_s <= policy.suspect_after_s]
    if 2 * len(together) <= len(counted):
        return
    state.hold_until_s = turn.now_s + policy.silence_hold_s
    for pool in silent:
        pool.excused = True


def _end_hold(turn: Turn) -> None:
    turn.state.hold_until_s = None
    for pool_id in turn.state.suspects:
        pool = turn.state.pools[pool_id]
        pool.excused = True
        pool.heard_at_s = max(pool.heard_at_s, turn.now_s - turn.policy.suspect_after_s)


def is_quiet(turn: Turn, pool: Pool) -> bool:
    """True where a heartbeat is overdue, so that trouble with one of its workers may well be trouble with the whole host."""
    return pool.state != "live" or _silence_s(turn, pool) >= turn.policy.quiet_after_s


def _silence_s(turn: Turn, pool: Pool) -> float:
    return turn.now_s - pool.heard_at_s
