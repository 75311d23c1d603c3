"""PURE: whether a failure may be gone the next time, as clients are told that ask again by themselves, right or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError

AGAIN: Final = frozenset(
    {
        ErrorCode.QUEUE_FULL,
        ErrorCode.QUOTA_EXCEEDED,
        ErrorCode.DRAINING,
        ErrorCode.MODEL_LOADING,
        ErrorCode.POOL_UNREACHABLE,
        ErrorCode.WORKER_UNREACHABLE,
    }
)
"""What may well succeed the next time. All else has been tried as often as it makes sense, or cannot succeed."""
_RETRIED: Final = frozenset({408, 409, 429})
"""Statuses below 500 that clients try again by themselves."""


def retry_headers(error: RbeesError, status: int) -> Mapping[str, str]:
    """`x-should-retry` where clients would ask again after this status, and how far a model has loaded."""
    if status < 500 and status not in _RETRIED:
        return {}
    progress = error.details.get("progress")
    told = {} if progress is None else {"X-Rbees-Progress": f"{progress:g}"}
    return {"x-should-retry": "true" if error.code in AGAIN else "false", **told}
