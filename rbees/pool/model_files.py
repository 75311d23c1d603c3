"""`rbees pool models verify|delete|disk-usage|register`: what is done with the files themselves."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rbees.pool.forms import HostOption, check_host_option, is_peer_named
from rbees.pool.notice import tell_daemon
from rbees.pool.target import asks_poold_if_there
from rbees.protocol.downloads import ModelRemoved
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.terminal.asking import ask
from rbees.terminal.columns import Column
from rbees.terminal.notes import notes
from rbees.terminal.output import json_option, print_json, print_pairs
from rbees.terminal.pages import print_table
from rbees.terminal.quantities import bytes_text, counted

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient
    from rbees.host.model_candidates import Candidate
    from rbees.pool.here import Here


@click.command("verify")
@click.argument("model", required=False)
@json_option
def verify(model: str | None, as_json: bool) -> int:
    """Read a model's files, or all of them, and compare their checksums with the hub's or with those of the last time."""
    from rbees.host.models_here import named
    from rbees.pool.here import Here

    here = Here()
    results = []
    with notes(silent=as_json) as said:
        chosen = [named(model, here.places)] if model is not None else list(here.places.candidates())
        for candidate in chosen:
            said.note(f"reading {candidate.path.name}")
            results.append((candidate.ref, here.check(candidate)))
    here.store.refresh()
    if as_json:
        print_json([{"model": ref, "right": problem is None, "problem": problem} for ref, problem in results])
    else:
        columns = (Column("model", whole=True), Column("checksum", prose=True))
        print_table(columns, [(ref, problem or "right") for ref, problem in results], empty="No model is here.")
    wrong = [ref for ref, problem in results if problem is not None]
    if wrong:
        raise RbeesError(
            ErrorCode.CHECKSUM_MISMATCH, f"The checksum of {len(wrong)} of {counted(len(results), 'model')} is wrong.", models=wrong
        )
    return 0


@click.command("delete")
@click.argument("model", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--unfinished", cls=HostOption, is_flag=True, help="Remove all that downloads, copies and imports have left unfinished here."
)
@asks_poold_if_there
async def delete(pool: PooldClient | None, *, model: str | None, yes: bool, unfinished: bool, as_json: bool) -> None:
    """Remove a model's files from this host. A registered file is only forgotten.

    MODEL may be the path of something unfinished, as `disk-usage` shows it.
    """
    from rbees.pool.here import Here

    check_host_option("--unfinished", unfinished or None)
    if (model is None) is not unfinished:
        raise click.UsageError("Name a model, or give --unfinished in place of one.")
    if as_json and not yes:
        raise click.UsageError("With --json nobody can be asked; add --yes.")
    if model is None:
        _delete_unfinished(Here(), yes=yes, as_json=as_json)
        return
    if not yes:
        ask(f"Remove the files of {model}?")
    try:
        removed = await pool.remove_model(model) if pool is not None else Here().remove(model)
        sentence = f"removed {removed.model_ref}, {bytes_text(removed.freed_bytes)} freed"
    except RbeesError as error:
        # A name that somebody on this host gave, somebody on this host may take.
        here = Here()
        if not error.details.get("registered") or is_peer_named() or not here.forget(model):
            raise
        with notes(silent=as_json) as said:
            await tell_daemon(here, said)
        removed, sentence = ModelRemoved(model_ref=model, freed_bytes=0), f"{model} is forgotten; the file stays."
    if as_json:
        print_json(removed)
    else:
        click.echo(sentence, err=True)


def _delete_unfinished(here: Here, *, yes: bool, as_json: bool) -> None:
    """Whether a daemon runs makes no difference: what it writes is locked, and stays."""
    from rbees.host.leftovers import leftovers
    from rbees.host.model_removal import remove_leftovers

    found = tuple(leftovers(here.places))
    if found and not yes:
        ask(f"Remove {_files(len(found))}, {bytes_text(sum(one.size_bytes for one in found))}?")
    removed = remove_leftovers(here.places)
    freed = {str(path): size for path, size in removed.items() if size is not None}
    written = [str(path) for path, size in removed.items() if size is None]
    if as_json:
        print_json({"removed": freed, "still_written": written, "freed_bytes": sum(freed.values())})
        return
    for path in written:
        click.echo(f"{path} is being written and stays", err=True)
    click.echo(f"removed {_files(len(freed))}, {bytes_text(sum(freed.values()))} freed", err=True)


def _files(count: int) -> str:
    return f"{count} unfinished {'file' if count == 1 else 'files'}"


@click.command("disk-usage")
@json_option
def disk_usage(as_json: bool) -> None:
    """Show what models and unfinished downloads take of the disk, and what is left."""
    from rbees.host.leftovers import leftovers
    from rbees.pool.here import Here

    here = Here()
    sizes = {candidate.ref: _taken(candidate) for candidate in here.places.candidates()}
    parts = {one.path: one.size_bytes for one in leftovers(here.places)}
    folder = _existing(here.cache.folder)
    free = shutil.disk_usage(folder).free
    if as_json:
        unfinished = {str(path): size for path, size in parts.items()}
        print_json({"models": sizes, "unfinished": unfinished, "total_bytes": sum(sizes.values()), "free_bytes": free})
        return
    rows = [*sizes.items(), *((f"unfinished: {path}", size) for path, size in parts.items())]
    columns = (Column("model", whole=True), Column("size", right=True))
    print_table(columns, [(name, bytes_text(size)) for name, size in rows], empty="No model is here.")
    total = sum(sizes.values()) + sum(parts.values())
    print_pairs([("all together", bytes_text(total)), (f"free at {folder}", bytes_text(free))])


@click.command("register")
@click.argument("file", type=click.Path())
@click.option("--name", help="Short name.  [default: the file's own, without its suffix]")
@json_option
def register(file: str, name: str | None, as_json: bool) -> None:
    """Make a GGUF file that is already on this host known under a short name; it stays where it is."""
    from rbees.pool.here import Here, local_folder

    here, path = Here(), local_folder(file)
    assert path is not None
    with notes(silent=as_json) as said:
        said.note(f"reading {path.name}")
        facts = here.register(path, name)
        asyncio.run(tell_daemon(here, said))
    if as_json:
        print_json(facts)
    else:
        click.echo(", ".join(facts.aliases) or facts.ref)


def _taken(candidate: Candidate) -> int:
    return sum(path.stat().st_size for path in candidate.paths if path.is_file())


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.is_dir())
