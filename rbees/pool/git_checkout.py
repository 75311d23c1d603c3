"""One git checkout and its submodules: runs git, the only file that does, and knows what it would lose.

Git gets argument lists, a short environment and no hooks. Which remotes it may use is for the settings: a protocol such as `ext`,
which a hostile `.gitmodules` could name, runs any command. A folder is a checkout by itself or not at all: the search never goes
upwards, where an installed rbees would find the checkout of whatever project its environment lies in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import rbees
from rbees.pool.git_reading import (
    BRANCH_FORMAT,
    COMMIT_FORMAT,
    Branch,
    Commit,
    Head,
    read_branches,
    read_commits,
    read_gitlinks,
    read_paths,
    read_status,
)
from rbees.pool.git_trouble import git_failure, no_checkout, without_secret
from rbees.protocol.errors import ErrorCode, RbeesError

NETWORK_LIMIT_S: Final = 900.0
LOCAL_LIMIT_S: Final = 300.0
_PATHS_AT_ONCE: Final = 200
_PROTOCOLS: Final = ("https", "ssh")
_PASSED_ON: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TERM", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK"),
        *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    }
)
"""Of the environment, what git gets: where the user's own settings lie, and the way to the network."""
_RESTRAINTS: Final = (
    *("core.fsmonitor=false", "core.hooksPath=/dev/null", "safe.bareRepository=explicit", "submodule.recurse=false"),
    *("advice.detachedHead=false", "http.lowSpeedLimit=1", "http.lowSpeedTime=60", "log.showSignature=false"),
)
"""Settings that stand over those of the checkout: nothing in it is run, and nothing waits for ever."""


@dataclass(frozen=True, slots=True)
class Submodule:
    """A submodule of a checkout, at any depth."""

    path: str
    """From the root of the outermost checkout."""
    recorded: str
    """The commit that the checkout around it names."""
    checkout: Checkout | None
    """None where it was never fetched."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A working tree. Every method raises `RbeesError`: CHECKOUT_UNUSABLE, CHECKOUT_CONFLICT, REMOTE_UNREACHABLE, FORBIDDEN."""

    root: Path
    protocols: tuple[str, ...] = ()
    """Those that git may use beside https and ssh."""

    # ---- looking --------------------------------------------------------------------------------------------------------

    def head(self) -> Head:
        """What is checked out, and what was changed."""
        return read_status(self.git("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal"))

    def submodules(self, prefix: str = "") -> Iterator[Submodule]:
        """Every submodule, each before those that it holds itself."""
        for path, recorded in read_gitlinks(self.git("ls-files", "--stage", "-z")).items():
            folder = self.root / path
            inner = Checkout(folder, self.protocols) if os.path.lexists(folder / ".git") else None
            yield Submodule(prefix + path, recorded, inner)
            if inner is not None:
                yield from inner.submodules(f"{prefix}{path}/")

    def branches(self) -> tuple[Branch, ...]:
        """The branches of this checkout and, as last fetched, of its remotes; the newest first."""
        return read_branches(
            self.git("for-each-ref", "--sort=-committerdate", f"--format={BRANCH_FORMAT}", "refs/heads", "refs/remotes")
        )

    def commits(self, *revisions: str, limit: int | None = None) -> tuple[Commit, ...]:
        """The commits that git-log(1) shows for `revisions`, the newest first."""
        bound = () if limit is None else (f"--max-count={limit}",)
        return read_commits(self.git("log", "-z", f"--format={COMMIT_FORMAT}", *bound, "--end-of-options", *revisions, "--"))

    def commit_of(self, revision: str) -> str | None:
        """The id of a commit; None where there is none of that name."""
        try:
            return self.git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
        except RbeesError:
            return None

    def own_commits(self, revision: str, *known: str) -> tuple[Commit, ...]:
        """The commits behind `revision` that no remote has, as far as was fetched, nor any commit of `known`."""
        there = [commit for commit in known if self.commit_of(commit)]
        output = self.git("log", "-z", f"--format={COMMIT_FORMAT}", revision, "--not", "--remotes", *there, "--")
        return read_commits(output)

    def remote_of(self, branch: str) -> str:
        """The remote that `branch` follows: `origin`, or `.` where it follows a branch beside it."""
        return self._setting(f"branch.{branch}.remote") or "."

    def untracked(self) -> tuple[str, ...]:
        """Files, and folders that end in `/`, that git neither knows nor is told to ignore; not other checkouts."""
        found = read_paths(self.git("ls-files", "--others", "--exclude-standard", "--directory", "--no-empty-directory", "-z"))
        return tuple(path for path in found if not os.path.lexists(self.root / path / ".git"))

    def in_the_way_of(self, commit: str) -> tuple[str, ...]:
        """Files of nobody, ignored ones included, that checking `commit` out would overwrite."""
        tracked = {path.casefold() for path in read_paths(self.git("ls-files", "-z"))}
        arriving = read_paths(self.git("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit))
        found = (self._standing(path, tracked) for path in arriving if path.casefold() not in tracked)
        return tuple(sorted({path for path in found if path is not None}))

    # ---- changing -------------------------------------------------------------------------------------------------------

    def fetch(self, remote: str) -> None:
        """Learn what the remote has; branches that are gone there are forgotten."""
        self.git("fetch", "--quiet", "--prune", "--no-recurse-submodules", "--", remote, remote=self.url_of(remote))

    def fast_forward(self, commit: str) -> None:
        """Go on to a commit that stands behind the present one. Git itself refuses to overwrite what was changed."""
        self.git("merge", "--quiet", "--ff-only", "--no-overwrite-ignore", commit)

    def reset(self, commit: str) -> None:
        """Make branch and tracked files those of `commit`, whatever they were."""
        self.git("reset", "--quiet", "--hard", commit)

    def set_aside(self, about: str) -> str | None:
        """Keep the changes of tracked files as the newest entry of the stash, without undoing them; its id, None if none are."""
        stash = self.git("stash", "create", about).decode().strip()
        if not stash:
            return None
        self.git("stash", "store", "--quiet", f"--message={about}", stash)
        return stash

    def update_submodules(self, *, force: bool = False) -> None:
        """Fetch submodules and check out the commits that are recorded for them, at every depth; with `force` over changes."""
        self.git("submodule", "--quiet", "sync", "--recursive")
        forced = ("--force",) if force else ()
        # `--checkout` stands over `update = !command`, which a configuration could hold.
        self.git("submodule", "--quiet", "update", "--init", "--recursive", "--checkout", *forced, remote="a submodule")

    def remove(self, paths: Sequence[str]) -> None:
        """Delete untracked files and folders."""
        for first in range(0, len(paths), _PATHS_AT_ONCE):
            self.git("clean", "--quiet", "--force", "-d", "--", *paths[first : first + _PATHS_AT_ONCE])

    # ---- git ------------------------------------------------------------------------------------------------------------

    def git(self, *words: str, remote: str | None = None) -> bytes:
        """What a git command writes. `remote` says, for one that uses the network, whom it asks."""
        restraints = (word for setting in _RESTRAINTS for word in ("-c", setting))
        program = ("git", "--no-pager", "--literal-pathspecs", "--no-optional-locks", *restraints)
        if self.root.parent == self.root:
            raise no_checkout(str(self.root))
        try:
            done = subprocess.run(
                (*program, *words),
                cwd=self.root,
                env=self._environment(os.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=LOCAL_LIMIT_S if remote is None else NETWORK_LIMIT_S,
                check=False,
            )
        except FileNotFoundError:
            raise self._nothing_there() from None
        except (NotADirectoryError, PermissionError):
            raise no_checkout(str(self.root)) from None
        except subprocess.TimeoutExpired:
            raise self._took_too_long(remote) from None
        if done.returncode:
            stderr = done.stderr.decode("utf-8", "replace")
            raise git_failure(words, done.returncode, stderr, str(self.root), remote)
        return done.stdout

    def url_of(self, remote: str) -> str:
        """How to name a remote to people: its url, without a password in it."""
        return without_secret(self._setting(f"remote.{remote}.url") or remote)

    def _setting(self, key: str) -> str | None:
        try:
            return self.git("config", "--get", key).decode("utf-8", "replace").strip() or None
        except RbeesError:
            return None

    def _standing(self, path: str, tracked: set[str]) -> str | None:
        """What stands where the file `path` of a commit is to go: something there, or a file in the place of one of its folders."""
        for parent in [path, *(str(above) for above in Path(path).parents)][:-1]:
            here = self.root / parent
            is_in_place = os.path.lexists(here) and (parent == path or here.is_symlink() or not here.is_dir())
            if is_in_place and parent.casefold() not in tracked:
                return parent
        return None

    def _environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        passed_on = {name: value for name, value in environ.items() if name in _PASSED_ON}
        return {
            **passed_on,
            # What git says is looked at, so it must not be translated.
            "LC_ALL": "C",
            "GIT_ALLOW_PROTOCOL": ":".join((*_PROTOCOLS, *self.protocols)),
            "GIT_CEILING_DIRECTORIES": str(self.root.parent),
            # Who is at a terminal may be asked for a password; anybody else would wait for ever.
            "GIT_TERMINAL_PROMPT": "1" if sys.stdin.isatty() else "0",
        }

    def _nothing_there(self) -> RbeesError:
        if not self.root.is_dir():
            return no_checkout(str(self.root))
        message = "git is not installed here; install it (Debian, Ubuntu: apt-get install git; macOS: xcode-select --install)."
        return RbeesError(ErrorCode.CHECKOUT_UNUSABLE, message)

    def _took_too_long(self, remote: str | None) -> RbeesError:
        if remote is None:
            return RbeesError(ErrorCode.CHECKOUT_UNUSABLE, f"git does not come to an end in {self.root}; is its disk slow or gone?")
        message = f"The git remote {remote} did not come to an end in {NETWORK_LIMIT_S / 60:.0f} minutes; is the network up?"
        return RbeesError(ErrorCode.REMOTE_UNREACHABLE, message)


def find_checkout(named: str | None) -> Checkout:
    """The checkout that a flag names, else the setting, else the one that this rbees runs from.

    Raises:
        RbeesError: CHECKOUT_UNUSABLE, where that is none; CONFIGURATION, for settings that cannot be used.
    """
    from rbees.service import settings
    from rbees.service.folders import absolute
    from rbees.service.role_settings import PoolSettings

    own = settings.load("pool", PoolSettings, {"checkout": named}).values
    root = absolute(own.checkout) if own.checkout else running_from()
    found = Checkout(root.resolve(), own.git_protocols)
    if found.git("rev-parse", "--is-inside-work-tree").strip() != b"true":
        raise no_checkout(str(found.root))
    return found


def running_from() -> Path:
    """The folder around the package that runs now; in an installation it is no checkout."""
    return Path(rbees.__file__).resolve().parents[1]
