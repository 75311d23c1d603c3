"""What a host gives of its models, and the sums of their pieces."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from rbees.host.checksums import Checksums
from rbees.host.fetch_place import Place, check_space, place_of
from rbees.host.hub_cache import HubCache
from rbees.host.lending import Lending
from rbees.host.model_candidates import Places
from rbees.host.model_files import ModelFolders
from rbees.host.model_store import ModelStore
from rbees.host.piece_sums import PieceSums, is_complete
from rbees.protocol.downloads import CopyBegun, FetchOrder, FilePieces, HubFile, ModelOffer, OfferedFile, PiecesHeld
from rbees.protocol.errors import ErrorCode, RbeesError
from tests.support.scripted_models import write_script
from tests.support.tiny_gguf import write_tiny_gguf

PIECE = 1 << 20


def sums_of(content: bytes) -> tuple[str, ...]:
    return tuple(hashlib.sha256(content[at : at + PIECE]).hexdigest() for at in range(0, len(content), PIECE))


def lending_of(folder: Path) -> tuple[Lending, ModelStore]:
    store = ModelStore(Places({}, ModelFolders((folder / "models",))), Checksums(folder / "sums.json"))
    return Lending(store, PieceSums(folder / "pieces")), store


def test_pieces_are_summed_once_and_kept_by_the_sum_of_the_whole(tmp_path: Path) -> None:
    content = os.urandom(2 * PIECE + 5)
    path = tmp_path / "x"
    path.write_bytes(content)
    sums, sha256 = PieceSums(tmp_path / "pieces"), hashlib.sha256(content).hexdigest()
    assert sums.known(sha256) is None
    found = sums.compute(path, sha256)
    assert found == FilePieces(sha256=sha256, size_bytes=len(content), piece_bytes=PIECE, pieces=sums_of(content))
    sums.remember(found, {sha256})
    assert PieceSums(tmp_path / "pieces").known(sha256) == found
    sums.remember(FilePieces(sha256="0" * 64, size_bytes=0, piece_bytes=PIECE, pieces=()), {"0" * 64})
    assert sums.known(sha256) is None, "its file is gone"
    (tmp_path / "pieces" / ("0" * 64)).write_bytes(b"{")
    assert sums.known("0" * 64) is None
    assert sums.compute(tmp_path / "gone", sha256) is None
    sums.close()
    assert sums.compute(path, sha256) is None


def test_what_cannot_be_the_sums_of_a_file_is_seen() -> None:
    good = FilePieces(sha256="a", size_bytes=PIECE + 1, piece_bytes=PIECE, pieces=("x", "y"))
    assert is_complete(good)
    for size, piece, pieces in ((PIECE, PIECE, ("x", "y")), (PIECE + 1, 1, ("x", "y")), (-1, PIECE, ()), (PIECE + 1, 0, ())):
        assert not is_complete(FilePieces(sha256="a", size_bytes=size, piece_bytes=piece, pieces=pieces))


def test_a_file_is_given_by_its_sum_while_it_is_what_was_summed(tmp_path: Path) -> None:
    lending, store = lending_of(tmp_path)
    (tmp_path / "models").mkdir()
    path = Path(write_script(tmp_path / "models", "bees"))
    store.refresh()
    offer = lending.offer("bees")
    assert offer == lending.offer(offer.sha256) == lending.offer(f"file:{path}")
    assert (offer.aliases, offer.files[0].path) == (("bees",), path.name)
    with lending.open(offer.sha256, None).file as file:
        assert file.read() == path.read_bytes()
    assert lending.known_pieces(offer.sha256) is None
    assert lending.pieces(offer.sha256).pieces == sums_of(path.read_bytes())
    assert lending.known_pieces(offer.sha256) == lending.pieces(offer.sha256)
    path.write_bytes(path.read_bytes() + b" ")
    for ask in (lending.path, lending.pieces, lending.known_pieces, lambda sha256: lending.open(sha256, None)):
        with pytest.raises(RbeesError) as caught:
            ask(offer.sha256)
        assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


def test_of_a_file_that_is_being_fetched_only_right_pieces_are_given(tmp_path: Path) -> None:
    lending, _ = lending_of(tmp_path)
    content = os.urandom(3 * PIECE)
    sha256 = hashlib.sha256(content).hexdigest()
    draft, path = tmp_path / "draft", tmp_path / "whole"
    draft.write_bytes(content)
    pieces = FilePieces(sha256=sha256, size_bytes=len(content), piece_bytes=PIECE, pieces=sums_of(content))
    file = OfferedFile(path="x-Q4_K_M.gguf", size_bytes=len(content), sha256=sha256)
    ref = f"hf:org/repo@{'a' * 40}::file=x-Q4_K_M.gguf"
    offer = ModelOffer(model_ref=ref, sha256=sha256, aliases=("mine",), branches=("main",), files=(file,))
    with lending.copying(offer) as copy:
        assert lending.copied(sha256) is None
        copy.note(PiecesHeld(sha256=sha256, numbers=(0,)))
        copy.note(CopyBegun(draft=str(draft), path=str(path), pieces=pieces))
        copy.note(PiecesHeld(sha256=sha256, numbers=(2, 0)))
        held = lending.copied(sha256)
        assert held is not None
        assert held.pieces.held == (0, 2)
        with (lent := lending.open(sha256, held)).file:
            assert [lent.has(0, PIECE), lent.has(PIECE - 1, 2), lent.has(2 * PIECE, PIECE), lent.has(2 * PIECE, 5)] == [
                *(True, False, True, True)
            ]
        draft.rename(path)
        with lending.open(sha256, held).file as whole:
            assert whole.read() == content
        names = [ref, "mine", sha256, "hf:org/repo", "hf:org/repo@main::file=x-Q4_K_M.gguf"]
        assert [lending.copy_offer(name, None) for name in names] == [offer] * 5
        assert lending.copy_offer("mine", "Q4_K_M") == offer
        assert lending.copy_offer("mine", "Q8_0") is None
        assert lending.copy_offer("other", None) is None
    assert lending.copied(sha256) is None


def test_of_two_models_in_one_quantisation_none_is_given_before_it_is_named(tmp_path: Path) -> None:
    cache = HubCache(tmp_path / "hub")
    snapshot = cache.snapshot("org/two", "a" * 40)
    snapshot.mkdir(parents=True)
    for seed, name in enumerate(("m-Q4_K_M", "m-Q8_0", "other-Q8_0")):
        write_tiny_gguf(snapshot / f"{name}.gguf", seed=seed, layers=1, width=32, heads=2, heads_kv=1)
    store = ModelStore(Places({}, ModelFolders(()), cache), Checksums(tmp_path / "sums.json"))
    store.refresh()
    lending = Lending(store, PieceSums(tmp_path / "pieces"))
    commit = "a" * 40
    with pytest.raises(RbeesError) as caught:
        lending.offer(f"hf:org/two@{commit}", "Q8_0")
    assert (caught.value.code, caught.value.details["files"]) == (ErrorCode.INVALID_REQUEST, ["m-Q8_0.gguf", "other-Q8_0.gguf"])
    assert lending.offer(f"hf:org/two@{commit}", "Q4_K_M").files[0].path == "m-Q4_K_M.gguf"
    assert lending.offer(f"hf:org/two@{commit}::file=other", "Q8_0").files[0].path == "other-Q8_0.gguf"


def place(folder: Path) -> Place:
    (folder / "models--a--b" / "blobs").mkdir(parents=True)
    file = HubFile(path="x.gguf", size_bytes=4 * PIECE, sha256="a" * 64)
    return place_of(FetchOrder(repository="a/b", commit="c" * 40, files=(file,)), file, HubCache(folder))


def test_the_hub_goes_on_from_what_pools_gave_up_to_the_first_hole(tmp_path: Path) -> None:
    where = place(tmp_path)
    where.join_draft()
    with where.draft.open("wb") as file:
        os.pwrite(file.fileno(), b"x" * PIECE, 0)
        os.pwrite(file.fileno(), b"x" * PIECE, 3 * PIECE)
    assert where.kept_bytes() == where.partial_bytes() == 2 * PIECE
    where.join_draft()
    assert where.partial.read_bytes() == b"x" * PIECE
    assert not where.draft.exists()
    where.draft.write_bytes(b"x" * 10)
    where.join_draft()
    assert where.partial.stat().st_size == PIECE
    assert not where.draft.exists()


def test_the_disk_is_asked_before(tmp_path: Path) -> None:
    check_space(tmp_path, 0)
    check_space(tmp_path, 1)
    with pytest.raises(RbeesError) as caught:
        check_space(tmp_path, 1 << 60)
    assert caught.value.code is ErrorCode.STORAGE_FULL
