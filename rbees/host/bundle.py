"""A model as it is carried between machines that share no network: what a bundle holds and which ones are believed.

A bundle is a folder, or the same as a plain tar: first `manifest.json`, then the model's files in order, and nothing else.

    manifest.json                        which model it is, and size and sha256 of each file
    tinyllama-Q4_K_M.gguf                the bytes

A manifest is what a stranger says. Nothing of it becomes a path before `checked` has passed it: paths of hub models are those
that a reference may hold, others are single names, and parts are named as their first one demands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from rbees.host.checksums import sum_of_parts
from rbees.host.hub_cache import COMMIT
from rbees.host.model_candidates import MAX_PARTS, Candidate
from rbees.host.model_files import SCRIPTED_SUFFIX, SUFFIXES
from rbees.host.variants import PART
from rbees.protocol import codec, model_ref
from rbees.protocol.codec import Message
from rbees.protocol.downloads import HubFile
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import AliasRef, HubRef

MANIFEST: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_MEMBER_BYTES: Final = 100
"""What a tar's own field holds of a name."""

_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]


class BundleFile(Message, frozen=True, kw_only=True):
    """One file of the model."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    """Its path in the repository, or its own name where the model is of none."""
    member: _Name
    """Its name in the bundle."""
    size_bytes: _Size
    sha256: _Sha256


class Manifest(Message, frozen=True, kw_only=True):
    """`manifest.json` of a bundle."""

    format: Literal["rbees-model-1"]
    hub: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    """`hf:org/repo@commit::file=path`; None for a file that no repository is known for."""
    sha256: _Sha256
    """Of the model, as pools report it."""
    aliases: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=64)] = ()
    """Short names that it went by."""
    branches: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=16)] = ()
    """Branches and tags that were at the commit."""
    files: Annotated[tuple[BundleFile, ...], msgspec.Meta(min_length=1, max_length=MAX_PARTS)]

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def reference(self) -> HubRef | None:
        """The repository's file."""
        parsed = model_ref.parse(self.hub) if self.hub is not None else None
        assert parsed is None or isinstance(parsed, HubRef), "a manifest is checked before it is used"
        return parsed

    @property
    def name(self) -> str:
        """A short name for people, and for a folder of the model's own."""
        return (self.aliases[0] if self.aliases else self.files[0].path.rpartition("/")[2]).replace(":", "-")

    @property
    def hub_files(self) -> tuple[HubFile, ...]:
        """The files as a download knows them."""
        return tuple(HubFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256) for file in self.files)


class Exported(Message, frozen=True, kw_only=True, tag_field="type", tag="exported"):
    """The last line of an export for programs."""

    model_ref: str
    sha256: str
    path: str
    size_bytes: int


def manifest_of(model: Candidate, sizes: Sequence[int], sums: Sequence[str]) -> Manifest:
    """The manifest of a model of this host, whose files have these sizes and checksums.

    Raises:
        RbeesError: INVALID_REQUEST: it ships with rbees.
    """
    if model.origin == "package":
        message = f"{model.ref} ships with rbees, so every host has it already; there is nothing to export."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="model")
    reference = model_ref.parse(model.ref)
    hub = reference if isinstance(reference, HubRef) else None
    names = [model_ref.parse(alias) for alias in model.aliases]
    paths = [path.name for path in model.paths]
    if hub is not None and hub.file is not None:
        folder = hub.file.rpartition("/")[0]
        paths = [f"{folder}/{name}" if folder else name for name in paths]
    made = Manifest(
        format="rbees-model-1",
        hub=str(hub) if hub is not None else None,
        sha256=sum_of_parts(sums),
        aliases=tuple(str(name) for name in names if isinstance(name, AliasRef)),
        branches=tuple(name.revision for name in names if isinstance(name, HubRef) and name.revision is not None),
        files=tuple(
            BundleFile(path=path, member=_member(path, number), size_bytes=size, sha256=sha256)
            for number, (path, size, sha256) in enumerate(zip(paths, sizes, sums, strict=True), 1)
        ),
    )
    return checked(made)


def _member(path: str, number: int) -> str:
    name = path.rpartition("/")[2]
    # A tar holds longer names only by ways of its own for each program that makes one.
    fits = len(name.encode()) <= MAX_MEMBER_BYTES and not name.startswith(".") and name != MANIFEST
    return name if fits else f"file-{number:05d}{SCRIPTED_SUFFIX if name.endswith(SCRIPTED_SUFFIX) else '.gguf'}"


def read_manifest(document: bytes) -> Manifest:
    """What a bundle says of itself, once it can be believed to do no harm.

    Raises:
        RbeesError: INVALID_REQUEST, with what is wrong with it.
    """
    try:
        return checked(codec.decode(document, Manifest))
    except RbeesError as error:
        message = error.message if error.details.get("field") == MANIFEST else f"Its {MANIFEST} is not usable: {error.message}"
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field=MANIFEST) from None


def checked(manifest: Manifest) -> Manifest:
    """The same manifest.

    Raises:
        RbeesError: INVALID_REQUEST: it names what no bundle may, or contradicts itself.
    """
    for file in manifest.files:
        _check_member(file.member)
    members = [file.member for file in manifest.files]
    if len(set(members)) < len(members):
        raise _refusal("lists a file twice")
    if sum_of_parts([file.sha256 for file in manifest.files]) != manifest.sha256:
        raise _refusal("states a sha256 that is not that of its files")
    first = manifest.files[0].path
    if manifest.hub is not None:
        _check_hub(manifest.hub, first)
        for branch in manifest.branches:
            _check_reference(f"hf:a/b@{branch}", "branch")
    else:
        _check_file_name(first)
    for alias in manifest.aliases:
        if not isinstance(_check_reference(alias, "short name"), AliasRef):
            raise _refusal("holds a short name that is none")
    expected = part_paths(first, len(manifest.files))
    if [file.path for file in manifest.files] != expected:
        raise _refusal("names files that are not the parts of one model")
    return manifest


def part_paths(first: str, count: int) -> list[str]:
    """The paths of a model in `count` parts whose first one is `first`; empty where `first` is no name of such a part."""
    if count == 1:
        return [first]
    match = PART.search(first)
    if match is None or (int(match["number"]), int(match["count"])) != (1, count):
        return []
    stem, suffix = first[: match.start()], first[match.end("count") :]
    return [f"{stem}-{number:05d}-of-{match['count']}{suffix}" for number in range(1, count + 1)]


def _check_member(name: str) -> None:
    if name != name.strip() or name.startswith((".", "-")) or "/" in name or name == MANIFEST:
        raise _refusal("lists a file that may not be in a bundle")
    _check_reference(f"file:/{name}", "file")
    if len(name.encode()) > MAX_MEMBER_BYTES:
        raise _refusal(f"lists a file whose name is longer than {MAX_MEMBER_BYTES} bytes")


def _check_hub(hub: str, first: str) -> None:
    reference = _check_reference(hub, "reference")
    if not isinstance(reference, HubRef) or reference.revision is None or not COMMIT.fullmatch(reference.revision):
        raise _refusal("names a repository without the commit")
    if reference.file != first or not first.lower().endswith(".gguf"):
        raise _refusal("names another file than its reference")


def _check_file_name(name: str) -> None:
    if "/" in name or name.startswith((".", "-")) or not name.endswith(SUFFIXES):
        raise _refusal("names a file that no model may have")
    _check_reference(f"file:/{name}", "file")


def _check_reference(text: str, what: str) -> model_ref.ModelRef:
    try:
        text.encode()
        return model_ref.parse(text)
    except (RbeesError, UnicodeEncodeError):
        raise _refusal(f"holds a {what} that is none") from None


def _refusal(reason: str) -> RbeesError:
    return RbeesError(ErrorCode.INVALID_REQUEST, f"Its {MANIFEST} {reason}; nothing was taken.", field=MANIFEST)
