"""What this host gives to other pools: its models, and of a file that it still fetches from others the pieces that are right.

A file is named by its sha256 and found among those that the model store knows, or that are being fetched; nobody names a path.
What blocks says so; all else is for one thread alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from rbees.host.model_choice import sole
from rbees.host.model_store import ModelStore, StoredModel
from rbees.host.piece_sums import PieceSums
from rbees.host.variants import Variant, named, ranked
from rbees.protocol import model_ref
from rbees.protocol.downloads import CopyBegun, FilePieces, HubFile, ModelOffer, OfferedFile, PiecesHeld
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import AliasRef, HubRef
from rbees.protocol.quantizations import label_of


@dataclass(slots=True)
class Copy:
    """A model that is being fetched from other pools: what they offered, and what of each file is here."""

    offer: ModelOffer
    begun: dict[str, CopyBegun] = field(default_factory=dict)
    held: dict[str, set[int]] = field(default_factory=dict)

    def note(self, report: CopyBegun | PiecesHeld) -> None:
        """Take in what the process that fetches it says."""
        if isinstance(report, CopyBegun):
            self.begun[report.pieces.sha256] = report
            self.held[report.pieces.sha256] = set()
        elif report.sha256 in self.held:
            self.held[report.sha256].update(report.numbers)


@dataclass(frozen=True, slots=True)
class Lent:
    """A file that somebody asked for: open, and how much of it can be given."""

    file: BinaryIO
    size_bytes: int
    pieces: FilePieces | None = None
    """Of a file that is not whole; it says which pieces are here."""

    def has(self, first: int, length: int) -> bool:
        """True if these bytes are here, and right."""
        if self.pieces is None or self.pieces.held is None:
            return True
        piece_bytes = self.pieces.piece_bytes
        return set(range(first // piece_bytes, -(-(first + length) // piece_bytes))) <= set(self.pieces.held)


class Lending:
    """What of one host can be given."""

    def __init__(self, store: ModelStore, sums: PieceSums) -> None:
        self._store = store
        self.sums = sums
        self._copies: list[Copy] = []

    @contextmanager
    def copying(self, offer: ModelOffer) -> Iterator[Copy]:
        """While a model is being fetched, what has come of it can be given."""
        copy = Copy(offer)
        self._copies.append(copy)
        try:
            yield copy
        finally:
            self._copies.remove(copy)

    def copy_offer(self, name: str, quantization: str | None) -> ModelOffer | None:
        """The offer of a model that is being fetched."""
        for copy in self._copies:
            label = label_of(copy.offer.files[0].path)
            if name in _names(copy.offer) and (quantization is None or quantization.upper() == label):
                return copy.offer
        return None

    def offer(self, name: str, quantization: str | None = None) -> ModelOffer:
        """The offer of a model that is here whole. Blocks on the disk.

        Raises:
            RbeesError: as `ModelStore.resolve`; MODEL_NOT_FOUND for a file or quantisation that is not here, INVALID_REQUEST where
                two models have it.
        """
        reference = model_ref.parse(name)
        try:
            by_sum = name if _is_sum(name) else None
            found = self._store.resolve(name, by_sum)
        except RbeesError as error:
            if error.code is not ErrorCode.MODEL_NOT_FOUND or not isinstance(reference, HubRef):
                raise
            return offer_of(self._of_repository(reference, quantization), self._store)
        if quantization is not None and label_of(found.facts.file_name) != quantization.upper():
            own = model_ref.parse(found.facts.ref)
            if not isinstance(own, HubRef):
                raise _not_found(f"This pool holds {name} in another quantisation.")
            asked = reference.revision if isinstance(reference, HubRef) else None
            found = self._of_repository(HubRef(own.repository, asked), quantization)
        return offer_of(found, self._store)

    def copied(self, sha256: str) -> CopyBegun | None:
        """A file that is being fetched, with the pieces that are here; of several fetches of it, the one that has most."""
        copies = [copy for copy in self._copies if sha256 in copy.begun]
        if not copies:
            return None
        best = max(copies, key=lambda copy: len(copy.held[sha256]))
        begun, held = best.begun[sha256], tuple(sorted(best.held[sha256]))
        return msgspec.structs.replace(begun, pieces=msgspec.structs.replace(begun.pieces, held=held))

    def known_pieces(self, sha256: str) -> FilePieces | None:
        """The pieces of a file that is here whole, if they have been summed. Blocks on the disk. Raises as `path`."""
        self.path(sha256)
        return self.sums.known(sha256)

    def pieces(self, sha256: str) -> FilePieces:
        """The pieces of a file that is here whole, summed if nobody has asked for them yet. Blocks for as long as that takes.

        Raises:
            RbeesError: MODEL_NOT_FOUND, also where the file vanished or changed meanwhile.
        """
        path = self.path(sha256)
        known = self.sums.known(sha256)
        if known is None:
            known = self.sums.compute(path, sha256)
            if known is None:
                raise _not_found("This pool's file with this sha256 is gone or has changed.")
            self.sums.remember(known, self._held_sums())
        return known

    def keep(self, found: FilePieces) -> None:
        """Remember the pieces of a file that has come whole. Blocks on the disk."""
        self.sums.remember(msgspec.structs.replace(found, held=None), {found.sha256, *self._held_sums()})

    def path(self, sha256: str) -> Path:
        """Where a file of the store lies. Blocks on the disk.

        Raises:
            RbeesError: MODEL_NOT_FOUND; the details of a model in parts hold the parts' sums.
        """
        for model in self._store.stored():
            if len(model.paths) > 1 and model.facts.sha256 == sha256:
                sums = [file.sha256 for file in offer_of(model, self._store).files]
                raise RbeesError(
                    ErrorCode.MODEL_NOT_FOUND,
                    f"This sha256 is that of a model in {len(sums)} parts; ask for each part by its own.",
                    parts=sums,
                )
            for path in model.paths:
                if (len(model.paths) > 1 or model.facts.sha256 == sha256) and self._store.checksums.known(path) == sha256:
                    return path
        raise _not_found("This pool holds no model file with this sha256.")

    def open(self, sha256: str, copied: CopyBegun | None) -> Lent:
        """Open a file; `copied` is what `copied` says of it. Blocks on the disk. Raises as `path`."""
        if copied is not None:
            for place in (copied.draft, copied.path):
                try:
                    return Lent(Path(place).open("rb"), copied.pieces.size_bytes, copied.pieces)
                except OSError:
                    continue  # It has just got its name, or is not there yet.
        path = self.path(sha256)
        try:
            file = path.open("rb")
        except OSError:
            raise _not_found("This pool's file with this sha256 cannot be read any more.") from None
        return Lent(file, os.fstat(file.fileno()).st_size)

    def _held_sums(self) -> set[str]:
        sums = (self._store.checksums.known(path) for model in self._store.stored() for path in model.paths)
        return {sha256 for sha256 in sums if sha256 is not None}

    def _of_repository(self, wanted: HubRef, quantization: str | None) -> StoredModel:
        """The best model of a repository that a part of a name or a quantisation leaves open. Raises as `model_choice.sole`."""
        held: dict[str, StoredModel] = {}
        for model in self._store.stored():
            own = model_ref.parse(model.facts.ref)
            if isinstance(own, HubRef) and own.repository == wanted.repository and own.file is not None:
                asked = HubRef(own.repository, wanted.revision, own.file)
                if str(asked) in (model.facts.ref, *model.facts.aliases):
                    held[own.file] = model
        if not held:
            raise _not_found(f"This pool holds no copy of {wanted}.")
        found = [Variant((HubFile(path=path, size_bytes=model.facts.size_bytes),), label_of(path)) for path, model in held.items()]
        best = ranked(named(found, wanted.file, quantization))[0]
        return held[(best if wanted.file is not None else sole(best, found, wanted.repository)).path]


def offer_of(model: StoredModel, store: ModelStore) -> ModelOffer:
    """What somebody needs to have this model elsewhere under the same names. Blocks on the disk.

    Raises:
        RbeesError: MODEL_NOT_FOUND, where a file has just changed.
    """
    facts, own = model.facts, model_ref.parse(model.facts.ref)
    aliases = [model_ref.parse(alias) for alias in facts.aliases]
    branches = [alias.revision for alias in aliases if isinstance(alias, HubRef) and alias.revision is not None]
    folder = own.file.rpartition("/")[0] if isinstance(own, HubRef) and own.file is not None else ""
    files = []
    for path in model.paths:
        sha256 = store.checksums.known(path)
        if sha256 is None:
            raise _not_found(f"The file {path.name} of this pool has changed.")
        files.append(
            OfferedFile(path=f"{folder}/{path.name}" if folder else path.name, size_bytes=path.stat().st_size, sha256=sha256)
        )
    return ModelOffer(
        model_ref=facts.ref,
        sha256=facts.sha256,
        aliases=tuple(str(alias) for alias in aliases if isinstance(alias, AliasRef)),
        branches=tuple(dict.fromkeys(branches)),
        files=tuple(files),
    )


def _names(offer: ModelOffer) -> Sequence[str]:
    """Everything that the model goes by, as far as an offer says."""
    own = model_ref.parse(offer.model_ref)
    open_ = [str(HubRef(own.repository, branch, own.file)) for branch in (None, *offer.branches)] if isinstance(own, HubRef) else []
    repository = [f"hf:{own.repository}"] if isinstance(own, HubRef) else []
    return [offer.model_ref, offer.sha256, *offer.aliases, *open_, *repository]


def _is_sum(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


def _not_found(message: str) -> RbeesError:
    return RbeesError(ErrorCode.MODEL_NOT_FOUND, message)
