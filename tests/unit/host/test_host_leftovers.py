"""What interrupted transfers leave: found wherever models lie, removed by its path or with its model, and never while it grows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rbees.host.fetch_place import Place
from rbees.host.hub_cache import HubCache
from rbees.host.leftovers import leftovers
from rbees.host.local_folders import MOST, LocalFolders
from rbees.host.model_candidates import Places
from rbees.host.model_files import ModelFolders
from rbees.host.model_removal import remove, remove_leftover, remove_leftovers
from rbees.host.models_here import named
from rbees.host.partial_file import locked
from rbees.host.registered_models import FILE_NAME, RegisteredModels
from rbees.protocol.errors import ErrorCode, RbeesError
from tests.support.tiny_gguf import split_gguf, write_tiny_gguf

SUM = "0123456789abcdef"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", layers=1, width=32, heads=2, heads_kv=1)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    roots = (tmp_path / "named", tmp_path / "own")
    for root in roots:
        root.mkdir()
    return Places({}, ModelFolders(roots), HubCache(tmp_path / "hub"), RegisteredModels(tmp_path / FILE_NAME), roots[1])


def written(path: Path, content: bytes = b"123") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def sizes(places: Places) -> dict[Path, int]:
    return {one.path: one.size_bytes for one in leftovers(places)}


def refused(code: ErrorCode, call: Callable[..., object], *given: object) -> str:
    with pytest.raises(RbeesError) as caught:
        call(*given)
    assert caught.value.code is code, caught.value
    return caught.value.message


def test_they_are_found_in_the_cache_and_in_every_folder(places: Places, tmp_path: Path) -> None:
    blobs = tmp_path / "hub" / "models--org--m" / "blobs"
    found = {
        written(blobs / f"{'a' * 64}.incomplete"): 3,
        written(blobs / f"{'a' * 64}.1f2e3d4c.incomplete", b"1234"): 4,
        written(tmp_path / "own" / SUM / f".my model.gguf.{SUM}.incomplete", b"1"): 1,
        written(tmp_path / "named" / "deep" / f".x.gguf.{SUM}.pieces.incomplete", b""): 0,
    }
    with (tmp_path / "named" / "deep" / f".x.gguf.{SUM}.pieces.incomplete").open("r+b") as file:
        file.truncate(1 << 30)  # All hole, as the draft of a copy is before its first piece.
    written(tmp_path / "own" / SUM / f".my model.gguf.{SUM}.lock", b"")
    for name in ("notes.incomplete", f".x.gguf.{SUM[:8]}.incomplete", f"x.gguf.{SUM}.incomplete"):
        written(tmp_path / "named" / name)
    assert sizes(places) == found


def test_one_goes_by_its_path_with_the_folder_that_was_made_for_it(places: Places, tmp_path: Path) -> None:
    partial = written(tmp_path / "own" / SUM / f".m.gguf.{SUM}.incomplete")
    written(partial.with_suffix(".lock"), b"")
    blob = written(tmp_path / "hub" / "models--org--m" / "blobs" / f"{'a' * 64}.incomplete")
    written(blob.parents[1] / "refs" / "main")
    precious = written(tmp_path / "precious.incomplete")
    for path in (str(precious), f"{partial.parent}/../{SUM}/{partial.name}", str(partial.with_suffix(".lock")), "m"):
        assert remove_leftover(path, places) is None, "it names no leftover of a model"
    with locked(partial.with_suffix(".lock"), lambda: None):
        assert "being written" in refused(ErrorCode.DEVICE_BUSY, remove_leftover, str(partial), places)
    assert remove_leftover(str(partial), places) == 3
    assert remove_leftover(str(partial), places) is None
    assert list((tmp_path / "own").iterdir()) == []
    assert remove_leftover(str(blob), places) == 3
    assert [path.name for path in (tmp_path / "hub").iterdir()] == [".locks"]
    assert precious.exists()


def test_folders_of_peoples_own_are_searched_once_they_were_noted(places: Places, tmp_path: Path) -> None:
    local = LocalFolders(tmp_path / "local.json")
    left = written(tmp_path / "stick" / f".m.gguf.{SUM}.incomplete")
    known = replace(places, local=local)
    assert sizes(known) == {}
    local.note([left.parent, tmp_path / "to come", tmp_path / "named"])
    assert local.all() == (left.parent, tmp_path / "to come", tmp_path / "named")
    assert sizes(known) == {left: 3}
    local.note([tmp_path / "named"])
    assert local.all() == (tmp_path / "named", left.parent), "what is gone is forgotten"
    (tmp_path / "local.json").write_text("[1]")
    assert local.all() == ()
    local.note(tmp_path / str(number) for number in range(300))
    assert len(local.all()) == MOST


def test_all_go_at_once_but_for_what_is_written(places: Places, tmp_path: Path) -> None:
    blob = written(tmp_path / "hub" / "models--org--m" / "blobs" / f"{'a' * 64}.incomplete")
    own = written(tmp_path / "own" / SUM / f".m.gguf.{SUM}.incomplete", b"12")
    busy = written(tmp_path / "named" / f".x.gguf.{SUM}.incomplete")
    with locked(busy.with_suffix(".lock"), lambda: None):
        assert remove_leftovers(places) == {blob: 3, own: 2, busy: None}
    assert sizes(places) == {busy: 3}
    assert list((tmp_path / "own").iterdir()) == []


def test_a_transfer_that_brought_nothing_leaves_nothing(tmp_path: Path) -> None:
    place = Place(*(tmp_path / name for name in ("m.gguf", "m.gguf", ".m.gguf.incomplete", ".m.gguf.lock")))
    assert place.drop_empty()
    written(place.partial, b"")
    with place.draft.open("wb") as draft:
        draft.truncate(1 << 20)
    assert place.drop_empty()
    assert list(tmp_path.iterdir()) == []
    written(place.partial, b"1")
    assert not place.drop_empty()
    assert place.partial.read_bytes() == b"1"


def test_a_model_takes_its_leftovers_its_folder_and_its_names_with_it(places: Places, tiny: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "own" / SUM / "m.gguf", tiny.read_bytes())
    for end in (f"{SUM}.incomplete", f"{SUM}.pieces.incomplete", f"{SUM}.lock"):
        written(path.with_name(f".m.gguf.{end}"))
    other = Path(shutil.copy(tiny, tmp_path / "named" / "other.gguf"))
    registered = places.registered
    assert registered is not None
    for name, file in (("mine", path), ("second", path), ("third", other)):
        registered.add(name, file)
    assert remove(named("mine", places), places).freed_bytes == tiny.stat().st_size + 6
    assert list((tmp_path / "own").iterdir()) == []
    assert registered.all() == {"third": other}
    remove(named("third", places), places)
    assert (tmp_path / "named").is_dir(), "a folder that the operator named stays, also when it is empty"


def test_what_is_being_written_stays(places: Places, tiny: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "own" / SUM / "m.gguf", tiny.read_bytes())
    partial = written(path.with_name(f".m.gguf.{SUM}.incomplete"))
    of_others = written(path.with_name(f".n.gguf.{SUM}.incomplete"))
    with locked(partial.with_suffix(".lock"), lambda: None):
        assert remove(named(f"file:{path}", places), places).freed_bytes == tiny.stat().st_size
        assert (partial.exists(), of_others.exists()) == (True, True)


def test_a_part_takes_what_is_left_of_the_other_parts(places: Places, tiny: Path, tmp_path: Path) -> None:
    first, *_ = split_gguf(tiny, tmp_path / "parts", 3)
    path = written(tmp_path / "own" / SUM / "big-00001-of-00003.gguf", first.read_bytes())
    written(path.with_name(f".big-00002-of-00003.gguf.{SUM}.incomplete"))
    other = written(path.with_name(f".big-00002-of-00004.gguf.{SUM}.incomplete"))
    remove(named(f"file:{path}", places), places)
    assert list(path.parent.iterdir()) == [other]


def test_a_cached_model_takes_what_is_left_of_its_bytes_and_its_names(places: Places, tiny: Path, tmp_path: Path) -> None:
    blob = written(tmp_path / "hub" / "models--org--m" / "blobs" / ("a" * 64), tiny.read_bytes())
    written(blob.with_name(f"{blob.name}.pieces.incomplete"))
    link = blob.parents[1] / "snapshots" / ("c" * 40) / "m.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    registered = places.registered
    assert registered is not None
    registered.add("mine", link)
    assert remove(named("mine", places), places).freed_bytes == tiny.stat().st_size + 3
    assert [path.name for path in (tmp_path / "hub").iterdir()] == [".locks"]
    assert registered.all() == {}


def test_names_that_many_give_at_once_are_all_kept(tmp_path: Path) -> None:
    def give(number: int) -> None:
        registered = RegisteredModels(tmp_path / FILE_NAME)
        for turn in range(20):
            registered.add(f"name-{number}-{turn}", Path(f"/models/{number}-{turn}.gguf"))
            if turn % 2:
                assert registered.remove(Path(f"/models/{number}-{turn}.gguf"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(give, range(8)))
    kept = {f"name-{number}-{turn}" for number in range(8) for turn in range(0, 20, 2)}
    assert set(RegisteredModels(tmp_path / FILE_NAME).all()) == kept


def test_a_list_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    registered = RegisteredModels(tmp_path / "none" / FILE_NAME)
    assert "cannot be written" in refused(ErrorCode.STORAGE_FULL, registered.add, "x", Path("/x.gguf"))
