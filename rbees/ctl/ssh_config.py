"""What an ssh_config says of a host: address, user, port, keys, jump hosts. Nothing in it is ever run.

OpenSSH's format (ssh_config(5)), as far as reaching a host needs it: `Host` with patterns, `Match` by name, `Include`. The first
value of a keyword counts, key files add up. `Match exec` never applies, and a `ProxyCommand` for the host is refused aloud, for
both name programs.
"""

from __future__ import annotations

import fnmatch
import getpass
import glob
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError

DEEPEST_INCLUDE: Final = 16
_LINE: Final = re.compile(r"([A-Za-z0-9]+)(?:\s*=\s*|\s+|$)(.*)")
_NAMES: Final = frozenset({"host", "originalhost"})


@dataclass(frozen=True, slots=True)
class SshOptions:
    """What is said of one host; None where nothing is."""

    host_name: str | None = None
    user: str | None = None
    port: int | None = None
    host_key_alias: str | None = None
    identity_files: tuple[str, ...] = ()
    identities_only: bool = False
    proxy_jump: str | None = None
    is_named: bool = False
    """A pattern other than `*` fits the host."""


class _Found:
    """What has been read so far, for one host."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.values: dict[str, str] = {}
        self.identity_files: list[str] = []
        self.is_named = False

    def take(self, keyword: str, words: list[str]) -> None:
        if keyword == "identityfile":
            self.identity_files.append(words[0])
        else:
            # A command is kept as it was written, though it is only ever named.
            self.values.setdefault(keyword, " ".join(words))


def read_ssh_config(path: Path, host: str) -> SshOptions:
    """What the file says of `host`, as it was typed. A file that is not there says nothing.

    Raises:
        RbeesError: CONFIGURATION, where the file cannot be used or wants a program run to reach the host.
    """
    found = _Found(host)
    if path.exists():
        _read(path, found, depth=0, applies=True)
    command = found.values.get("proxycommand", "none")
    if command.lower() != "none" and "proxyjump" not in found.values:
        raise _error(
            f"For {host} {path} has a `ProxyCommand`, which would run a program here; write `ProxyJump`, or `ProxyCommand none` "
            "above it."
        )
    jump = found.values.get("proxyjump", "none")
    host_name = found.values.get("hostname")
    return SshOptions(
        host_name=host_name.replace("%h", host).replace("%%", "%") if host_name else None,
        user=found.values.get("user"),
        port=_port(path, found.values.get("port")),
        host_key_alias=found.values.get("hostkeyalias"),
        identity_files=tuple(found.identity_files),
        identities_only=found.values.get("identitiesonly", "no").lower() == "yes",
        proxy_jump=None if jump.lower() == "none" else jump,
        is_named=found.is_named,
    )


def identity_path(written: str, *, host: str, user: str | None) -> Path:
    """The key file that was written, its tokens filled in."""
    home = str(Path.home())
    values = {"%%": "%", "%d": home, "%h": host, "%r": user or getpass.getuser(), "%u": getpass.getuser()}
    for token, value in values.items():
        written = written.replace(token, value)
    return Path(home + written[1:] if written.startswith("~/") else written)


def _read(path: Path, found: _Found, *, depth: int, applies: bool) -> None:
    outer = applies
    for number, keyword, words in _lines(path):
        if not words:
            raise _error(f"Line {number} of {path} lacks a value.")
        if keyword == "host":
            applies = outer and _fits(words, found.host)
            found.is_named |= applies and _fits([word for word in words if word != "*"], found.host)
        elif keyword == "match":
            applies = outer and _matches(words, found.host)
        elif applies and keyword == "include":
            for included in _included(words):
                if depth >= DEEPEST_INCLUDE:
                    raise _error(f"Line {number} of {path} includes files too deep.")
                _read(included, found, depth=depth + 1, applies=True)
        elif applies:
            found.take(keyword, words)


def _lines(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Number, keyword in lower case, and words of every line that says something."""
    for number, line in enumerate(_text(path).splitlines(), 1):
        said = _LINE.fullmatch(line.strip())
        if said is None:
            continue
        keyword, rest = said.groups()
        try:
            yield number, keyword.lower(), shlex.split(rest)
        except ValueError:
            raise _error(f"Line {number} of {path} has a quotation mark without its other half.") from None


def _text(path: Path) -> str:
    """The file, which nobody else may have written: it says with which keys one goes where."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in {os.getuid(), 0}:
                raise _error(f"{path} belongs to another user, so it is not followed.")
            if status.st_mode & 0o022:
                raise _error(f"{path} may be written by others; run `chmod go-w {path}`.")
            return file.read()
    except OSError as error:
        raise _error(f"{path} cannot be read: {os.strerror(error.errno or 0)}.") from None


def _fits(patterns: list[str], host: str) -> bool:
    """By ssh_config's rule: some pattern fits, and none with `!` before it does."""
    denied = any(fnmatch.fnmatchcase(host, pattern[1:]) for pattern in patterns if pattern.startswith("!"))
    return not denied and any(fnmatch.fnmatchcase(host, pattern) for pattern in patterns if not pattern.startswith("!"))


def _matches(words: list[str], host: str) -> bool:
    if [word.lower() for word in words] == ["all"]:
        return True
    criteria, values = [word.lower() for word in words[::2]], words[1::2]
    if len(criteria) != len(values) or not _NAMES.issuperset(criteria):
        return False
    return all(_fits(value.split(","), host) for value in values)


def _included(words: list[str]) -> Iterator[Path]:
    for word in words:
        pattern = Path(word).expanduser()
        for name in sorted(glob.glob(str(pattern if pattern.is_absolute() else Path.home() / ".ssh" / pattern))):
            yield Path(name)


def _port(path: Path, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise _error(f"`Port` in {path} is no number from 1 to 65535.")
    return int(text)


def _error(message: str) -> RbeesError:
    return RbeesError(ErrorCode.CONFIGURATION, message)
