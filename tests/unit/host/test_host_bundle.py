"""Models carried as a folder or a tar: what goes in comes out, and nothing that a stranger writes does harm."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rbees.host.bundle import MANIFEST, Manifest, checked, manifest_of, part_paths, read_manifest
from rbees.host.bundle_read import open_bundle
from rbees.host.bundle_take import Taken, order_of, take
from rbees.host.bundle_write import Export, place_of_export, unwritable_place, write_place, write_tar
from rbees.host.hub_cache import HubCache
from rbees.host.model_candidates import Candidate
from rbees.protocol.errors import ErrorCode, RbeesError
from tests.support.scripted_models import write_script
from tests.support.tiny_gguf import split_gguf, write_tiny_gguf

COMMIT = "a" * 40
REPO = "org/tiny-GGUF"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny-Q4_K_M.gguf", layers=1, width=32, heads=2, heads_kv=1)


@pytest.fixture(scope="module")
def parts(tiny: Path) -> list[Path]:
    made = split_gguf(tiny, tiny.parent / "parts", 3)
    return [part.rename(part.with_name(f"big-{number:05d}-of-00003.gguf")) for number, part in enumerate(made, 1)]


def hub_model(paths: Sequence[Path]) -> Candidate:
    """The files as a model of a repository, in a folder of it."""
    reference = f"hf:{REPO}@{COMMIT}::file=sub/{paths[0].name}"
    aliases = ("mine", f"hf:{REPO}", f"hf:{REPO}@main", f"hf:{REPO}@main::file=sub/{paths[0].name}")
    return Candidate(tuple(paths), reference, aliases, "cache")


def manifest_for(model: Candidate) -> Manifest:
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in model.paths]
    return manifest_of(model, [path.stat().st_size for path in model.paths], sums)


def exported(model: Candidate, target: Path, tell: Callable[[int, bool], None] = lambda _done, _waiting: None) -> Path:
    write_place(Export(manifest_for(model), model.paths, tell), target)
    return target


def imported(source: Path | str | bytes, home: Path, folder: Path | None = None) -> Taken:
    piped = source if isinstance(source, bytes) else b""
    with open_bundle("-" if piped else str(source), Unseekable(piped)) as bundle:
        order = order_of(bundle.manifest, folder, home / "models")
        return take(bundle, order, HubCache(home / "hub"), lambda _done, _waiting: None, {})


class Unseekable(io.BytesIO):
    """As a pipe."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise AssertionError("a pipe cannot go back")


def refused(code: ErrorCode, call: Callable[..., object], *given: object) -> str:
    with pytest.raises(RbeesError) as caught:
        call(*given)
    assert caught.value.code is code, caught.value
    return caught.value.message


def contents(taken: Taken) -> list[bytes]:
    return [path.read_bytes() for path in taken.paths]


@pytest.mark.parametrize("form", ["folder", "tar", "pipe"])
def test_a_model_in_parts_comes_out_as_it_went_in(parts: list[Path], tmp_path: Path, form: str) -> None:
    model = hub_model(parts)
    source: Path | bytes = exported(model, tmp_path / ("x.tar" if form != "folder" else "x"))
    if form == "pipe":
        assert isinstance(source, Path)
        source = source.read_bytes()
    taken = imported(source, tmp_path)
    assert contents(taken) == [part.read_bytes() for part in parts]
    snapshot = tmp_path / "hub" / "models--org--tiny-GGUF" / "snapshots" / COMMIT
    assert taken.paths[0] == snapshot / "sub" / "big-00001-of-00003.gguf"
    assert (snapshot.parents[1] / "refs" / "main").read_text() == COMMIT
    assert sorted(path.name for path in (snapshot.parents[1] / "blobs").iterdir()) == sorted(taken.sha256)
    assert imported(source, tmp_path).taken_bytes == 0, "it is here already"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"hub", "x" if form == "folder" else "x.tar"})


def test_other_programs_can_read_the_tar(parts: list[Path], tmp_path: Path) -> None:
    first, second = (exported(hub_model(parts), tmp_path / name) for name in ("a.tar", "b.tar"))
    assert first.read_bytes() == second.read_bytes(), "the same model gives the same bytes"
    with tarfile.open(first) as tar:
        assert tar.getnames() == [MANIFEST, *(part.name for part in parts)]
        assert all(member.isreg() and member.uid == member.mtime == 0 for member in tar)


def test_a_file_of_no_repository_gets_a_folder_of_its_own(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "My Model.gguf"
    path.write_bytes(tiny.read_bytes())
    model = Candidate((path,), f"file:{path}", ("own",), "registered")
    manifest = manifest_for(model)
    assert (manifest.hub, manifest.name, manifest.aliases) == (None, "own", ("own",))
    taken = imported(exported(model, tmp_path / "x"), tmp_path)
    assert taken.paths == (tmp_path / "models" / taken.sha256[0][:16] / "My Model.gguf",)
    assert [path.name for path in taken.paths[0].parent.iterdir()] == ["My Model.gguf"]
    assert str(tmp_path) not in (tmp_path / "x" / MANIFEST).read_text(), "where it lay is nobody's business"


def test_a_scripted_model_is_carried_too(tmp_path: Path) -> None:
    path = write_script(tmp_path / "from", "bees")
    taken = imported(exported(Candidate((path,), f"file:{path}", ("bees",), "folder"), tmp_path / "x.tar"), tmp_path)
    assert taken.paths[0].read_bytes() == path.read_bytes()


def test_what_ships_with_rbees_is_not_carried(tiny: Path) -> None:
    message = refused(ErrorCode.INVALID_REQUEST, manifest_for, Candidate((tiny,), "poet", (), "package"))
    assert "every host has it already" in message


def test_a_long_name_gets_a_short_one_in_the_bundle(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{'ö' * 60}.gguf"
    path.write_bytes(tiny.read_bytes())
    source = exported(Candidate((path,), f"file:{path}", (), "folder"), tmp_path / "x.tar")
    with tarfile.open(source) as tar:
        assert tar.getnames() == [MANIFEST, "file-00001.gguf"]
    assert imported(source, tmp_path).paths[0].name == path.name


# ---- where it goes -----------------------------------------------------------------------------------------------------------


def test_an_export_never_replaces_anything(tiny: Path, tmp_path: Path) -> None:
    manifest = manifest_for(hub_model([tiny]))
    assert place_of_export(str(tmp_path), manifest) == tmp_path / "mine"
    assert place_of_export(str(tmp_path / "x.tar"), manifest) == tmp_path / "x.tar"
    (tmp_path / "mine").symlink_to("nowhere")
    (tmp_path / "x.tar").write_text("something")
    for place in (tmp_path, tmp_path / "x.tar"):
        assert "already" in refused(ErrorCode.INVALID_REQUEST, place_of_export, str(place), manifest)


def test_an_export_does_not_follow_a_link_that_waits_for_it(tiny: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("stays")
    (tmp_path / ".x.tar.incomplete").symlink_to(precious)
    (tmp_path / ".x.incomplete").symlink_to(tmp_path / "elsewhere")
    for name in ("x.tar", "x"):
        refused(ErrorCode.CONFIGURATION, exported, hub_model([tiny]), tmp_path / name)
    assert precious.read_text() == "stays"


def test_an_interrupted_export_goes_on_or_begins_again(parts: list[Path], tmp_path: Path) -> None:
    draft = tmp_path / ".x.incomplete"
    draft.mkdir()
    (draft / parts[0].name).write_bytes(parts[0].read_bytes())
    (draft / parts[1].name).write_bytes(parts[1].read_bytes()[:1000])
    (draft / parts[2].name).write_bytes(b"other bytes")
    (draft / "litter").write_text("x")
    told: list[int] = []
    target = exported(hub_model(parts), tmp_path / "x", lambda done, _waiting: told.append(done))
    assert {path.name: path.read_bytes() for path in target.iterdir() if path.name != MANIFEST} == {
        part.name: part.read_bytes() for part in parts
    }
    assert told[-1] == sum(part.stat().st_size for part in parts)
    (tmp_path / ".x.tar.incomplete").write_bytes(b"half of something")
    exported(hub_model(parts), tmp_path / "x.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.tar"]


def test_a_model_that_changed_is_not_exported(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny.read_bytes())
    model = Candidate((path,), f"file:{path}", (), "folder")
    manifest = manifest_for(model)
    path.write_bytes(bytes([tiny.read_bytes()[0] ^ 1]) + tiny.read_bytes()[1:])
    export = Export(manifest, (path,), lambda _done, _waiting: None)
    for name in ("x", "x.tar"):
        refused(ErrorCode.CHECKSUM_MISMATCH, write_place, export, tmp_path / name)
        assert not (tmp_path / name).exists()
    sink = io.BytesIO()
    refused(ErrorCode.CHECKSUM_MISMATCH, write_tar, export, sink)
    refused(ErrorCode.CHECKSUM_MISMATCH, imported, sink.getvalue(), tmp_path)


def test_places_that_cannot_be_written(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "none" / "x.tar", tmp_path / "file" / "x"):
        assert "cannot be written" in refused(ErrorCode.CONFIGURATION, exported, hub_model([tiny]), target)
    for number, advice in ((errno.ENOENT, "make its folder"), (errno.EROFS, "mount the disk"), (errno.EACCES, "see who may")):
        assert advice in unwritable_place(tmp_path / "x", OSError(number, "")).message


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tiny: Path, tmp_path: Path) -> None:
    document = manifest_document(hub_model([tiny]))
    document["files"][0]["size_bytes"] = 1 << 59
    export = Export(read_manifest(json.dumps(document).encode()), (tiny,), lambda _done, _waiting: None)
    said = refused(ErrorCode.STORAGE_FULL, write_place, export, tmp_path / "x")
    assert f"{1 << 39} MiB are to be written, 16 MiB are to stay free" in said
    source = tar_of(tmp_path / "x.tar", document, {tiny.name: (b"", 1 << 59)})
    said = refused(ErrorCode.STORAGE_FULL, imported, source, tmp_path)
    assert f"{1 << 39} MiB are still to be fetched, 64 MiB are to stay free" in said
    assert not list((tmp_path / "hub").rglob("*.incomplete"))


# ---- what is here already ----------------------------------------------------------------------------------------------------


def test_an_import_goes_on_with_what_is_left_of_an_earlier_one(tiny: Path, tmp_path: Path) -> None:
    source = exported(hub_model([tiny]), tmp_path / "x.tar")
    content = tiny.read_bytes()
    for kept, taken_bytes in ((content[:1000], len(content) - 1000), (b"other bytes", len(content))):
        home = tmp_path / str(taken_bytes)
        partial = home / "hub" / "models--org--tiny-GGUF" / "blobs" / f"{hashlib.sha256(content).hexdigest()}.incomplete"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(kept)
        taken = imported(source, home)
        assert (contents(taken), taken.taken_bytes, partial.exists()) == ([content], taken_bytes, False)
        # What comes down a pipe comes whole.
        taken.paths[0].unlink()
        taken.paths[0].resolve().unlink(missing_ok=True)
        os.unlink(partial.with_suffix(""))
        partial.write_bytes(kept)
        assert imported(source.read_bytes(), home).taken_bytes == len(content)


@pytest.mark.parametrize("begun_again", ["with other bytes", "with the same"])
def test_what_was_begun_again_before_it_got_its_name_is_summed_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun_again: str
) -> None:
    """Between its sum and its name somebody else may have the lock, and be killed with all the bytes written and none compared."""
    source = exported(hub_model([tiny]), tmp_path / "x.tar")
    content = tiny.read_bytes()
    written = content if begun_again == "with the same" else content[:-1] + bytes([content[-1] ^ 1])
    blobs = tmp_path / "hub" / "models--org--tiny-GGUF" / "blobs"

    def bring() -> Taken:
        with open_bundle(str(source), Unseekable()) as bundle:
            monkeypatch.setattr(bundle, "finish", lambda: next(blobs.iterdir()).write_bytes(written))
            order = order_of(bundle.manifest, None, tmp_path / "models")
            return take(bundle, order, HubCache(tmp_path / "hub"), lambda _done, _waiting: None, {})

    if written == content:
        assert contents(bring()) == [content]
    else:
        assert "import the bundle once more" in refused(ErrorCode.CHECKSUM_MISMATCH, bring)
        assert [path.suffix for path in blobs.iterdir()] == [".incomplete"]
        assert not list((tmp_path / "hub").rglob("*.gguf"))


def test_another_file_under_the_name_stays(tiny: Path, tmp_path: Path) -> None:
    source = exported(hub_model([tiny]), tmp_path / "x")
    there = tmp_path / "there" / "sub" / tiny.name
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    message = refused(ErrorCode.INVALID_REQUEST, imported, source, tmp_path, tmp_path / "there")
    assert "stays" in message
    assert there.read_text() == "mine"
    cached = imported(source, tmp_path).paths[0]
    cached.resolve().write_bytes(b"broken")
    assert "rbees-pool models delete" in refused(ErrorCode.INVALID_REQUEST, imported, source, tmp_path)


def test_a_branch_that_is_known_here_stays_where_it_is(tiny: Path, tmp_path: Path) -> None:
    ref = tmp_path / "hub" / "models--org--tiny-GGUF" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("b" * 40)
    imported(exported(hub_model([tiny]), tmp_path / "x"), tmp_path)
    assert ref.read_text() == "b" * 40


def test_a_broken_blob_without_a_name_is_replaced(tiny: Path, tmp_path: Path) -> None:
    source = exported(hub_model([tiny]), tmp_path / "x.tar")
    blob = tmp_path / "hub" / "models--org--tiny-GGUF" / "blobs" / hashlib.sha256(tiny.read_bytes()).hexdigest()
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"broken")
    assert contents(imported(source, tmp_path)) == [tiny.read_bytes()]


# ---- what a stranger writes --------------------------------------------------------------------------------------------------


def manifest_document(model: Candidate) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(_plain(manifest_for(model))))
    return document


def _plain(manifest: Manifest) -> Any:
    from rbees.protocol import codec

    return json.loads(codec.encode(manifest))


def tar_of(path: Path, document: object, files: Mapping[str, tuple[bytes, int]]) -> Path:
    """A tar with this manifest and these files, each with the size that its header claims."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    with path.open("wb") as sink:
        for name, (content, claimed) in {MANIFEST: (text, len(text)), **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size = claimed
            sink.write(entry.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))
        sink.write(bytes(1024))
    return path


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "no format": lambda it: it.pop("format"),
    "another format": lambda it: it.update(format="rbees-model-9"),
    "no files": lambda it: it.update(files=[]),
    "a file of the host": lambda it: it.update(hub="file:/etc/passwd"),
    "no commit": lambda it: it.update(hub=f"hf:{REPO}@main::file={it['files'][0]['path']}"),
    "another file than the reference": lambda it: it["files"][0].update(path="sub/other.gguf"),
    "a path upwards": lambda it: it["files"][0].update(path="../x.gguf"),
    "an absolute path": lambda it: it["files"][0].update(path="/x.gguf"),
    "a member upwards": lambda it: it["files"][0].update(member="../x.gguf"),
    "a member in a folder": lambda it: it["files"][0].update(member="a/x.gguf"),
    "a hidden member": lambda it: it["files"][0].update(member=".bashrc"),
    "a member that is an option": lambda it: it["files"][0].update(member="-rf.gguf"),
    "the manifest as a member": lambda it: it["files"][0].update(member=MANIFEST),
    "a member with a zero byte": lambda it: it["files"][0].update(member="a\0b"),
    "a member that is too long": lambda it: it["files"][0].update(member="a" * 101),
    "a negative size": lambda it: it["files"][0].update(size_bytes=-1),
    "a sum that is none": lambda it: it["files"][0].update(sha256="../../x"),
    "another sum than its files": lambda it: it.update(sha256="0" * 64),
    "a file twice": lambda it: it["files"].append(it["files"][0]),
    "a branch upwards": lambda it: it.update(branches=["../../x"]),
    "a name that is a path": lambda it: it.update(aliases=["a/b"]),
    "a name that is a reference": lambda it: it.update(aliases=["hf:a/b"]),
    "a name that is too long": lambda it: it.update(aliases=["a" * 97]),
    "a lone surrogate": lambda it: it.update(aliases=["\ud800"]),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_manifest_that_no_export_writes_is_refused(tiny: Path, tmp_path: Path, forgery: str) -> None:
    document = manifest_document(hub_model([tiny]))
    FORGED[forgery](document)
    source = tar_of(tmp_path / "x.tar", document, {tiny.name: (tiny.read_bytes(), tiny.stat().st_size)})
    message = refused(ErrorCode.INVALID_REQUEST, imported, source, tmp_path / "home")
    assert MANIFEST in message
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["../x.gguf", "a/x.gguf", "/x.gguf", ".x.gguf", "-x.gguf", "x.bin", "x\0.gguf", "x\\.gguf"])
def test_a_file_of_no_repository_has_a_single_plain_name(tiny: Path, name: str) -> None:
    model = Candidate((tiny,), f"file:{tiny}", (), "folder")
    document = manifest_document(model)
    document["files"][0]["path"] = name
    refused(ErrorCode.INVALID_REQUEST, read_manifest, json.dumps(document).encode())


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b"\xff", b"[" * 5000, b'{"format": 1}'])
def test_a_manifest_that_is_no_document(tmp_path: Path, document: bytes) -> None:
    refused(ErrorCode.INVALID_REQUEST, imported, tar_of(tmp_path / "x.tar", document, {}), tmp_path)


def test_parts_are_named_as_parts_of_one_model(parts: list[Path]) -> None:
    document = manifest_document(hub_model(parts))
    document["files"][1]["path"] = "sub/big-00003-of-00003.gguf"
    refused(ErrorCode.INVALID_REQUEST, read_manifest, json.dumps(document).encode())
    assert part_paths("a.gguf", 2) == []
    assert part_paths("a-00001-of-00002.gguf", 3) == []
    assert part_paths("a-00002-of-00002.gguf", 2) == []
    assert checked(manifest_for(hub_model(parts))).total_bytes == sum(part.stat().st_size for part in parts)


def entry(name: str, kind: bytes, link: str = "", content: bytes = b"") -> bytes:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, len(content)
    return made.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
    ],
)
def test_nothing_but_plain_files_is_in_a_tar(tiny: Path, tmp_path: Path, kind: bytes) -> None:
    text = json.dumps(manifest_document(hub_model([tiny]))).encode()
    head = entry(MANIFEST, tarfile.REGTYPE, content=text)
    for body in (entry(tiny.name, kind, "/etc/passwd"), entry("../../x", kind, "/etc/passwd")):
        message = refused(ErrorCode.INVALID_REQUEST, imported, head + body + bytes(1024), tmp_path)
        assert "something else" in message
    refused(ErrorCode.INVALID_REQUEST, imported, entry(MANIFEST, kind, "/etc/passwd") + bytes(1024), tmp_path)
    assert not list(tmp_path.rglob("*.gguf"))


def test_a_tar_holds_what_its_manifest_says_and_no_more(tiny: Path, tmp_path: Path) -> None:
    document, content = manifest_document(hub_model([tiny])), tiny.read_bytes()
    plain = {tiny.name: (content, len(content))}
    whole = tar_of(tmp_path / "x.tar", document, plain).read_bytes()
    for source, code in (
        (tar_of(tmp_path / "more.tar", document, {**plain, "../more": (b"x", 1)}).read_bytes(), ErrorCode.INVALID_REQUEST),
        (tar_of(tmp_path / "name.tar", document, {"../x": (content, len(content))}).read_bytes(), ErrorCode.INVALID_REQUEST),
        (tar_of(tmp_path / "size.tar", document, {tiny.name: (content, len(content) + 1)}).read_bytes(), ErrorCode.INVALID_REQUEST),
        (whole + b"behind the end", ErrorCode.INVALID_REQUEST),
        (whole[: len(whole) // 2], ErrorCode.CHECKSUM_MISMATCH),
        (whole[:-1024], ErrorCode.CHECKSUM_MISMATCH),
        (whole[:100], ErrorCode.CHECKSUM_MISMATCH),
        (whole.replace(content[-200:], bytes(200)), ErrorCode.CHECKSUM_MISMATCH),
        (b"PK" + bytes(2000), ErrorCode.INVALID_REQUEST),
        (tar_of(tmp_path / "long.tar", b" " * ((1 << 20) + 1), {}).read_bytes(), ErrorCode.INVALID_REQUEST),
    ):
        refused(code, imported, source, tmp_path / "home")
        refused(code, imported, written(tmp_path / "again.tar", source), tmp_path / "home")
        assert not list((tmp_path / "home").rglob("*.gguf")), "no name was given"
    assert contents(imported(whole + bytes(8192), tmp_path / "home")) == [content], "records are filled up by some programs"


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_folder_with_something_else_in_a_files_place(tiny: Path, tmp_path: Path) -> None:
    source = exported(hub_model([tiny]), tmp_path / "x")
    file = source / tiny.name
    content = file.read_bytes()
    secret = written(tmp_path / "secret", content)
    file.unlink()
    file.symlink_to(secret)
    assert "a link" in refused(ErrorCode.INVALID_REQUEST, imported, source, tmp_path)
    file.unlink()
    os.mkfifo(file)
    assert "something else" in refused(ErrorCode.INVALID_REQUEST, imported, source, tmp_path)
    file.unlink()
    assert "There is no" in refused(ErrorCode.MODEL_NOT_FOUND, imported, source, tmp_path)
    file.write_bytes(content + b"x")
    assert "another size" in refused(ErrorCode.INVALID_REQUEST, imported, source, tmp_path)
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert "thrown away" in refused(ErrorCode.CHECKSUM_MISMATCH, imported, source, tmp_path)
    assert not list((tmp_path / "hub").rglob("*.incomplete"))


def test_bytes_that_are_no_model_do_not_stay(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", b"GGUF" + bytes(100))
    source = exported(Candidate((path,), f"file:{path}", (), "folder"), tmp_path / "x.tar")
    refused(ErrorCode.MODEL_INCOMPATIBLE, imported, source, tmp_path)
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]


def test_what_is_no_bundle_is_told_apart(tiny: Path, tmp_path: Path) -> None:
    exported(hub_model([tiny]), tmp_path / "stick")
    assert "export` makes one" in refused(ErrorCode.INVALID_REQUEST, imported, tiny, tmp_path)
    assert "those inside: stick" in refused(ErrorCode.INVALID_REQUEST, imported, tmp_path, tmp_path / "home")
    assert "There is no" in refused(ErrorCode.MODEL_NOT_FOUND, imported, tmp_path / "none", tmp_path)


def test_what_is_too_short_for_a_bundle_is_none_unless_it_begins_as_one(tiny: Path, tmp_path: Path) -> None:
    script = written(tmp_path / "script.sh", b"#!/bin/sh\n" * 30)
    assert "export` makes one" in refused(ErrorCode.INVALID_REQUEST, imported, script, tmp_path)
    whole = exported(hub_model([tiny]), tmp_path / "x.tar").read_bytes()
    for count in (0, 5, 300, 512, 4000):
        cut = written(tmp_path / "cut.tar", whole[:count])
        assert "ends too early" in refused(ErrorCode.CHECKSUM_MISMATCH, imported, cut, tmp_path / "home"), count
