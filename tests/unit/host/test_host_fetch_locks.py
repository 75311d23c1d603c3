"""The lock file of a download into a folder of its own: gone before the lock is let go, so that it is never another one's."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rbees.host import lan_fetch, model_fetch
from rbees.host.fetch_place import Place, place_of
from rbees.host.hub_cache import HubCache
from rbees.host.partial_file import locked
from rbees.protocol.downloads import CopyOrder, FetchOrder, HubFile

CONTENT = b"bytes"
FILE = HubFile(path="x.gguf", size_bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def order(tmp_path: Path) -> FetchOrder:
    """Of a file that is there already."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / FILE.path).write_bytes(CONTENT)
    return FetchOrder(repository="", commit="", files=(FILE,), local_dir=str(folder))


@pytest.fixture
def let_go() -> list[bool]:
    """Whether the lock file was gone, each time that it was let go."""
    return []


def watch(module: ModuleType, let_go: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def watched(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
        with locked(path, on_wait):
            yield
            let_go.append(not path.exists())

    monkeypatch.setattr(module, "locked", watched)
    monkeypatch.setattr(module, "_report", lambda _: None, raising=False)


def place(order: FetchOrder, tmp_path: Path) -> Place:
    return place_of(order, FILE, HubCache(tmp_path / "cache"))


async def test_from_pools(order: FetchOrder, let_go: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(lan_fetch, let_go, monkeypatch)
    copying = lan_fetch._Copying(CopyOrder(fetch=order, cache_folder=str(tmp_path / "cache"), sources=()))
    await copying._bring(FILE, place(order, tmp_path), [])
    assert let_go == [True]


def test_from_the_hub(order: FetchOrder, let_go: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(model_fetch, let_go, monkeypatch)
    model_fetch._Fetching(order, lambda _: None)._bring(FILE, place(order, tmp_path))
    assert let_go == [True]
