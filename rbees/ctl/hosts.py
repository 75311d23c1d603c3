"""What `--host NAME` means: the hosts table of the settings, then ssh_config, then the name in the default domain."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rbees.ctl.ssh_config import SshOptions, identity_path, read_ssh_config
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import settings
from rbees.service.folders import absolute
from rbees.service.role_settings import CtlSettings, HostSettings

POOLD_PORT: Final = 9200
SSH_PORT: Final = 22
MOST_JUMPS: Final = 8
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
"""A host's name. It never begins with `-`, so that nothing takes it for an option."""
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")


@dataclass(frozen=True, slots=True)
class SshTarget:
    """Where SSH goes, as whom, and through which other hosts, the first one first."""

    host: str
    port: int = SSH_PORT
    user: str | None = None
    host_key_alias: str | None = None
    identity_files: tuple[Path, ...] = ()
    identities_only: bool = False
    jumps: tuple[SshTarget, ...] = ()

    @property
    def address(self) -> str:
        """Host and port, for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == SSH_PORT else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Host:
    """A host by the name that was typed, and the two ways to it."""

    name: str
    ssh: SshTarget
    url: str | None
    """None where a guess would be of no use: the host lies behind others."""
    is_url_known: bool
    """The settings name the url, so a daemon is expected there."""
    token_file: str | None = None
    tls_ca_file: str | None = None
    program: str = "rbees-pool"


def chosen_names(named: Sequence[str], *, every: bool) -> tuple[str, ...]:
    """The names after `--host`, each of which may be several with commas between, or all of the hosts table; each once.

    Raises:
        RbeesError: INVALID_REQUEST, where that names no host; CONFIGURATION, for settings that cannot be used.
    """
    if every:
        if named:
            raise RbeesError(ErrorCode.INVALID_REQUEST, "`--all` means every host; leave `--host` out, or `--all`.", field="host")
        known = tuple(sorted(settings.load_hosts()))
        if not known:
            raise RbeesError(ErrorCode.INVALID_REQUEST, "`--all` means every `[hosts.NAME]` of the settings, and there is none.")
        return known
    names = [name.strip() for text in named for name in text.split(",")]
    for name in names:
        if not _is_host(name):
            raise RbeesError(ErrorCode.INVALID_REQUEST, "`--host` takes names of hosts, with commas between them.", field="host")
    return tuple(dict.fromkeys(names))


def find_hosts(names: Sequence[str], chosen: CtlSettings) -> tuple[Host, ...]:
    """Each name as a host. Raises RbeesError CONFIGURATION."""
    table = settings.load_hosts()
    config = absolute(chosen.ssh_config_file)
    return tuple(_host(name, table[name].values if name in table else None, chosen, config) for name in names)


def _host(name: str, listed: HostSettings | None, chosen: CtlSettings, config: Path) -> Host:
    own = listed or HostSettings()
    if own.ssh is not None:
        ssh = _target(own.ssh, config, where=f"`ssh` in `[hosts.{name}]`")
    elif own.url is not None and not read_ssh_config(config, name).is_named:
        # The settings say where the host is; its name alone would only be a guess.
        ssh = replace(_target(name, config, where="`--host`"), host=_host_of(own.url))
    else:
        ssh = _in_domain(_target(name, config, where="`--host`"), name, chosen.default_domain)
    guess = None if ssh.jumps else f"http://{f'[{ssh.host}]' if ':' in ssh.host else ssh.host}:{POOLD_PORT}"
    return Host(
        name=name,
        ssh=ssh,
        url=own.url or guess,
        is_url_known=own.url is not None,
        token_file=own.token_file,
        tls_ca_file=own.tls_ca_file or chosen.tls_ca_file,
        program=own.program,
    )


def _host_of(url: str) -> str:
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname
    if host is None:
        raise RbeesError(ErrorCode.CONFIGURATION, "The url of a daemon must look like `http://host:port`.", url=url)
    return host


def _in_domain(target: SshTarget, name: str, domain: str) -> SshTarget:
    """A bare name that nobody has given an address lies in the default domain."""
    is_bare = target.host == name and "." not in name and name != "localhost" and not _is_address(name)
    return replace(target, host=f"{name}.{domain}") if is_bare and domain else target


def _is_host(text: str) -> bool:
    return _NAME.fullmatch(text) is not None or _is_address(text)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _target(written: str, config: Path, *, where: str, seen: tuple[str, ...] = ()) -> SshTarget:
    """`[user@]host[:port]` with what ssh_config adds; what is written goes before that."""
    user, host, port = _split(written, where)
    options = read_ssh_config(config, host)
    address = options.host_name or host
    user = user or options.user
    if (user is not None and not _USER.fullmatch(user)) or not _is_host(address):
        raise RbeesError(ErrorCode.CONFIGURATION, f"What {where} and {config} say of {host} is no user or host name.")
    return SshTarget(
        host=address,
        port=port or options.port or SSH_PORT,
        user=user,
        host_key_alias=options.host_key_alias,
        identity_files=tuple(identity_path(one, host=address, user=user) for one in options.identity_files),
        identities_only=options.identities_only,
        jumps=_jumps(options, config, (*seen, host)),
    )


def _jumps(options: SshOptions, config: Path, seen: tuple[str, ...]) -> tuple[SshTarget, ...]:
    """The hosts on the way. Of several that are written only the first one's own jumps count, as with OpenSSH."""
    if options.proxy_jump is None:
        return ()
    if len(seen) > MOST_JUMPS:
        raise RbeesError(ErrorCode.CONFIGURATION, f"The jump hosts in {config} lead in a circle: {', '.join(seen)}.")
    written = [part.strip() for part in options.proxy_jump.split(",")]
    targets = [_target(part, config, where=f"`ProxyJump` in {config}", seen=seen) for part in written]
    first, *others = targets
    return (*first.jumps, replace(first, jumps=()), *(replace(other, jumps=()) for other in others))


def _split(written: str, where: str) -> tuple[str | None, str, int | None]:
    text = written.removeprefix("ssh://").rstrip("/")
    user, at, place = text.rpartition("@")
    host, colon, port = place.rpartition(":")
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        colon, port = rest[:1], rest[1:]
    elif not colon or ":" in host:
        host, colon, port = place, "", ""
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not _is_host(host) or (at and not _USER.fullmatch(user)) or (colon and not is_port):
        raise RbeesError(ErrorCode.CONFIGURATION, f"{where} must look like `[user@]host[:port]`; it says {written!r}.")
    return user or None, host, int(port) if colon else None
