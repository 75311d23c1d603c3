"""Fixtures that every tier may use. A tier's own fixtures lie beside its tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, settings
from xdist.scheduler import LoadScopeScheduling

from rbees.workerd.command import limit_spinning
from tests.support.home import Home

# A shell that puts the tests into the background has them ignore Ctrl-C, and so would every program that they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Some tests run llama.cpp in their own process, without the command of a worker, which sees to this before the library is loaded.
limit_spinning(os.environ)

# Tests of properties draw the same inputs each time, so that a run judges the change and nothing else; `make properties` draws
# others. To explain a failure hypothesis traces every line, which takes longer than a test may.
settings.register_profile("suite", derandomize=True, phases=set(Phase) - {Phase.explain})
settings.register_profile("search", settings.get_profile("suite"), derandomize=False)
settings.load_profile("suite")


class AcceptanceTogether(LoadScopeScheduling):  # type: ignore[misc]
    """Of several processes one runs all of `acceptance`, whose programs take the ports that users get; files of other tiers go to
    whichever process is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "acceptance" if file.startswith("tests/acceptance/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> AcceptanceTogether:
    """Which process gets which tests; asked only where there are several."""
    return AcceptanceTogether(config, log)


@pytest.fixture
def home() -> Iterator[Home]:
    """A place of its own for real processes; whatever they leave behind is ended with the test."""
    with Home() as home:
        yield home
