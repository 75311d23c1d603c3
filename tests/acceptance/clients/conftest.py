"""One cluster for all tests with the clients that people already use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.door import Door
from tests.support.home import Home


@pytest.fixture(scope="session")
def door() -> Iterator[Door]:
    """The cluster, whose database must be whole in the end."""
    with Home() as home:
        yield Door(home)
        checked = home.run("orcd", "db", "check")
        assert checked.returncode == 0, checked.said
