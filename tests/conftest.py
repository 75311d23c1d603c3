"""Fixtures that every tier may use. A tier's own fixtures lie beside its tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.home import Home


@pytest.fixture
def home() -> Iterator[Home]:
    """A place of its own for real processes; whatever they leave behind is ended with the test."""
    with Home() as home:
        yield home
