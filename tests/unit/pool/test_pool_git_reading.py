"""What is read from git's output, and what its failures are called."""

from __future__ import annotations

import pytest

from rbees.pool.git_reading import Change, read_branches, read_commits, read_gitlinks, read_status
from rbees.pool.git_trouble import git_failure, without_secret
from rbees.protocol.errors import ErrorCode

ID = "a" * 40
HEADERS = [f"# branch.oid {ID}", "# branch.head main", "# branch.upstream origin/main", "# branch.ab +1 -2"]


def records(*lines: str) -> bytes:
    return b"".join(line.encode() + b"\0" for line in lines)


def test_a_status_with_every_kind_of_entry() -> None:
    head = read_status(
        records(
            *HEADERS,
            f"1 .M N... 100644 100644 100644 {ID} {ID} with blanks.txt",
            f"1 A. N... 000000 100644 100644 {ID} {ID} new.txt",
            f"2 R. N... 100644 100644 100644 {ID} {ID} R100 now.txt",
            "? before.txt",
            f"1 .M S..U 160000 160000 160000 {ID} {ID} sub/untracked",
            f"1 .M S.M. 160000 160000 160000 {ID} {ID} sub/changed",
            f"1 .M SC.. 160000 160000 160000 {ID} {ID} sub/moved",
            f"u UU N... 100644 100644 100644 100644 {ID} {ID} {ID} both.txt",
            "? loose/",
        )
    )
    assert (head.commit, head.branch, head.upstream, head.ahead, head.behind) == (ID, "main", "origin/main", 1, 2)
    assert head.changes == (
        Change(path="with blanks.txt", what="modified"),
        Change(path="new.txt", what="added"),
        Change(path="now.txt", what="renamed"),
        Change(path="sub/changed", what="modified"),
        Change(path="both.txt", what="unmerged"),
        Change(path="loose/", what="untracked"),
    )
    assert head.moved_submodules == ("sub/moved",)
    assert head.untracked == ("loose/",)


def test_a_checkout_without_commit_branch_or_upstream() -> None:
    assert read_status(records("# branch.oid (initial)", "# branch.head main")).commit is None
    detached = read_status(records(f"# branch.oid {ID}", "# branch.head (detached)"))
    assert (detached.branch, detached.upstream, detached.ahead) == (None, None, 0)


def test_lists() -> None:
    assert read_gitlinks(records(f"100644 {ID} 0\tfile", f"160000 {ID} 0\tsub/path")) == {"sub/path": ID}
    assert read_gitlinks(b"") == {}
    found = read_commits(records(f"{ID}\x1f17\x1fSomebody\x1fa subject \x1f with odd bytes"))
    assert [(commit.at, commit.author, commit.subject) for commit in found] == [(17, "Somebody", "a subject \x1f with odd bytes")]
    lines = [f"*\x1frefs/heads/main\x1f{ID}\x1forigin/main\x1fahead 1\x1f9\x1f"]
    lines += [f" \x1frefs/remotes/origin/HEAD\x1f{ID}\x1f\x1f\x1f9\x1frefs/remotes/origin/main"]
    branches = read_branches("\n".join(lines).encode() + b"\n")
    assert [(branch.name, branch.current, branch.track) for branch in branches] == [("main", True, "ahead 1")]


@pytest.mark.parametrize(
    ("stderr", "code", "said"),
    [
        ("fatal: unable to access 'https://x/': Could not resolve host: x", ErrorCode.REMOTE_UNREACHABLE, "name is unknown"),
        ("git@x: Permission denied (publickey).", ErrorCode.REMOTE_UNREACHABLE, "SSH keys"),
        ("fatal: transport 'ext' not allowed", ErrorCode.FORBIDDEN, "protocol ext"),
        ("fatal: transport 'file' not allowed", ErrorCode.FORBIDDEN, 'git_protocols = ["file"]'),
        ("fatal: detected dubious ownership in repository", ErrorCode.CHECKOUT_UNUSABLE, "another user"),
        ("fatal: Unable to create '/x/.git/index.lock': File exists.", ErrorCode.CHECKOUT_CONFLICT, "Another git command"),
        ("fatal: cannot use bare repository '/x'", ErrorCode.CHECKOUT_UNUSABLE, "no git checkout"),
        ("error: No space left on device", ErrorCode.STORAGE_FULL, "full"),
        ("something new", ErrorCode.REMOTE_UNREACHABLE, "`git fetch` failed"),
    ],
)
def test_failures_in_our_own_words(stderr: str, code: ErrorCode, said: str) -> None:
    error = git_failure(("fetch", "--quiet"), 128, stderr, "/x", "https://me:secret@host/r.git")
    assert error.code is code
    assert said in error.message
    assert "secret" not in str(error)
    assert stderr not in error.message


def test_a_password_is_left_out_of_a_url() -> None:
    assert without_secret("https://me:word@host/r.git") == "https://host/r.git"
    assert without_secret("git@host:r.git") == "git@host:r.git"
