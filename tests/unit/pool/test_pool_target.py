"""Which daemon is asked: one that is named, the one that holds the own state folder, or whoever the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rbees.pool.target import find_pool
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.lock import ProcessLock


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("RBEES_HOME", str(folder))
    monkeypatch.setenv("RBEES_POOLD_PORT", "9300")
    (folder / "poold").mkdir(mode=0o700)
    return folder


@pytest.fixture
def lock(home: Path) -> Iterator[ProcessLock]:
    """Held, as by a daemon that has not told its address."""
    with ProcessLock(home / "poold" / "lock") as held:
        yield held


def test_a_daemon_that_holds_the_folder_is_asked_wherever_it_listens(lock: ProcessLock) -> None:
    lock.describe("http://127.0.0.1:9400")
    found = find_pool(None, None)
    assert (found.url, found.is_certain) == ("http://127.0.0.1:9400", True)
    named = find_pool("http://127.0.0.1:9500", None)
    assert (named.url, named.is_certain) == ("http://127.0.0.1:9500", True)


def test_where_nobody_holds_the_folder_the_settings_say_who_may_be_there(lock: ProcessLock) -> None:
    lock.describe("http://127.0.0.1:9400")
    lock.release()
    found = find_pool(None, None)
    assert (found.url, found.is_certain) == ("http://127.0.0.1:9300", False)


@pytest.mark.parametrize(
    ("told", "url"),
    [
        ("https://127.0.0.1:9300", "https://mac.test:9443"),
        ("https://127.0.0.1:9400", "https://mac.test:9400"),
        ("http://127.0.0.1:9400", "http://127.0.0.1:9400"),
    ],
)
def test_a_certificate_is_for_the_name_in_the_settings(
    lock: ProcessLock, monkeypatch: pytest.MonkeyPatch, told: str, url: str
) -> None:
    monkeypatch.setenv("RBEES_POOLD_ENDPOINT", "https://mac.test:9443")
    lock.describe(told)
    assert find_pool(None, None).url == url


@pytest.mark.usefixtures("lock")
def test_a_daemon_that_never_tells_its_address_is_not_taken_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rbees.pool.target.SETTLE_LOOK_S", 0.0)
    with pytest.raises(RbeesError) as caught:
        find_pool(None, None)
    assert caught.value.code is ErrorCode.POOL_UNREACHABLE
    assert "name it by `--poold-url`" in caught.value.message
