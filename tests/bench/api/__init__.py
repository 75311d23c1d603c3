"""The figures of the APIs that other programs' clients speak: chats through orcd beside its worker, and beside LiteLLM's proxy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.bench.api import chats, proxy, steady
from tests.bench.rows import Row

PARTS: Final[dict[str, Callable[[bool], list[Row]]]] = {
    "chats": chats.measure,
    "proxy": proxy.measure,
    "steady": steady.measure,
}
"""Each takes True for a short look, which has fewer samples."""
