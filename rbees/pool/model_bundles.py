"""`rbees-pool models export|import`: a model carried to a machine that shares no network with this one.

Both work on this host's own files, with and without a daemon, which is only told that something came.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from rbees.pool.notice import tell_daemon
from rbees.protocol.downloads import DownloadDone, DownloadPlanned, DownloadProgress
from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.service.clock import SystemClock
from rbees.terminal.notes import Notes, notes
from rbees.terminal.output import is_live, json_option, print_json

if TYPE_CHECKING:
    from rbees.host.bundle import Manifest
    from rbees.host.bundle_read import Bundle
    from rbees.host.bundle_write import Export
    from rbees.host.model_candidates import Candidate
    from rbees.pool.here import Here

PIPE: Final = "-"
TELL_EVERY_S: Final = 0.2


@click.command("export")
@click.argument("model")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="FILE|FOLDER|-",
    help="A file that ends in .tar, or a folder; `-` is standard output.",
)
@json_option
def export(model: str, target: str, as_json: bool) -> None:
    """Write a model with all its parts, its names and its checksums, for `import` on a machine without a network.

    In a folder that exists it gets one of its own. What is there already is never replaced; after an interruption, ask again.
    """
    from rbees.host.bundle import Exported
    from rbees.host.bundle_write import Export, is_pipe, place_of_export, write_place
    from rbees.pool.here import Here

    if target == PIPE and as_json:
        raise click.UsageError("With `--to -` the standard output is the model's; leave `--json` out.")
    if target == PIPE and sys.stdout.isatty():
        raise click.UsageError("A terminal is no place for a model: lead the output elsewhere, or name a file or a folder.")
    here = Here()
    with notes(silent=as_json) as said:
        candidate, manifest = _looked_at(here, model, said)
        place = place_of_export(target, manifest) if target != PIPE and not is_pipe(target) else None
        shown = _Progress("exporting", model, manifest.total_bytes, said, as_json=as_json)
        shown.begin(manifest.hub or candidate.ref, tuple(file.path for file in manifest.files))
        wanted = Export(manifest, candidate.paths, shown.tell)
        if place is not None:
            write_place(wanted, place)
        else:
            _write_pipe(wanted, target)
        said.clear()
        where = str(place or target)
        said.keep(f"exported {candidate.ref}; sha256 {manifest.sha256[:16]}…")
    if as_json:
        done = Exported(model_ref=candidate.ref, sha256=manifest.sha256, path=where, size_bytes=manifest.total_bytes)
        print_json(done)
    elif target != PIPE:
        click.echo(where)


@click.command("import")
@click.argument("source", metavar="FILE|FOLDER|-")
@click.option(
    "--local-dir", type=click.Path(), help="Folder to put the files into.  [default: where a download of it would have put them]"
)
@json_option
def import_(source: str, local_dir: str | None, as_json: bool) -> None:
    """Take in what `export` has written, under the same reference and names, and print the reference; `-` is standard input.

    Every checksum is compared before a file gets its name. What is here already under one of the names is never replaced.
    """
    from rbees.host.bundle_read import open_bundle
    from rbees.pool.here import Here

    if source == PIPE and sys.stdin.isatty():
        raise click.UsageError("A terminal holds no model: lead one in, as in `… models import - < model.tar`.")
    here = Here()
    with notes(silent=as_json) as said, open_bundle(source, sys.stdin.buffer) as bundle:
        done = _take(here, bundle, local_dir, said, as_json=as_json)
        said.clear()
        for name, taken_by in _give_names(here, bundle.manifest, Path(done.paths[0])):
            said.keep(f"the name {name} is {taken_by}'s on this host; the model goes without it")
        asyncio.run(tell_daemon(here, said))
        how = "is here now" if done.fetched_bytes else "was here already"
        said.keep(f"{bundle.manifest.name} {how}; sha256 {done.sha256} is right; {done.paths[0]}")
    if as_json:
        print_json(done)
    else:
        click.echo(done.model_ref)


def _looked_at(here: Here, model: str, said: Notes) -> tuple[Candidate, Manifest]:
    """The model and its manifest, once it is known to be one that can be served.

    Raises:
        RbeesError: MODEL_NOT_FOUND, MODEL_INCOMPATIBLE, CHECKSUM_MISMATCH; INVALID_REQUEST for what ships with rbees.
    """
    from rbees.host.bundle import manifest_of
    from rbees.host.models_here import named

    candidate = named(model, here.places)
    sums = []
    for path in candidate.paths:
        sha256 = here.store.checksums.known(path)
        if sha256 is None:
            said.note(f"reading {path.name}")
            sha256 = here.store.checksums.compute(path)
        if sha256 is None:
            raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"{path} cannot be read, or changed while it was read; look at it.")
        sums.append(sha256)
    here.store.refresh()
    here.store.resolve(candidate.ref)
    return candidate, manifest_of(candidate, [path.stat().st_size for path in candidate.paths], sums)


def _write_pipe(wanted: Export, target: str) -> None:
    from rbees.host.bundle_write import write_tar

    try:
        with contextlib.ExitStack() as stack:
            write_tar(wanted, sys.stdout.buffer if target == PIPE else stack.enter_context(open(target, "wb")))
    except BrokenPipeError:
        # click would make an ordinary failure of this. What is still buffered has nowhere to go.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(ExitCode.PIPE_CLOSED) from None


def _take(here: Here, bundle: Bundle, local_dir: str | None, said: Notes, *, as_json: bool) -> DownloadDone:
    from rbees.host.bundle_take import order_of, take
    from rbees.host.models_here import download_folder
    from rbees.pool.here import local_folder

    manifest = bundle.manifest
    wanted = download_folder(os.environ)
    folder = local_folder(local_dir)
    if folder is None and wanted is not None and manifest.reference is not None:
        folder = wanted / _short_name(here, manifest)
    shown = _Progress("importing", manifest.name, manifest.total_bytes, said, as_json=as_json)
    shown.begin(manifest.hub or manifest.name, tuple(file.path for file in manifest.files))
    assert here.places.own is not None, "this host's places have a folder of their own"
    order = order_of(manifest, folder, wanted or here.places.own)
    if local_dir is not None and folder is not None:
        here.note_local(folder, [file.path for file in order.files])
    taken = take(bundle, order, here.cache, shown.tell, os.environ)
    for path, sha256 in zip(taken.paths, taken.sha256, strict=True):
        here.store.checksums.remember(path, sha256)
    here.store.refresh()
    ref = manifest.hub if order.local_dir is None and manifest.hub is not None else f"file:{taken.paths[0]}"
    return DownloadDone(model_ref=ref, sha256=manifest.sha256, paths=tuple(map(str, taken.paths)), fetched_bytes=taken.taken_bytes)


def _short_name(here: Here, manifest: Manifest) -> str:
    """The folder that a download into `RBEES_MODELS_DIR` would make: by the catalogue's name, else the repository's."""
    reference = manifest.reference
    assert reference is not None
    entries = (here.store.catalog.get(name) for name in manifest.aliases)
    known = (entry for entry in entries if entry is not None and entry.hub is not None)
    own = reference.repository.rpartition("/")[2]
    return next((entry.name for entry in known if entry.hub is not None and entry.hub.repository == reference.repository), own)


def _give_names(here: Here, manifest: Manifest, path: Path) -> list[tuple[str, str]]:
    """Have the model go by its short names; those that are another model's here, and whose.

    A file outside all folders of this host's models is no model here before somebody registers it, so it gets none.
    """
    candidates = list(here.places.candidates())
    own = next((one for one in candidates if one.path == path), None)
    if own is None:
        return []
    owners = {name: one for one in reversed(candidates) for name in one.names}
    taken = []
    for name in manifest.aliases:
        owner = owners.get(name)
        if owner is None:
            here.registered.add(name, path)
        elif owner is not own:
            taken.append((name, owner.ref))
    return taken


class _Progress:
    """How far it is, for people and for programs."""

    def __init__(self, verb: str, model: str, total_bytes: int, said: Notes, *, as_json: bool) -> None:
        from rbees.host.model_download import Pace

        self._words = f"{verb} {model}"
        self._model = model
        self._total_bytes = total_bytes
        self._said = said
        self._as_json = as_json
        self._clock = SystemClock()
        self._pace = Pace(self._clock)
        self._told_at: float | None = None

    def begin(self, ref: str, files: tuple[str, ...]) -> None:
        """Say what is going to be copied."""
        if self._as_json:
            print_json(DownloadPlanned(model_ref=ref, files=files, total_bytes=self._total_bytes))

    def tell(self, done_bytes: int, waiting: bool) -> None:
        """Say how far it is, not too often."""
        from rbees.terminal.downloads import figures

        now = self._clock.monotonic()
        if self._told_at is not None and now - self._told_at < TELL_EVERY_S and done_bytes < self._total_bytes:
            return
        self._told_at = now
        progress = DownloadProgress(done_bytes=done_bytes, total_bytes=self._total_bytes, waiting=waiting)
        progress = self._pace.with_rate(progress)
        if self._as_json:
            print_json(progress)
            return
        words = f"waiting for another process that copies {self._model}" if waiting else self._words
        share = done_bytes / self._total_bytes if self._total_bytes else 1.0
        self._said.note(f"{words}{f': {figures(progress)}' if is_live(sys.stderr) else ''}", share)
