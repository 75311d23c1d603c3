"""Libraries that others take in where they find them, kept out of processes that have no use for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


@contextmanager
def not_imported(name: str) -> Iterator[None]:
    """To what is imported in this block a package looks as if it were not installed, unless it was imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = cast(ModuleType, None)  # How Python marks what is not to be found (reference, 5.3.1).
    try:
        yield
    finally:
        del sys.modules[name]
