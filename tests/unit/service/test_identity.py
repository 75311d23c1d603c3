"""Ids and secrets from a given clock and given random bytes."""

from __future__ import annotations

import re

from rbees.protocol import ids
from rbees.protocol.sampling import MAX_SEED
from rbees.service.clock import ManualClock
from rbees.service.identity import Identities


def test_time_and_chance_make_the_ids() -> None:
    made = Identities(ManualClock(unix_ms=1_469_918_176_385), entropy=bytes)
    assert made.job_id() == "job-01aryz6s410000000000000000"
    assert made.worker_id() == "worker-01aryz6s410000000000000000"
    assert ids.is_correlation_id(made.correlation_id())


def test_seeds_stay_within_what_json_keeps() -> None:
    assert Identities(ManualClock(), entropy=lambda n: b"\xff" * n).seed() == MAX_SEED
    assert Identities(ManualClock(), entropy=bytes).seed() == 0


def test_a_secret_has_256_bits_and_is_never_the_same() -> None:
    made = Identities(ManualClock())
    first, second = made.secret(), made.secret()
    assert first != second
    assert re.fullmatch(r"rbk_[A-Za-z0-9_-]{43}", first)
