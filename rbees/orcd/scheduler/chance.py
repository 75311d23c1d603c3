"""PURE: every random draw of one event, derived from the entropy that came with it."""

from __future__ import annotations

import hashlib

from rbees.protocol.ids import ENTROPY_BYTES


def draw(entropy: bytes, label: str) -> bytes:
    """`ENTROPY_BYTES` bytes; different labels give independent draws from the same entropy."""
    return hashlib.blake2b(label.encode(), key=entropy, digest_size=ENTROPY_BYTES).digest()


def fraction(entropy: bytes, label: str) -> float:
    """A number in [0, 1)."""
    return int.from_bytes(draw(entropy, label)[:6], "big") / (1 << 48)
