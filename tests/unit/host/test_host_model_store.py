"""Which file a reference means, and the answer for every file that cannot be served."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbees.host import checksums as checksums_module
from rbees.host import model_files, model_store
from rbees.host.checksums import Checksums
from rbees.host.model_candidates import Places
from rbees.host.model_files import ModelFolders
from rbees.host.model_store import ModelStore
from rbees.host.models_here import named
from rbees.pool.models import find
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import PoolModels
from rbees.service.catalog import CatalogEntry, load_catalog
from tests.support.scripted_models import write_script
from tests.support.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", layers=1, width=32, heads=2, heads_kv=1)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def store_of(models: Path, *entries: CatalogEntry, roots: tuple[Path, ...] = ()) -> ModelStore:
    places = Places({entry.name: entry for entry in entries}, ModelFolders((models, *roots)))
    made = ModelStore(places, Checksums(models.parent / "checksums.json"))
    made.refresh()
    return made


def refusal(store: ModelStore, ref: str, sha256: str | None = None) -> RbeesError:
    with pytest.raises(RbeesError) as caught:
        store.resolve(ref, sha256)
    return caught.value


def test_it_tells_when_there_are_other_models_than_before(models: Path) -> None:
    store, told = store_of(models), []
    store.on_change = lambda: told.append([facts.aliases for facts in store.models()])
    store.refresh()
    assert told == []
    script = write_script(models, "bees")
    store.resolve("bees")
    store.refresh()
    assert told == [[("bees",)]]
    Path(script).unlink()
    store.refresh()
    assert told == [[("bees",)], []]


def test_files_in_folders_are_found_by_reference_and_by_name(models: Path, tiny: Path) -> None:
    path = models / "org" / "Some-Model.Q4.gguf"
    path.parent.mkdir()
    shutil.copy(tiny, path)
    write_script(models, "bees", context_length=2048)
    store = store_of(models)
    assert [facts.ref for facts in store.models()] == [f"file:{models}/bees.scripted.json", f"file:{path}"]
    found = store.resolve(f"file:{path}")
    assert found.path == path
    assert found.facts.aliases == ("Some-Model.Q4",)
    assert found.facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.facts.size_bytes == path.stat().st_size
    assert store.resolve("Some-Model.Q4") == found
    scripted = store.resolve("bees").facts
    assert (scripted.architecture, scripted.context_length) == ("scripted", 2048)


def test_a_name_of_the_catalogue_says_how_to_fetch_it_also_misspelt(models: Path, tiny: Path) -> None:
    catalog = load_catalog()
    store = store_of(models, catalog["tinyllama"])
    for name, words in (("tinyllama", "rbees-pool models download tinyllama"), ("tinylama", "did you mean tinyllama")):
        assert words in refusal(store, name).message
        with pytest.raises(RbeesError, match=words):
            named(name, store.places)
        with pytest.raises(RbeesError, match=words):
            find(PoolModels(models=()), name)


def test_packaged_models_are_known_by_their_short_name(models: Path, tiny: Path) -> None:
    store = store_of(models, CatalogEntry("poet", tiny, True, ""))
    assert store.resolve("poet").facts.ref == "poet"
    assert refusal(store, f"file:{tiny}").code is ErrorCode.MODEL_NOT_FOUND


def test_a_users_name_stands_for_a_file_below_the_folders(models: Path, tiny: Path, tmp_path: Path) -> None:
    shutil.copy(tiny, models / "long-name.gguf")
    outside = Path(shutil.copy(tiny, tmp_path / "outside.gguf"))
    store = store_of(models, CatalogEntry("mine", models / "long-name.gguf", False, ""), CatalogEntry("far", outside, False, ""))
    assert store.resolve("mine").facts.aliases == ("mine", "long-name")
    assert refusal(store, "far").code is ErrorCode.MODEL_NOT_FOUND
    assert "outside" in refusal(store, "far").message


def test_unknown_names_come_with_close_ones(models: Path, tiny: Path) -> None:
    shutil.copy(tiny, models / "tinyllama.gguf")
    error = refusal(store_of(models), "tinylama")
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert error.details == {"close_names": ["tinyllama"]}
    assert "did you mean tinyllama?" in error.message
    assert "models list" in refusal(store_of(models), "zzz").message


@pytest.mark.parametrize("reference", ["hf:org/repo", "hf:org/repo@main::file=x.gguf"])
def test_hub_references_are_not_here(models: Path, reference: str) -> None:
    assert refusal(store_of(models), reference).code is ErrorCode.MODEL_NOT_FOUND


@pytest.mark.parametrize("reference", ["", "file:../x", "file:/a/../b.gguf", "a b", "-x"])
def test_what_is_no_reference_is_refused(models: Path, reference: str) -> None:
    assert refusal(store_of(models), reference).code is ErrorCode.INVALID_REQUEST


def test_missing_truncated_and_foreign_files(models: Path, tiny: Path) -> None:
    (models / "cut.gguf").write_bytes(tiny.read_bytes()[:5000])
    (models / "zip.gguf").write_bytes(b"PK\x03\x04" + bytes(100))
    (models / "empty.gguf").touch()
    (models / "broken.scripted.json").write_text("{")
    (models / "readme.txt").write_text("hello")
    store = store_of(models)
    assert store.models() == ()
    for name, code, words in (
        ("missing.gguf", ErrorCode.MODEL_NOT_FOUND, "no file missing.gguf"),
        ("cut.gguf", ErrorCode.MODEL_INCOMPATIBLE, "truncated"),
        ("zip.gguf", ErrorCode.MODEL_INCOMPATIBLE, "not GGUF"),
        ("empty.gguf", ErrorCode.MODEL_INCOMPATIBLE, "not GGUF"),
        ("broken.scripted.json", ErrorCode.MODEL_INCOMPATIBLE, "scripted"),
        ("readme.txt", ErrorCode.MODEL_INCOMPATIBLE, ".gguf"),
    ):
        error = refusal(store, f"file:{models}/{name}")
        assert (error.code, words in error.message) == (code, True), error.message
    assert refusal(store, "cut").code is ErrorCode.MODEL_INCOMPATIBLE
    assert {"cut", f"file:{models}/cut.gguf"} <= set(store.problems())
    assert set(store.refused()) == {
        f"file:{models}/{name}" for name in ("broken.scripted.json", "cut.gguf", "empty.gguf", "zip.gguf")
    }


def test_nothing_outside_the_folders_can_be_named(models: Path, tiny: Path, tmp_path: Path) -> None:
    secret = Path(shutil.copy(tiny, tmp_path / "secret.gguf"))
    (models / "link.gguf").symlink_to(secret)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(tiny, folder / "x.gguf")
    (models / "door").symlink_to(folder)
    store = store_of(models)
    assert store.models() == ()
    for path in (secret, models / "link.gguf", models / "door" / "x.gguf", Path("/etc/passwd")):
        assert refusal(store, f"file:{path}").code is ErrorCode.MODEL_NOT_FOUND, path
    assert "outside" in refusal(store, "link").message


def test_links_inside_the_folders_are_followed(models: Path, tiny: Path) -> None:
    blobs = models / "blobs"
    blobs.mkdir()
    shutil.copy(tiny, blobs / "abc")
    (models / "model.gguf").symlink_to(blobs / "abc")
    assert store_of(models).resolve("model").facts.size_bytes == tiny.stat().st_size


def test_a_folder_that_is_a_link_answers_to_both_spellings(models: Path, tiny: Path, tmp_path: Path) -> None:
    shutil.copy(tiny, models / "x.gguf")
    (tmp_path / "alias").symlink_to(models)
    store = store_of(tmp_path / "alias")
    assert store.resolve(f"file:{tmp_path}/alias/x.gguf") == store.resolve(f"file:{models}/x.gguf")


def test_the_sum_decides_which_file_is_meant(models: Path, tiny: Path) -> None:
    shutil.copy(tiny, models / "a.gguf")
    write_tiny_gguf(models / "b.gguf", seed=1, layers=1, width=32, heads=2, heads_kv=1)
    store = store_of(models)
    sum_b = store.resolve("b").facts.sha256
    assert store.resolve("a", sum_b).path == models / "b.gguf"
    assert store.resolve("whatever", sum_b).path == models / "b.gguf"
    error = refusal(store, "a", "f" * 64)
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert "sha256 differs" in error.message


def test_a_replaced_file_is_looked_at_again(models: Path, tiny: Path) -> None:
    path = Path(shutil.copy(tiny, models / "x.gguf"))
    store = store_of(models)
    before = store.resolve("x").facts.sha256
    write_tiny_gguf(path, seed=5, layers=1, width=32, heads=2, heads_kv=1)
    os.utime(path, ns=(1, 1))
    after = store.resolve("x").facts.sha256
    assert after == hashlib.sha256(path.read_bytes()).hexdigest() != before
    path.unlink()
    assert refusal(store, "x").code is ErrorCode.MODEL_NOT_FOUND
    store.refresh()
    assert store.models() == ()


def test_files_that_appear_are_found_when_asked_for(models: Path, tiny: Path) -> None:
    store = store_of(models)
    shutil.copy(tiny, models / "late.gguf")
    assert store.resolve("late").path == models / "late.gguf"


def test_large_files_wait_for_their_sum(models: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_store, "HASH_AT_ONCE_BYTES", 10)
    shutil.copy(tiny, models / "large.gguf")
    store = store_of(models)
    assert store.models() == ()
    error = refusal(store, "large")
    assert (error.code, error.details["retry_after_s"]) == (ErrorCode.MODEL_LOADING, 5)
    assert store.sum_next()
    assert not store.sum_next()
    assert store.resolve("large").facts.sha256 == hashlib.sha256(tiny.read_bytes()).hexdigest()


def test_sums_are_computed_once_and_kept(models: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(tiny, models / "x.gguf")
    first = store_of(models).models()

    def never(self: Checksums, path: Path) -> str | None:
        raise AssertionError("the sum was known")

    monkeypatch.setattr(Checksums, "compute", never)
    assert store_of(models).models() == first


@pytest.mark.parametrize("damage", [b"", b"{", b'{"x": 3}', b"\xff\xfe"])
def test_a_damaged_cache_costs_nothing_but_time(models: Path, tiny: Path, damage: bytes) -> None:
    shutil.copy(tiny, models / "x.gguf")
    (models.parent / "checksums.json").write_bytes(damage)
    assert len(store_of(models).models()) == 1


def test_processes_that_share_a_cache_keep_what_each_has_learned(models: Path, tiny: Path) -> None:
    first, second = (Path(shutil.copy(tiny, models / f"{name}.gguf")) for name in ("a", "b"))
    daemon, command = Checksums(models / "sums.json"), Checksums(models / "sums.json")
    daemon.remember(first, "1" * 64)
    command.remember(second, "2" * 64)
    command.save()
    daemon.save()
    assert (daemon.known(first), daemon.known(second)) == ("1" * 64, "2" * 64)
    kept = Checksums(models / "sums.json")
    assert (kept.known(first), kept.known(second)) == ("1" * 64, "2" * 64)


def test_a_sum_that_another_process_has_computed_is_not_computed_again(
    models: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, command = store_of(models), Checksums(models.parent / "checksums.json")
    path = Path(shutil.copy(tiny, models / "late.gguf"))
    command.compute(path)
    command.save()
    monkeypatch.setattr(Checksums, "compute", None)
    daemon.refresh()
    assert [facts.aliases for facts in daemon.models()] == [("late",)]


def test_a_cache_that_another_process_writes_is_left_to_it(models: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums_module, "_PATIENCE_S", 0.0)
    path, cache = Path(shutil.copy(tiny, models / "a.gguf")), models / "sums.json"
    checksums = Checksums(cache)
    checksums.remember(path, "1" * 64)
    with cache.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        checksums.save()
        assert not cache.exists()
        assert checksums.known(path) == "1" * 64
    checksums.remember(path, "2" * 64)
    checksums.save()
    assert Checksums(cache).known(path) == "2" * 64


def test_closing_ends_a_sum(models: Path, tiny: Path) -> None:
    path = Path(shutil.copy(tiny, models / "x.gguf"))
    checksums = Checksums(models / "cache")
    checksums.close()
    assert checksums.compute(path) is None


def test_names_that_no_reference_can_spell_are_left_out(models: Path, tiny: Path) -> None:
    shutil.copy(tiny, models / "back\\slash.gguf")
    shutil.copy(os.fsencode(tiny), os.fsencode(models) + b"/\xff.gguf")
    shutil.copy(tiny, models / ".hidden.gguf")
    (models / "folder.gguf").mkdir()
    shutil.copy(tiny, models / "two words.gguf")
    (facts,) = store_of(models).models()
    assert facts.ref == f"file:{models}/two words.gguf"
    assert facts.aliases == ()


def test_a_file_that_cannot_be_summed_holds_up_no_other(models: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_store, "HASH_AT_ONCE_BYTES", 10)
    for name in ("a", "b", "c"):
        shutil.copy(tiny, models / f"{name}.gguf")
    tried: list[str] = []
    compute = Checksums.compute

    def being_written(self: Checksums, path: Path) -> str | None:
        tried.append(path.stem)
        return None if path.stem == "a" else compute(self, path)

    monkeypatch.setattr(Checksums, "compute", being_written)
    store = store_of(models)
    while store.sum_next():
        pass
    assert [facts.file_name for facts in store.models()] == ["b.gguf", "c.gguf"]
    assert tried == ["a", "b", "c", "a"]


def test_a_search_sums_a_bounded_amount_at_once(models: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_store, "HASH_AT_ONCE_BYTES", 2 * tiny.stat().st_size)
    for name in ("a", "b", "c"):
        shutil.copy(tiny, models / f"{name}.gguf")
    store = store_of(models)
    assert [facts.file_name for facts in store.models()] == ["a.gguf", "b.gguf"]
    store.refresh()
    assert len(store.models()) == 3


def test_a_name_that_the_system_refuses_is_not_found(models: Path, tiny: Path) -> None:
    shutil.copy(tiny, models / "x.gguf")
    for path in (models / f"{'a' * 300}.gguf", models / "x.gguf" / "y.gguf"):
        assert refusal(store_of(models), f"file:{path}").code is ErrorCode.MODEL_NOT_FOUND


@pytest.fixture
def nobody() -> Iterator[None]:
    """Permissions hold for this process, also where root runs the tests."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_permission_given_later_is_noticed(tiny: Path, nobody: None) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        models = Path(place, "models")
        models.mkdir()
        (models / "x.gguf").write_bytes(write_tiny_gguf(Path(place, "tiny.gguf")).read_bytes())
        (models / "x.gguf").chmod(0)
        store = store_of(models)
        assert "Permission denied" in refusal(store, "x").message
        (models / "x.gguf").chmod(0o400)
        assert store.resolve("x").facts.file_name == "x.gguf"


def test_a_folder_that_may_be_listed_but_not_entered_is_passed_over(nobody: None) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        models = Path(place, "models")
        (models / "closed").mkdir(parents=True)
        (models / "closed" / "x.gguf").write_bytes(b"")
        (models / "closed").chmod(0o400)
        try:
            assert store_of(models).models() == ()
        finally:
            (models / "closed").chmod(0o700)


def test_a_search_looks_into_a_bounded_number_of_folders(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "MAX_FOLDERS", 3)
    for number in range(5):
        (models / str(number)).mkdir()
        write_script(models / str(number), f"m{number}")
    # The root itself is one of the three.
    assert [path.parent.name for path in ModelFolders((models,)).files()] == ["0", "1"]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(models: Path, tiny: Path) -> None:
    shutil.copy(tiny, models / "x.gguf")
    # Neither written to nor removed, as on a file system that is read-only.
    (models.parent / f"checksums.{os.getpid()}.new").mkdir()
    assert len(store_of(models).models()) == 1
