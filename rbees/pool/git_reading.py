"""PURE: what git's output for programs says, as values. Every reader takes the bytes of a `-z` format and runs nothing."""

from __future__ import annotations

from typing import Final

import msgspec

COMMIT_FORMAT: Final = "%H%x1f%at%x1f%an%x1f%s"
"""For `git log -z --format=…`, read by `read_commits`."""
BRANCH_FORMAT: Final = (
    "%(HEAD)%1f%(refname)%1f%(objectname)%1f%(upstream:short)%1f%(upstream:track,nobracket)%1f%(committerdate:unix)%1f%(symref)"
)
"""For `git for-each-ref --format=…`, read by `read_branches`; a name of a branch holds no line feed."""
_SUBMODULE_MODE: Final = "160000"
_KINDS: Final = {"A": "added", "D": "deleted", "R": "renamed", "C": "copied", "T": "type changed", "M": "modified"}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is not as the commit has it."""

    path: str
    what: str
    """`modified`, `added`, `deleted`, `renamed`, `copied`, `type changed`, `unmerged`, or `untracked`."""


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One commit."""

    commit: str
    at: int
    """Seconds since 1970, of its author's clock."""
    author: str
    subject: str


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """A branch, of this checkout or of a remote."""

    name: str
    commit: str
    at: int
    current: bool
    remote: bool
    upstream: str | None
    track: str
    """`ahead 1, behind 2`, `gone`, or empty."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What is checked out, and what differs from it."""

    commit: str | None
    """None where there is no commit yet."""
    branch: str | None
    """None on a detached head."""
    upstream: str | None
    ahead: int
    behind: int
    changes: tuple[Change, ...]
    """Of tracked files, those of submodules included, and untracked ones."""
    moved_submodules: tuple[str, ...]
    """Those whose checked-out commit is another than the index names."""

    @property
    def tracked(self) -> tuple[Change, ...]:
        """Changes that a reset would undo."""
        return tuple(change for change in self.changes if change.what != "untracked")

    @property
    def untracked(self) -> tuple[str, ...]:
        """Files and folders that git does not know and is not told to ignore."""
        return tuple(change.path for change in self.changes if change.what == "untracked")


def read_status(output: bytes) -> Head:
    """What `git status --porcelain=v2 --branch -z` says (git-status(1), "Porcelain Format Version 2")."""
    headers: dict[str, str] = {}
    changes: list[Change] = []
    moved: list[str] = []
    records = iter(_records(output))
    for record in records:
        kind = record[:1]
        if kind == "#":
            name, _, value = record[2:].partition(" ")
            headers[name] = value
        elif kind == "?":
            changes.append(Change(path=record[2:], what="untracked"))
        elif kind in "12u":
            change, is_moved = _changed(record)
            moved += [change.path] if is_moved else []
            changes += [change] if change.what else []
            if kind == "2":
                next(records)  # The name that it had before stands in a record of its own.
    ahead, behind = _distance(headers.get("branch.ab", ""))
    return Head(
        commit=None if headers.get("branch.oid") == "(initial)" else headers.get("branch.oid"),
        branch=None if headers.get("branch.head") == "(detached)" else headers.get("branch.head"),
        upstream=headers.get("branch.upstream"),
        ahead=ahead,
        behind=behind,
        changes=tuple(changes),
        moved_submodules=tuple(moved),
    )


def read_gitlinks(output: bytes) -> dict[str, str]:
    """Paths of submodules and the commits that the index records for them, from `git ls-files --stage -z`."""
    found = {}
    for record in read_paths(output):
        about, _, path = record.partition("\t")
        mode, commit, _stage = about.split(" ")
        if mode == _SUBMODULE_MODE:
            found[path] = commit
    return found


def read_commits(output: bytes) -> tuple[Commit, ...]:
    """The commits of `git log -z --format=COMMIT_FORMAT`."""
    return tuple(_commit(*record.split("\x1f", 3)) for record in _records(output))


def read_branches(output: bytes) -> tuple[Branch, ...]:
    """The branches of `git for-each-ref --format=BRANCH_FORMAT`; a remote's HEAD, which only points to another, is left out."""
    return tuple(branch for line in _text(output).splitlines() if (branch := _branch(*line.split("\x1f"))) is not None)


def read_paths(output: bytes) -> tuple[str, ...]:
    """The names of a `-z` list, in the form in which they can be given back to the system whatever bytes they hold."""
    return tuple(output.decode("utf-8", "surrogateescape").removesuffix("\0").split("\0")) if output else ()


def _changed(record: str) -> tuple[Change, bool]:
    """A changed entry, with an empty `what` where only a submodule's commit differs; and whether that differs."""
    kind = record[:1]
    fields = record.split(" ", {"1": 8, "2": 9, "u": 10}[kind])
    states, submodule, path = fields[1], fields[2], fields[-1]
    if kind == "u":
        return Change(path=path, what="unmerged"), False
    if submodule.startswith("S"):
        is_moved, has_changes = submodule[1] == "C", submodule[2] == "M"
        # Its recorded commit was staged, or files in it were changed; untracked ones in it are no change of the tree.
        what = "modified" if has_changes or states[0] != "." else ""
        return Change(path=path, what=what), is_moved
    letter = states[0] if states[0] != "." else states[1]
    return Change(path=path, what=_KINDS.get(letter, "modified")), False


def _distance(text: str) -> tuple[int, int]:
    """`+1 -2` as (1, 2)."""
    ahead, _, behind = text.partition(" ")
    return (int(ahead), -int(behind)) if behind else (0, 0)


def _commit(commit: str, at: str, author: str, subject: str) -> Commit:
    return Commit(commit=commit, at=int(at), author=author, subject=subject)


def _branch(head: str, ref: str, commit: str, upstream: str, track: str, at: str, symref: str) -> Branch | None:
    if symref:
        return None
    remote = ref.startswith("refs/remotes/")
    name = ref.removeprefix("refs/remotes/").removeprefix("refs/heads/")
    return Branch(name=name, commit=commit, at=int(at), current=head == "*", remote=remote, upstream=upstream or None, track=track)


def _records(output: bytes) -> list[str]:
    return _text(output).removesuffix("\0").split("\0") if output else []


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")
