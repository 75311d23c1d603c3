"""Fixtures that every tier may use. A tier's own fixtures lie beside its tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from rbees.workerd.command import limit_spinning
from tests.support.home import Home

# A shell that puts the tests into the background has them ignore Ctrl-C, and so would every program that they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Some tests run llama.cpp in their own process, without the command of a worker, which sees to this before the library is loaded.
limit_spinning(os.environ)


TESTS: Final = Path(__file__).parent
WITH_DAEMONS: Final = frozenset({"integration", "acceptance"})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes run tests, one takes all that start daemons, one after the other: they would slow each other down,
    and some look at the clock. The others take the rest, file by file."""
    for item in items:
        path = item.path.relative_to(TESTS)
        item.add_marker(pytest.mark.xdist_group("daemons" if path.parts[0] in WITH_DAEMONS else path.stem))


# The models of whoever runs the tests are none of theirs; what a test wants of a hub it says itself.
for name in [name for name in os.environ if name.startswith("HF_") or name == "HUGGINGFACE_HUB_CACHE"]:
    del os.environ[name]
os.environ["HF_HOME"] = "/nonexistent/huggingface"


@pytest.fixture
def home() -> Iterator[Home]:
    """A place of its own for real processes; whatever they leave behind is ended with the test."""
    with Home() as home:
        yield home
