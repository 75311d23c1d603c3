"""`rbees pool git status|pull|sync|submodules|branches|log|clean`: the checkout that rbees runs from, submodules included."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from rbees.terminal.columns import Column
from rbees.terminal.output import json_option, print_json, print_pairs
from rbees.terminal.pages import print_table

if TYPE_CHECKING:
    from rbees.pool.git_checkout import Checkout
    from rbees.pool.git_reading import Branch, Head
    from rbees.pool.git_tree import SubmoduleView

Action = Callable[..., None]


def on_checkout(action: Action) -> Action:
    """Make a click callback of `action(checkout, *, as_json, …)`, with the option that names the checkout."""

    @click.option("--checkout", metavar="DIR", help="The checkout.  [default: `checkout` in `[pool]`, else where rbees runs from]")
    @json_option
    @functools.wraps(action)
    def callback(*, checkout: str | None, **rest: Any) -> None:
        from rbees.pool.git_checkout import find_checkout

        action(find_checkout(checkout), **rest)

    return callback


@click.group()
def git() -> None:
    """The git checkout that rbees runs from, submodules included."""


@git.command()
@click.option("--fetch", "asks", is_flag=True, help="Ask the remote first; else it is compared as last fetched.")
@on_checkout
def status(checkout: Checkout, *, asks: bool, as_json: bool) -> None:
    """Show branch, distance to upstream, changes and submodules."""
    import msgspec

    from rbees.pool.git_tree import fetched, on_branch, view

    if asks:
        fetched(checkout, on_branch(checkout))
    head, submodules = checkout.head(), [view(submodule) for submodule in checkout.submodules()]
    if as_json:
        print_json({"checkout": str(checkout.root), **msgspec.structs.asdict(head), "submodules": submodules})
        return
    print_pairs(
        [
            ("checkout", str(checkout.root)),
            ("branch", head.branch or "none (detached head)"),
            ("commit", _commit(checkout)),
            ("upstream", _upstream(head)),
            ("changes", f"{len(head.tracked)} changed, {len(head.untracked)} untracked"),
            ("submodules", _submodules(submodules)),
        ]
    )
    if head.changes:
        click.echo()
        print_table(
            (Column("file", whole=True), Column("state")), [[change.path, change.what] for change in head.changes], empty=""
        )


@git.command()
@on_checkout
def pull(checkout: Checkout, *, as_json: bool) -> None:
    """Fetch and go on to upstream's commit, submodules too; refused where that would need a merge."""
    from rbees.pool import git_changing

    git_changing.pull(checkout, as_json=as_json)


@git.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Leave commits behind that the remote does not have.")
@on_checkout
def sync(checkout: Checkout, *, yes: bool, force: bool, as_json: bool) -> None:
    """Reset hard to the upstream branch, submodules too, after asking.

    Changes of tracked files are undone and kept in git's stash; files that git does not know stay. With commits that the remote
    does not have it is refused, unless --force is given; it then says how to get them back.
    """
    from rbees.pool import git_changing

    git_changing.sync(checkout, yes=yes, force=force, as_json=as_json)


@git.command()
@click.option("--update", is_flag=True, help="Fetch them and check out the commits that are recorded for them.")
@on_checkout
def submodules(checkout: Checkout, *, update: bool, as_json: bool) -> None:
    """Show the submodules, or bring them to where they belong."""
    from rbees.pool.git_tree import view
    from rbees.terminal.notes import notes

    if update:
        with notes(silent=as_json) as said:
            said.note("fetching submodules")
            checkout.update_submodules()
    found = [view(submodule) for submodule in checkout.submodules()]
    if as_json:
        print_json({"submodules": found})
        return
    print_table(
        (Column("submodule", whole=True), Column("state"), Column("commit"), Column("branch", rank=1)),
        [[sub.path, sub.state, (sub.commit or sub.recorded)[:12], sub.branch or "-"] for sub in found],
        empty="The checkout has no submodules.",
    )


@git.command()
@click.option("--remote", "with_remote", is_flag=True, help="Show the branches of remotes too, as last fetched.")
@on_checkout
def branches(checkout: Checkout, *, with_remote: bool, as_json: bool) -> None:
    """Show the branches, the newest first."""
    found = [branch for branch in checkout.branches() if with_remote or not branch.remote]
    if as_json:
        print_json({"branches": found})
        return
    print_table(
        (Column("branch", whole=True), Column("commit"), Column("date", rank=1), Column("upstream", least=12), Column("distance")),
        [_branch(branch) for branch in found],
        empty="No branch has a commit.",
    )


@git.command()
@click.option("--limit", "-n", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Most commits.")
@click.option("--incoming", is_flag=True, help="Those that upstream has and the checkout has not, as last fetched.")
@on_checkout
def log(checkout: Checkout, *, limit: int, incoming: bool, as_json: bool) -> None:
    """Show the newest commits."""
    from rbees.pool.git_tree import on_branch

    head = on_branch(checkout) if incoming else checkout.head()
    found = checkout.commits("HEAD..@{upstream}" if incoming else "HEAD", limit=limit) if head.commit else ()
    if as_json:
        print_json({"commits": found})
        return
    print_table(
        (Column("commit"), Column("date", rank=2), Column("author", rank=1, least=8), Column("subject", prose=True, least=40)),
        [[commit.commit[:12], _date(commit.at), commit.author, commit.subject] for commit in found],
        empty="There is no commit.",
    )


@git.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="List them only.")
@on_checkout
def clean(checkout: Checkout, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Delete files that git does not know, submodules' too, after listing them and asking; ignored ones stay."""
    from rbees.pool import git_changing

    git_changing.clean(checkout, yes=yes, dry_run=dry_run, as_json=as_json)


def _commit(checkout: Checkout) -> str:
    newest = checkout.commits("HEAD", limit=1) if checkout.commit_of("HEAD") else ()
    return f"{newest[0].commit[:12]} {newest[0].subject}" if newest else "none yet"


def _upstream(head: Head) -> str:
    if head.upstream is None:
        return "none"
    parts = [f"{count} {word}" for count, word in ((head.ahead, "ahead"), (head.behind, "behind")) if count]
    return f"{head.upstream}, {' and '.join(parts) or 'no difference'}"


def _submodules(found: list[SubmoduleView]) -> str:
    odd = [f"{sub.path} is {sub.state}" for sub in found if sub.state != "current"]
    return "; ".join(odd) or (f"{len(found)}, all current" if found else "none")


def _branch(branch: Branch) -> list[str]:
    name = f"* {branch.name}" if branch.current else f"  {branch.name}"
    return [name, branch.commit[:12], _date(branch.at), branch.upstream or "-", branch.track or "-"]


def _date(at: int) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")
