"""The shared cache as others leave it: what is found there, by which names, and what is left after a removal."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from rbees.host.checksums import Checksums, sum_of_parts
from rbees.host.gguf import read_header
from rbees.host.hub_cache import HubCache, cache_folder
from rbees.host.model_candidates import Places
from rbees.host.model_facts import shape_of
from rbees.host.model_files import ModelFolders
from rbees.host.model_removal import remove
from rbees.host.model_store import ModelStore
from rbees.host.models_here import named
from rbees.host.registered_models import RegisteredModels
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import HubRef
from rbees.service.catalog import CatalogEntry
from tests.support.tiny_gguf import split_gguf, write_tiny_gguf

A, B = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", layers=1, width=32, heads=2, heads_kv=1)


def put(cache: Path, repository: str, commit: str, name: str, source: Path, branch: str | None = "main", blob: str = "") -> Path:
    """A file as the hub's client leaves it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    named = folder / "blobs" / (blob or hashlib.sha256(source.read_bytes()).hexdigest())
    named.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, named)
    link = folder / "snapshots" / commit / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(named, link.parent))
    if branch is not None:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / branch).write_text(commit)
    return link


def store_of(tmp_path: Path, *entries: CatalogEntry) -> ModelStore:
    places = Places(
        {entry.name: entry for entry in entries},
        ModelFolders((tmp_path / "models",)),
        HubCache(tmp_path / "hub"),
        RegisteredModels(tmp_path / "registered.json"),
    )
    store = ModelStore(places, Checksums(tmp_path / "checksums.json"))
    store.refresh()
    return store


def test_the_place_is_where_the_library_has_it() -> None:
    home = os.path.expanduser("~")
    for environ, folder in (
        ({}, f"{home}/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HF_HOME": "/h"}, "/h/hub"),
        ({"HF_HOME": "/h", "HF_HUB_CACHE": "~/x"}, f"{home}/x"),
        ({"HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
    ):
        assert cache_folder(environ) == Path(folder)


def test_what_others_fetched_is_served_by_every_name_it_can_have(tmp_path: Path, tiny: Path) -> None:
    put(tmp_path / "hub", "org/m-GGUF", A, "m-Q4_K_M.gguf", tiny)
    put(tmp_path / "hub", "org/m-GGUF", A, "sub/m-Q8_0.gguf", tiny)
    store = store_of(
        tmp_path,
        CatalogEntry("best", None, False, "", HubRef("org/m-GGUF")),
        CatalogEntry("eight", None, False, "", HubRef("org/m-GGUF", None, "sub/m-Q8_0.gguf")),
        CatalogEntry("other", None, False, "", HubRef("org/other")),
    )
    four, eight = f"hf:org/m-GGUF@{A}::file=m-Q4_K_M.gguf", f"hf:org/m-GGUF@{A}::file=sub/m-Q8_0.gguf"
    for name, ref in (
        (four, four),
        ("best", four),
        ("hf:org/m-GGUF", four),
        ("hf:org/m-GGUF@main::file=m-Q4_K_M.gguf", four),
        ("m-Q4_K_M", four),
        ("eight", eight),
        ("hf:org/m-GGUF::file=sub/m-Q8_0.gguf", eight),
    ):
        assert store.resolve(name).facts.ref == ref, name
    with pytest.raises(RbeesError) as caught:
        store.resolve("other")
    assert "models download other" in caught.value.message


def test_a_name_without_a_commit_means_the_newest(tmp_path: Path, tiny: Path) -> None:
    put(tmp_path / "hub", "org/m", A, "m.gguf", tiny)
    put(tmp_path / "hub", "org/m", B, "m.gguf", tiny)
    store = store_of(tmp_path)
    assert store.resolve("hf:org/m").facts.ref == f"hf:org/m@{B}::file=m.gguf"
    assert store.resolve(f"hf:org/m@{A}::file=m.gguf").facts.ref == f"hf:org/m@{A}::file=m.gguf"


def test_bytes_that_are_not_the_hubs_are_refused(tmp_path: Path, tiny: Path) -> None:
    put(tmp_path / "hub", "org/m", A, "m.gguf", tiny, blob="0" * 64)
    store = store_of(tmp_path)
    assert store.models() == ()
    with pytest.raises(RbeesError) as caught:
        store.resolve("hf:org/m")
    assert caught.value.code is ErrorCode.CHECKSUM_MISMATCH


def test_nothing_outside_the_cache_can_be_named(tmp_path: Path, tiny: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--m" / "snapshots" / A
    snapshot.mkdir(parents=True)
    (snapshot / "m.gguf").symlink_to(tiny)
    (tmp_path / "hub" / "datasets--org--d" / "snapshots" / A).mkdir(parents=True)
    (tmp_path / "hub" / "models--bad").mkdir()
    assert store_of(tmp_path).models() == ()


@pytest.mark.parametrize("bare_first", [False, True])
def test_a_model_in_parts_is_one(tmp_path: Path, tiny: Path, bare_first: bool) -> None:
    parts = split_gguf(tiny, tmp_path / "parts", 3, bare_first=bare_first)
    links = [put(tmp_path / "hub", "org/m", A, f"m-Q8_0-{i:05d}-of-00003.gguf", part) for i, part in enumerate(parts, 1)]
    store = store_of(tmp_path)
    (facts,) = store.models()
    assert facts.ref == f"hf:org/m@{A}::file=m-Q8_0-00001-of-00003.gguf"
    assert facts.parameters == shape_of(read_header(tiny)).parameters
    assert facts.size_bytes == sum(part.stat().st_size for part in parts)
    assert facts.sha256 == sum_of_parts([hashlib.sha256(part.read_bytes()).hexdigest() for part in parts])
    assert store.resolve("m-Q8_0").paths == tuple(links)
    links[1].unlink()
    store.refresh()
    assert store.models() == ()
    assert "one of 3 parts" in next(iter(store.refused().values())).message


def test_a_registered_file_may_lie_anywhere(tmp_path: Path, tiny: Path) -> None:
    store = store_of(tmp_path)
    registered = RegisteredModels(tmp_path / "registered.json")
    registered.add("mine", tiny)
    store.refresh()
    assert store.resolve("mine").facts.ref == f"file:{tiny}"
    assert registered.remove(tiny)
    assert not registered.remove(tiny)
    store.refresh()
    assert store.models() == ()


def test_a_name_that_a_user_gave_is_one_more_of_a_file_that_is_found_anyway(tmp_path: Path, tiny: Path) -> None:
    cached = put(tmp_path / "hub", "org/m-GGUF", A, "m-Q4_K_M.gguf", tiny)
    (tmp_path / "models").mkdir()
    own = Path(shutil.copy(tiny, tmp_path / "models" / "own.gguf"))
    registered = RegisteredModels(tmp_path / "registered.json")
    for name, path in (("first", cached), ("second", own), ("third", own), ("own", cached)):
        registered.add(name, path)
    store = store_of(tmp_path)
    assert store.resolve("first").facts.ref == f"hf:org/m-GGUF@{A}::file=m-Q4_K_M.gguf"
    assert store.resolve("second").facts == store.resolve(f"file:{own}").facts
    assert store.resolve("second").facts.aliases == ("second", "third", "own"), "a file's own name goes before one that was given"
    assert len(store.models()) == 2
    cached.unlink()
    own.unlink()
    store.refresh()
    assert (store.models(), store.problems()) == ((), {}), "what went away leaves no name behind"


def test_bytes_with_two_names_stay_until_the_last_is_removed(tmp_path: Path, tiny: Path) -> None:
    put(tmp_path / "hub", "org/m", A, "m.gguf", tiny)
    second = put(tmp_path / "hub", "org/m", B, "m.gguf", tiny)
    store = store_of(tmp_path)
    assert remove(named(f"hf:org/m@{A}::file=m.gguf", store.places), store.places).freed_bytes == 0
    assert second.read_bytes() == tiny.read_bytes()
    assert remove(named("hf:org/m", store.places), store.places).freed_bytes == tiny.stat().st_size
    assert list((tmp_path / "hub").iterdir()) == []
    with pytest.raises(RbeesError) as caught:
        named("hf:org/m", store.places)
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND
