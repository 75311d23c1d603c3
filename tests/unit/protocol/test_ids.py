"""Ids: their shape, their order, what is refused."""

from __future__ import annotations

import re

import pytest

from rbees.protocol import ids

LOWEST, HIGHEST = bytes(10), b"\xff" * 10


def test_shapes() -> None:
    assert re.fullmatch(r"job-[0-9a-hjkmnp-tv-z]{26}", ids.new_job_id(0, LOWEST))
    assert re.match(ids.WORKER_ID_PATTERN, ids.new_worker_id((1 << 48) - 1, HIGHEST))
    assert re.fullmatch(r"file-[0-9a-hjkmnp-tv-z]{26}", ids.new_file_id(0, LOWEST))
    assert re.fullmatch(r"batch_[0-9a-hjkmnp-tv-z]{26}", ids.new_batch_id(0, LOWEST))
    assert ids.is_correlation_id(ids.new_correlation_id(1_700_000_000_000, HIGHEST))


def test_a_published_ulid() -> None:
    # The example of github.com/ulid/spec: 01ARYZ6S41… is 1469918176385 milliseconds.
    assert ids.new_job_id(1_469_918_176_385, LOWEST).startswith("job-01aryz6s41")


def test_time_goes_before_chance() -> None:
    assert ids.new_job_id(1_700_000_000_000, HIGHEST) < ids.new_job_id(1_700_000_000_001, LOWEST)


@pytest.mark.parametrize(("unix_ms", "entropy"), [(-1, LOWEST), (1 << 48, LOWEST), (0, b""), (0, bytes(11))])
def test_what_does_not_fit_is_refused(unix_ms: int, entropy: bytes) -> None:
    with pytest.raises(ValueError, match="ULID"):
        ids.new_job_id(unix_ms, entropy)


@pytest.mark.parametrize("text", ["a", "gpu-1", "gpu-1.lab.example", "A" * 63])
def test_pool_ids(text: str) -> None:
    assert ids.is_pool_id(text)


@pytest.mark.parametrize("text", ["", "-a", "a-", "a/b", "..", "a b", "a\n", "ü", "A" * 64])
def test_no_pool_ids(text: str) -> None:
    assert not ids.is_pool_id(text)


@pytest.mark.parametrize("text", ["", "a" * 65, "a b", "a\r\nSet-Cookie: x", "ü", "a_b", "abc\n"])
def test_no_correlation_ids(text: str) -> None:
    assert not ids.is_correlation_id(text)
