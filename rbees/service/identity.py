"""New identifiers and secrets: the one place where the shell draws randomness for them."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Final

from rbees.protocol import ids
from rbees.service.clock import Clock

SECRET_PREFIX: Final = "rbk_"  # noqa: S105  (what every token begins with)
SECRET_BYTES: Final = 32
SEED_BITS: Final = 53


class Identities:
    """Makes ids from a clock and a source of random bytes (`entropy(n) -> n bytes`)."""

    def __init__(self, clock: Clock, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._entropy = entropy

    def job_id(self) -> str:
        """A fresh job id; ids sort by the time of their making."""
        return ids.new_job_id(self._clock.unix_ms(), self._entropy(ids.ENTROPY_BYTES))

    def worker_id(self) -> str:
        """A fresh worker id."""
        return ids.new_worker_id(self._clock.unix_ms(), self._entropy(ids.ENTROPY_BYTES))

    def file_id(self) -> str:
        """A fresh id of a file."""
        return ids.new_file_id(self._clock.unix_ms(), self._entropy(ids.ENTROPY_BYTES))

    def batch_id(self) -> str:
        """A fresh id of a batch."""
        return ids.new_batch_id(self._clock.unix_ms(), self._entropy(ids.ENTROPY_BYTES))

    def correlation_id(self) -> str:
        """A fresh correlation id, for a request that brought none."""
        return ids.new_correlation_id(self._clock.unix_ms(), self._entropy(ids.ENTROPY_BYTES))

    def seed(self) -> int:
        """A sampling seed that every JSON reader keeps exactly."""
        return int.from_bytes(self._entropy(8), "big") >> (64 - SEED_BITS)

    def secret(self) -> str:
        """A bearer token of 256 random bits: `rbk_` and 43 characters of base64url."""
        return SECRET_PREFIX + base64.urlsafe_b64encode(self._entropy(SECRET_BYTES)).rstrip(b"=").decode()
