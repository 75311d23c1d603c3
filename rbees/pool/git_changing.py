"""`rbees pool git pull|sync|clean`: what changes a checkout.

Nothing is lost without a question, and what is left behind is named.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Final

import click
import msgspec

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.terminal.asking import ask
from rbees.terminal.notes import notes
from rbees.terminal.output import print_json
from rbees.terminal.text import printable

if TYPE_CHECKING:
    from rbees.pool.git_checkout import Checkout
    from rbees.pool.git_tree import Changed, Own

LISTED: Final = 20
"""Most files or commits that are listed of one place for people; JSON has all."""
_INSTALLED_FROM: Final = ("pyproject.toml", "requirements/")
"""What an installation is made of beside the code, which an editable one reads where it lies."""


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What `pull` and `sync` print with `--json`."""

    branch: str
    upstream: str
    before: str
    after: str
    new_commits: int
    left_behind: tuple[Own, ...] = ()
    set_aside: tuple[SetAside, ...] = ()
    install_again: bool = False
    """True where what the installation is made from has changed with it."""


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """Changes that a sync undid, kept in the stash."""

    path: str
    stash: str
    get_back: str


class Cleaned(msgspec.Struct, frozen=True, kw_only=True):
    """What `clean --json` prints."""

    found: tuple[str, ...]
    removed: tuple[str, ...]
    """Those that are gone now; what holds a checkout of its own stays."""


def pull(checkout: Checkout, *, as_json: bool) -> None:
    """Fetch and fast-forward, then bring the submodules along."""
    from rbees.pool.git_tree import fetched, on_branch, own_work, refuse_in_the_way, uncommitted

    head = on_branch(checkout)
    changed = uncommitted(checkout, head)
    if changed:
        message = "There are changes that are not committed; commit them, or put them away with `git stash`, and pull again."
        raise RbeesError(ErrorCode.CHECKOUT_CONFLICT, message, files=_files(changed))
    with notes(silent=as_json) as said:
        said.note(f"asking {head.upstream} what is new")
        target = fetched(checkout, head)
        own = own_work(checkout, target)
        new = checkout.commits(f"HEAD..{target}", limit=1)
        # Commits on top of upstream's newest may stay; a submodule's would be gone from sight once another one is checked out.
        if any(new or place.path != "." for place in own):
            what_to_do = "put them on top of upstream's with `git rebase`, or leave them behind with `rbees-pool git sync --force`"
            raise _diverged(own, what_to_do)
        refuse_in_the_way(checkout, target)
        if new:
            checkout.fast_forward(target)
        said.note("bringing the submodules along")
        checkout.update_submodules()
    _report(checkout, head.branch, head.upstream, head.commit, as_json=as_json)


def sync(checkout: Checkout, *, yes: bool, force: bool, as_json: bool) -> None:
    """Reset hard to the upstream branch, submodules included."""
    from rbees.pool.git_tree import fetched, on_branch, own_work, refuse_in_the_way, uncommitted

    head = on_branch(checkout)
    with notes(silent=as_json) as said:
        said.note(f"asking {head.upstream} what is new")
        target = fetched(checkout, head)
    own, changed = own_work(checkout, target), uncommitted(checkout, head)
    if own and not force:
        raise _diverged(own, "to leave them behind all the same, add `--force`")
    refuse_in_the_way(checkout, target)
    if not yes:
        _show_loss(own, changed)
        ask(f"Reset {checkout.root} to {head.upstream} ({target[:12]})?")
    kept = _set_aside(checkout, changed)
    try:
        with notes(silent=as_json) as said:
            said.note(f"resetting to {head.upstream}")
            checkout.reset(target)
            said.note("bringing the submodules along")
            checkout.update_submodules(force=True)
    except RbeesError as error:
        # Half of it may be done, so what was left behind must be told now.
        error.details["get_back"] = [*(place.get_back for place in own), *(place.get_back for place in kept)]
        raise
    _report(checkout, head.branch, head.upstream, head.commit, own, kept, as_json=as_json)


def clean(checkout: Checkout, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """List what git does not know, ask, and delete it."""
    from rbees.pool.git_tree import shown

    found = _untracked(checkout)
    listed = [shown(prefix + path) for prefix, _, paths in found for path in paths]
    if listed and not dry_run and not yes:
        for path in listed:
            click.echo(printable(path), err=True)
        ask(f"Delete {_count(len(listed), 'file or folder', 'files and folders')} for good?")
    if not dry_run:
        for _, place, paths in found:
            place.remove(paths)
    remaining = {shown(prefix + path) for prefix, _, paths in _untracked(checkout) for path in paths}
    removed = tuple(path for path in listed if path not in remaining)
    if as_json:
        print_json(Cleaned(found=tuple(listed), removed=removed))
        return
    for path in listed:
        verb = "deleted" if path in removed else "would delete" if dry_run else "still there:"
        click.echo(f"{verb} {printable(path)}")
    if not listed:
        click.echo("Nothing to clean: git knows every file, or is told to ignore it.", err=True)


def _untracked(checkout: Checkout) -> list[tuple[str, Checkout, tuple[str, ...]]]:
    """For the checkout and each submodule: its path with a slash, itself, and what git does not know in it."""
    places = [("", checkout), *((f"{sub.path}/", sub.checkout) for sub in checkout.submodules() if sub.checkout)]
    found = [(prefix, place, tuple(path for path in place.untracked() if not _runs_here(place, path))) for prefix, place in places]
    return [(prefix, place, paths) for prefix, place, paths in found if paths]


def _runs_here(place: Checkout, path: str) -> bool:
    """True for what this very program runs from, such as a virtual environment that git is not told to ignore."""
    from pathlib import Path

    folder = place.root / path
    return any(Path(prefix).resolve().is_relative_to(folder) for prefix in (sys.prefix, sys.base_prefix))


def _set_aside(checkout: Checkout, changed: tuple[Changed, ...]) -> tuple[SetAside, ...]:
    from rbees.pool.git_checkout import Checkout as Place

    kept = []
    for place in changed:
        where = checkout if place.path == "." else Place(checkout.root / place.path, checkout.protocols)
        stash = where.set_aside("before rbees-pool git sync")
        if stash is not None:
            get_back = ("git", "-C", str(where.root), "stash", "apply", stash)
            kept.append(SetAside(path=place.path, stash=stash, get_back=shlex.join(get_back)))
    return tuple(kept)


def _diverged(own: tuple[Own, ...], what_to_do: str) -> RbeesError:
    count = _count(sum(len(place.commits) for place in own), "commit", "commits")
    places = ", ".join(place.path for place in own if place.path != ".")
    where = f", in {places}," if places else ""
    commits = [f"{commit.commit} {commit.subject}" for place in own for commit in place.commits[:LISTED]]
    return RbeesError(
        ErrorCode.CHECKOUT_CONFLICT,
        f"The checkout has {count}{where} that its remote does not have; push them, or {what_to_do}.",
        commits=commits,
        get_back=[place.get_back for place in own],
    )


def _show_loss(own: tuple[Own, ...], changed: tuple[Changed, ...]) -> None:
    """On stderr, before the question."""
    for place in own:
        click.echo(f"Would be left behind in {_place(place.path)}:", err=True)
        for commit in place.commits[:LISTED]:
            click.echo(f"  {commit.commit[:12]} {printable(commit.subject)}", err=True)
    for path in _files(changed)[: LISTED * 2]:
        click.echo(f"Would be undone, and kept in the stash: {printable(path)}", err=True)


def _report(
    checkout: Checkout,
    branch: str | None,
    upstream: str | None,
    before: str | None,
    own: tuple[Own, ...] = (),
    kept: tuple[SetAside, ...] = (),
    *,
    as_json: bool,
) -> None:
    after = checkout.commit_of("HEAD")
    assert branch, "`on_branch` saw to this"
    assert upstream, "and to this"
    assert before, "and to this"
    assert after, "a reset or a merge leads to a commit"
    new = checkout.commits(f"{before}..{after}")
    moved = Moved(
        branch=branch,
        upstream=upstream,
        before=before,
        after=after,
        new_commits=len(new),
        left_behind=own,
        set_aside=kept,
        install_again=_is_installed_from(checkout, before, after),
    )
    if as_json:
        print_json(moved)
        return
    count = _count(len(new), "new commit", "new commits")
    click.echo(f"{printable(branch)} is at {after[:12]}, {count}." if before != after else f"{printable(branch)} is up to date.")
    for commit in new[:LISTED]:
        click.echo(f"  {commit.commit[:12]} {printable(commit.subject)}")
    for place in own:
        count = _count(len(place.commits), "commit", "commits")
        click.echo(f"Left behind in {_place(place.path)}: {count}; get them back with `{place.get_back}`.")
    for place_kept in kept:
        click.echo(f"Changes in {_place(place_kept.path)} were undone; get them back with `{place_kept.get_back}`.")
    if moved.install_again:
        click.echo("What rbees is installed from has changed too: run `make setup` there, and start its daemons again.", err=True)


def _is_installed_from(checkout: Checkout, before: str, after: str) -> bool:
    from rbees.pool.git_checkout import running_from
    from rbees.pool.git_reading import read_paths

    if checkout.root != running_from() or before == after:
        return False
    changed = read_paths(checkout.git("diff", "--name-only", "-z", "--no-ext-diff", "--end-of-options", before, after, "--"))
    return any(path.startswith(_INSTALLED_FROM) for path in changed)


def _files(changed: tuple[Changed, ...]) -> list[str]:
    return [change.path if place.path == "." else f"{place.path}/{change.path}" for place in changed for change in place.changes]


def _place(path: str) -> str:
    return "the checkout" if path == "." else printable(path)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
