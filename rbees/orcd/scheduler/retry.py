"""PURE: how long to pause after a failure, of a job and of loading a model on a pool."""

from __future__ import annotations

from typing import Final

from rbees.orcd.scheduler import chance
from rbees.orcd.scheduler.fleet import LoadTrouble, Worker
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.errors import ErrorBody, ErrorCode

NOT_TAKEN_UP: Final = frozenset(
    {
        ErrorCode.MODEL_LOADING,
        ErrorCode.DRAINING,
        ErrorCode.QUEUE_FULL,
        ErrorCode.JOB_NOT_FOUND,
        ErrorCode.WORKER_NOT_FOUND,
    }
)
"""The worker refused the job, never heard of it, or could not be addressed: no failure of the job."""
REFUSALS: Final = frozenset(
    {
        ErrorCode.INSUFFICIENT_VRAM,
        ErrorCode.DEVICE_BUSY,
        ErrorCode.POOL_UNREACHABLE,
        ErrorCode.DRAINING,
        ErrorCode.BACKEND_UNAVAILABLE,
    }
)
"""A pool answers these before anything was loaded: paused for, but never counted as crashes by the breaker."""
UNAVAILABLE_TIMES: Final = 3
"""Refusals in a row after which a backend counts as missing on a pool; a device may just have fallen ill."""


def delay_s(policy: Policy, failures: int, entropy: bytes, label: str) -> float:
    """The pause after the `failures`-th failure (from 1): doubling, and shortened at random by up to half against herds."""
    longest = min(policy.retry_longest_delay_s, policy.retry_first_delay_s * 2.0 ** min(failures - 1, 32))
    return longest * (1.0 - chance.fraction(entropy, label) / 2)


def load_failed(turn: Turn, worker: Worker, error: ErrorBody) -> None:
    """A model did not come up on a pool: leave it alone there for a while, for longer with each time.

    After `load_failures` crashes within `load_window_s` the breaker opens for another `load_window_s`, then one try decides.
    """
    policy, now_s = turn.policy, turn.now_s
    trouble = turn.state.troubles.setdefault((worker.model_sha256, worker.pool_id), LoadTrouble(error))
    trouble.error = error
    trouble.unshared = trouble.unshared or worker.is_shared
    turn.touched.add(worker.model_sha256)
    if error.code in REFUSALS:
        trouble.refusals += 1
        times = trouble.refusals
        _learn_need(trouble, error, shared=worker.is_shared)
    else:
        trouble.failures.append(now_s)
        while now_s - trouble.failures[0] > policy.load_window_s:
            trouble.failures.popleft()
        times = len(trouble.failures)
    if error.code is ErrorCode.MODEL_INCOMPATIBLE or (error.code is ErrorCode.BACKEND_UNAVAILABLE and times >= UNAVAILABLE_TIMES):
        trouble.unusable[worker.backend] = error
    if is_open(policy, trouble):
        trouble.blocked_until_s = now_s + policy.load_window_s
    else:
        trouble.blocked_until_s = now_s + delay_s(policy, times, turn.moment.entropy, f"load {worker.worker_id}")


def _learn_need(trouble: LoadTrouble, error: ErrorBody, *, shared: bool) -> None:
    """Take over the numbers of a preflight, where it gave some for the whole model."""
    device_id, needed, reserve = (error.details.get(name) for name in ("device_id", "needed_bytes", "reserve_bytes"))
    if isinstance(device_id, str) and isinstance(needed, int) and not shared:
        trouble.need_bytes[device_id] = needed + (reserve if isinstance(reserve, int) else 0)


def load_succeeded(turn: Turn, model_sha256: str, pool_id: str) -> None:
    """The model came up on the pool: what went wrong there before is forgotten."""
    turn.state.troubles.pop((model_sha256, pool_id), None)


def is_open(policy: Policy, trouble: LoadTrouble) -> bool:
    """True where the breaker is what keeps the model from the pool, and not just a pause."""
    return len(trouble.failures) >= policy.load_failures
