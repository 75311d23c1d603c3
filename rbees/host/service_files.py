"""PURE: the files that have systemd or launchd keep a daemon running: systemd.unit(5), launchd.plist(5), sysusers.d(5).

Both daemons tell systemd when they are ready and give it signs of life (`service/notify.py`). A daemon that ends with a code
which says that the same start would end the same way is not started again.
"""

from __future__ import annotations

import plistlib
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from rbees.protocol.errors import ExitCode

Role = Literal["orcd", "poold"]
Scope = Literal["user", "system"]

ROLES: Final[tuple[Role, ...]] = ("poold", "orcd")
SERVICE_USER: Final = "rbees"
SERVICE_HOME: Final = "/var/lib/rbees"
WATCHDOG_S: Final = 60
STOP_S: Final = 45
"""Longer than the usual `drain_timeout_s`."""
SYSUSERS: Final = f'u {SERVICE_USER} - "rbees daemons" {SERVICE_HOME} -\n'
"""Makes the system's user, for systemd-sysusers(8)."""

_ABOUT: Final[dict[Role, str]] = {"orcd": "rbees orchestrator", "poold": "rbees pool daemon"}
_HOPELESS: Final = (ExitCode.USAGE, ExitCode.PERMISSION, ExitCode.CONFIGURATION)


def unit_name(role: Role) -> str:
    """What systemd calls the service of a role."""
    return f"rbees-{role}.service"


def label(role: Role) -> str:
    """What launchd calls it."""
    return f"org.rbees.{role}"


def systemd_unit(
    role: Role, scope: Scope, command: Sequence[str], environ: Mapping[str, str] | None = None, groups: Sequence[str] = ()
) -> str:
    """The unit of a daemon that `command` starts. `groups`: those whose members may use the host's GPUs."""
    variables = dict(environ or {})
    unit = [f"Description={_ABOUT[role]}"]
    if scope == "system":
        unit += ["Wants=network-online.target", "After=network-online.target"]
    service = [
        "Type=notify",
        f"ExecStart={' '.join(_quoted(word) for word in command)}",
        "Restart=on-failure",
        "RestartSec=2",
        f"RestartPreventExitStatus={' '.join(str(code) for code in _HOPELESS)}",
        f"WatchdogSec={WATCHDOG_S}",
        f"TimeoutStopSec={STOP_S}",
        "UMask=0077",
        "NoNewPrivileges=yes",
    ]
    if role == "poold":
        # Its workers go on while it is restarted, and the next one adopts them.
        service += ["KillMode=process"]
    if scope == "system":
        service += [
            f"User={SERVICE_USER}",
            *([f"SupplementaryGroups={' '.join(groups)}"] if groups else []),
            "StateDirectory=rbees",
            "StateDirectoryMode=0700",
            f"RuntimeDirectory=rbees-{role}",
            "RuntimeDirectoryMode=0700",
            # The control sockets by which workers are adopted lie in it.
            "RuntimeDirectoryPreserve=yes",
            "ProtectSystem=full",
            "ProtectHome=read-only",
            "PrivateTmp=yes",
        ]
        variables |= {"XDG_STATE_HOME": "/var/lib", "XDG_RUNTIME_DIR": f"/run/rbees-{role}"}
    service += [f"Environment={_quoted(f'{name}={value}')}" for name, value in sorted(variables.items())]
    target = "multi-user.target" if scope == "system" else "default.target"
    parts = {"Unit": unit, "Service": service, "Install": [f"WantedBy={target}"]}
    return "\n".join(f"[{title}]\n" + "".join(f"{line}\n" for line in lines) for title, lines in parts.items())


def launchd_plist(role: Role, command: Sequence[str], log: str, environ: Mapping[str, str] | None = None) -> str:
    """The property list of an agent or a daemon of launchd; it writes its log to the file `log`."""
    return plistlib.dumps(
        {
            "Label": label(role),
            "ProgramArguments": list(command),
            "EnvironmentVariables": dict(environ or {}),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 10,
            "ExitTimeOut": STOP_S,
            # Workers go on while the pool daemon is restarted.
            "AbandonProcessGroup": role == "poold",
            "ProcessType": "Interactive",
            "Umask": 0o077,
            "StandardErrorPath": log,
            "StandardOutPath": log,
        }
    ).decode()


def _quoted(word: str) -> str:
    """A word as systemd.syntax(7) reads it back: no specifier and no variable is put in its place."""
    plain = word.replace("%", "%%").replace("$", "$$")
    if plain and not any(character in plain for character in " \t\"'\\;"):
        return plain
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
