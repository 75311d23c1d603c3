"""One cluster for all tests with the clients that people already use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.door import Door
from tests.support.home import Home
from tests.support.hub import Hub


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    """Where the cluster's pool fetches models from."""
    with Hub() as made:
        yield made


@pytest.fixture(scope="session")
def door(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """The cluster, whose database must be whole in the end."""
    with Home({"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path_factory.mktemp("hub"))}) as home:
        yield Door(home)
        checked = home.run("orcd", "db", "check")
        assert checked.returncode == 0, checked.said
