"""Where files live on this machine: state, sockets, settings. Folders of rbees are private (0700) or refused.

`RBEES_HOME` names one folder that holds all three, which is how `rbees up` and the tests keep apart from a configured service.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError

SYSTEM_CONFIG: Final = Path("/etc/rbees/config.toml")
PROJECT_CONFIG: Final = "rbees.toml"
LONGEST_RUNTIME_PATH: Final = 56
"""In bytes. A socket's whole path must stay under 104 (macOS), and `/workers/worker-<26 characters>.sock` follows this folder."""
_ELSEWHERE: Final = "see that this user may write there, or name another by `RBEES_HOME` or in the settings"


def home_folder() -> Path | None:
    """The folder that `RBEES_HOME` names, or None."""
    named = os.environ.get("RBEES_HOME")
    return absolute(named) if named else None


def absolute(named: str | Path) -> Path:
    """The place that somebody wrote: `~` is a home folder, and what is relative lies in the current folder.

    Raises:
        RbeesError: CONFIGURATION, where there is no such user or the current folder is gone.
    """
    try:
        return Path(named).expanduser().absolute()
    except RuntimeError:
        problem = f"The path {named} begins with the home folder of a user whom this machine does not know; write it in full."
    except FileNotFoundError:
        problem = f"The path {named} lies in the current folder, which was deleted; change to another one."
    raise RbeesError(ErrorCode.CONFIGURATION, problem)


def state_path(role: str, configured: str | None = None) -> Path:
    """Where the folder of a role's durable state is, whether it has been made or not. Raises RbeesError CONFIGURATION."""
    if configured:
        return absolute(configured)
    home = home_folder()
    if home is not None:
        return home / role
    import platformdirs

    return platformdirs.user_state_path("rbees") / role


def state_folder(role: str, configured: str | None = None) -> Path:
    """The private folder of a role's durable state; made if it is missing.

    Raises:
        RbeesError: CONFIGURATION, where it cannot be made or others may enter it.
    """
    path = state_path(role, configured)
    if not configured:
        make_private_folder(path.parent)
    return make_private_folder(path)


def runtime_folder() -> Path:
    """The private folder of sockets and of the file that tells where `rbees up` listens; made if it is missing.

    It is `$RBEES_HOME/run`, else `$XDG_RUNTIME_DIR/rbees`, else `/tmp/rbees-<uid>`. Where the first is too long for the path
    of a socket, a folder under the last stands in for it, the same one for every process with the same home.

    Raises:
        RbeesError: CONFIGURATION, where it belongs to somebody else or others may enter it.
    """
    home = home_folder()
    if home is None:
        shared = os.environ.get("XDG_RUNTIME_DIR")
        return make_private_folder(Path(shared) / "rbees" if shared else _temporary_folder())
    if len(os.fsencode(home / "run")) <= LONGEST_RUNTIME_PATH:
        make_private_folder(home)
        return make_private_folder(home / "run")
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    return make_private_folder(make_private_folder(_temporary_folder()) / digest)


def config_files() -> tuple[Path, ...]:
    """The settings files to look for, the one that wins first: project, user, system. They need not exist.

    Under `RBEES_HOME` the system's file is left out. In a folder that was deleted there is no project.
    """
    try:
        project: tuple[Path, ...] = (Path.cwd() / PROJECT_CONFIG,)
    except FileNotFoundError:
        project = ()
    system = () if home_folder() is not None else (SYSTEM_CONFIG,)
    return (*project, user_config_folder() / "config.toml", *system)


def user_config_folder() -> Path:
    """The folder of the user's settings file and of what else the user writes for rbees. It need not exist."""
    home = home_folder()
    if home is not None:
        return home
    import platformdirs

    return platformdirs.user_config_path("rbees")


def make_private_folder(path: Path) -> Path:
    """`path`, as a folder that only this user can enter. An existing one is checked, never changed.

    Raises:
        RbeesError: CONFIGURATION, with the command that mends it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A second process may make it first; whoever made it, it is checked.
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        return _checked(path)
    except OSError as error:
        raise _unusable(path, os.strerror(error.errno or 0)) from None


def _checked(path: Path) -> Path:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        status = _target_of_own_link(path, status)
    if not stat.S_ISDIR(status.st_mode):
        raise _unusable(path, "it is not a folder")
    if status.st_uid != os.getuid():
        raise _unusable(path, "it belongs to another user")
    if status.st_mode & 0o077:
        raise _unusable(path, "others may enter it", f"run `chmod 700 {path}`")
    return path


def _target_of_own_link(path: Path, link: os.stat_result) -> os.stat_result:
    if link.st_uid != os.getuid():
        raise _unusable(path, "it is a link that another user made")
    try:
        return path.stat()
    except OSError:
        raise _unusable(path, "it is a link that leads nowhere") from None


def _temporary_folder() -> Path:
    return Path(f"/tmp/rbees-{os.getuid()}")  # noqa: S108  (owner and mode are checked)


def _unusable(path: Path, reason: str, advice: str = _ELSEWHERE) -> RbeesError:
    return RbeesError(ErrorCode.CONFIGURATION, f"The folder {path} cannot be used: {reason}; {advice}.", path=str(path))
