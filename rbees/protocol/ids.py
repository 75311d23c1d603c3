"""Identifiers: their shape, how they are made, how they are checked.

Ids sort by creation time (the layout of ULID, github.com/ulid/spec: 48 bits of Unix milliseconds, then 80 random bits, in
Crockford's base 32), so a listing ordered by id is ordered by age. Time and randomness come in as arguments.
"""

from __future__ import annotations

import re
from typing import Final

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
ENTROPY_BYTES: Final = 10

WORKER_ID_PATTERN: Final = r"^worker-[0-9a-hjkmnp-tv-z]{26}$"
POOL_ID_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$"
CORRELATION_ID_PATTERN: Final = r"^[A-Za-z0-9-]{1,64}$"

_POOL_ID = re.compile(POOL_ID_PATTERN)
_CORRELATION_ID = re.compile(CORRELATION_ID_PATTERN)


def new_job_id(unix_ms: int, entropy: bytes) -> str:
    """A job id from the wall clock (Unix milliseconds) and 10 random bytes."""
    return "job-" + _ulid(unix_ms, entropy)


def new_worker_id(unix_ms: int, entropy: bytes) -> str:
    """A worker id from the wall clock (Unix milliseconds) and 10 random bytes."""
    return "worker-" + _ulid(unix_ms, entropy)


def new_correlation_id(unix_ms: int, entropy: bytes) -> str:
    """A correlation id for a request that brought none."""
    return _ulid(unix_ms, entropy)


def new_file_id(unix_ms: int, entropy: bytes) -> str:
    """An id of a file that a client uploaded or a batch wrote, shaped as clients of OpenAI's API know them."""
    return "file-" + _ulid(unix_ms, entropy)


def new_batch_id(unix_ms: int, entropy: bytes) -> str:
    """An id of a batch, shaped as clients of OpenAI's API know them."""
    return "batch_" + _ulid(unix_ms, entropy)


def is_pool_id(text: str) -> bool:
    """True for what may name a pool: a host name or anything shaped like one."""
    return _POOL_ID.fullmatch(text) is not None


def is_correlation_id(text: str) -> bool:
    """True for a correlation id that may be taken over from a caller."""
    return _CORRELATION_ID.fullmatch(text) is not None


def _ulid(unix_ms: int, entropy: bytes) -> str:
    if not 0 <= unix_ms < 1 << 48 or len(entropy) != ENTROPY_BYTES:
        raise ValueError("a ULID takes 48 bits of milliseconds and 10 bytes of entropy")
    value = unix_ms << 80 | int.from_bytes(entropy, "big")
    return "".join(ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
