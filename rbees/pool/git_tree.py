"""What a checkout with its submodules is like as a whole, and what a reset would take from it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Literal

import msgspec

from rbees.pool.git_reading import Change, Commit, Head
from rbees.protocol.errors import ErrorCode, RbeesError

if TYPE_CHECKING:
    from rbees.pool.git_checkout import Checkout, Submodule

SubmoduleState = Literal["current", "changed", "moved", "absent"]


class SubmoduleView(msgspec.Struct, frozen=True, kw_only=True):
    """A submodule as `--json` prints it."""

    path: str
    state: SubmoduleState
    """`moved`: another commit than the recorded one is checked out; `absent`: it was never fetched."""
    recorded: str
    commit: str | None
    branch: str | None
    changes: tuple[Change, ...]
    own_commits: tuple[Commit, ...]
    """Those that its remote does not have."""


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """Work that only this checkout has, and how to get it back once it is no longer checked out."""

    path: str
    """The submodule; `.` for the checkout itself."""
    tip: str
    commits: tuple[Commit, ...]
    get_back: str


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """Changes that no commit holds, in the checkout itself (`.`) or a submodule."""

    path: str
    changes: tuple[Change, ...]


def view(submodule: Submodule) -> SubmoduleView:
    """Look at one submodule."""
    path, recorded = shown(submodule.path), submodule.recorded
    if submodule.checkout is None:
        return SubmoduleView(path=path, state="absent", recorded=recorded, commit=None, branch=None, changes=(), own_commits=())
    head = submodule.checkout.head()
    state: SubmoduleState = "moved" if head.commit != recorded else "changed" if head.tracked else "current"
    own = submodule.checkout.own_commits("HEAD", recorded) if head.commit else ()
    return SubmoduleView(
        path=path,
        state=state,
        recorded=recorded,
        commit=head.commit,
        branch=head.branch,
        changes=head.changes,
        own_commits=own,
    )


def on_branch(checkout: Checkout) -> Head:
    """The head of a checkout that is on a branch with an upstream, as `pull` and `sync` need it.

    Raises:
        RbeesError: CHECKOUT_UNUSABLE, with the command that mends it; CHECKOUT_CONFLICT, in the middle of a merge.
    """
    head = checkout.head()
    if head.commit is None:
        raise _unusable(f"{checkout.root} has no commit yet; clone the repository anew.")
    if head.branch is None:
        raise _unusable(f"{checkout.root} is on no branch but at commit {head.commit[:12]}; go to one with `git switch BRANCH`.")
    if head.upstream is None:
        message = f"The branch {head.branch} follows no branch of a remote; choose one with"
        raise _unusable(f"{message} `git branch --set-upstream-to=origin/{head.branch}`.")
    if any(change.what == "unmerged" for change in head.changes):
        message = f"A merge in {checkout.root} is not finished; go on with it, or give it up with `git merge --abort`."
        raise RbeesError(ErrorCode.CHECKOUT_CONFLICT, message)
    return head


def fetched(checkout: Checkout, head: Head) -> str:
    """Ask the remote, and say which commit the upstream branch is at.

    Raises:
        RbeesError: CHECKOUT_UNUSABLE, where the branch is gone there; what `Checkout.fetch` raises.
    """
    assert head.branch is not None
    remote = checkout.remote_of(head.branch)
    if remote != ".":
        checkout.fetch(remote)
    target = checkout.commit_of(f"{head.branch}@{{upstream}}")
    if target is None:
        message = f"The branch {head.upstream} is gone from its remote; choose another with"
        raise _unusable(f"{message} `git branch --set-upstream-to`, or go to another branch.")
    return target


def uncommitted(checkout: Checkout, head: Head) -> tuple[Changed, ...]:
    """Changes of tracked files, by where they are."""
    own = tuple(change for change in head.tracked if change.path not in {shown(sub.path) for sub in checkout.submodules()})
    inner = (
        Changed(path=shown(submodule.path), changes=submodule.checkout.head().tracked)
        for submodule in checkout.submodules()
        if submodule.checkout is not None
    )
    return tuple(changed for changed in (Changed(path=".", changes=own), *inner) if changed.changes)


def own_work(checkout: Checkout, target: str) -> tuple[Own, ...]:
    """Commits that going to `target` would leave behind: on the branch, and at the heads of submodules."""
    found = [_own(".", checkout, checkout.commits(f"{target}..HEAD"))]
    for submodule in checkout.submodules():
        inner = submodule.checkout
        if inner is not None and inner.commit_of("HEAD"):
            found.append(_own(shown(submodule.path), inner, inner.own_commits("HEAD", submodule.recorded)))
    return tuple(own for own in found if own.commits)


def refuse_in_the_way(checkout: Checkout, target: str) -> None:
    """Return where going to `target` overwrites no file that git does not know.

    Raises:
        RbeesError: CHECKOUT_CONFLICT, with the files.
    """
    files = checkout.in_the_way_of(target)
    if files:
        count = "A file" if len(files) == 1 else f"{len(files)} files"
        message = f"{count} in {checkout.root} that git does not know would be overwritten by upstream's; move them away first."
        raise RbeesError(ErrorCode.CHECKOUT_CONFLICT, message, files=[shown(path) for path in files[:20]])


def shown(path: str) -> str:
    """A path that may hold any bytes, as text."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _own(path: str, checkout: Checkout, commits: tuple[Commit, ...]) -> Own:
    tip = commits[0].commit if commits else ""
    return Own(path=path, tip=tip, commits=commits, get_back=shlex.join(("git", "-C", str(checkout.root), "branch", "rescue", tip)))


def _unusable(message: str) -> RbeesError:
    return RbeesError(ErrorCode.CHECKOUT_UNUSABLE, message)
