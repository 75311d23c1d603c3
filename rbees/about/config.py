"""`rbees config show|path`: the settings in force, where each comes from, and the files that are looked for.

Settings name files that hold secrets and never hold one themselves; a password inside a URL is left out all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec

from rbees.service import folders, settings
from rbees.service.role_settings import HOSTS_TABLE, ROLES
from rbees.terminal.output import aligned, json_option, print_json
from rbees.terminal.text import printable

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]+@")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as `--json` prints it."""

    value: Any
    origin: str


@click.group(name="config", no_args_is_help=True)
def command() -> None:
    """Show the settings and where each comes from."""


@command.command()
@click.option("--role", type=click.Choice(list(ROLES)), help="Only this role's table. Default: all.")
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@json_option
def show(role: str | None, origin: bool, as_json: bool) -> None:
    """Print the settings in force here, as TOML."""
    tables = {name: role_table(name) for name in ([role] if role else ROLES)}
    hosts = {} if role else host_table()
    if as_json:
        print_json({**tables, HOSTS_TABLE: hosts} if hosts else tables)
        return
    for number, line in enumerate(toml_lines(tables, hosts, origin=origin)):
        if number or line:
            click.echo(line)


@command.command()
@json_option
def path(as_json: bool) -> None:
    """Print the settings files that are looked for, the one that wins first."""
    files = [(printable(str(file)), settings.exists(file)) for file in folders.config_files()]
    if as_json:
        print_json([{"path": file, "exists": exists} for file, exists in files])
        return
    for file, exists in files:
        click.echo(file if exists else f"{file} (absent)")


def role_table(role: str) -> dict[str, Setting]:
    """The settings of a role by name. Raises CONFIGURATION as `settings.load`."""
    return _settings(settings.load(role, ROLES[role]))


def host_table() -> dict[str, dict[str, Setting]]:
    """`[hosts]`, what is set of each."""
    return {name: _settings(loaded) for name, loaded in settings.load_hosts().items()}


def toml_lines(tables: dict[str, dict[str, Setting]], hosts: dict[str, dict[str, Setting]], *, origin: bool) -> Iterator[str]:
    """The tables as TOML; what is unset becomes a comment, since TOML has no null."""
    for title, table in {**tables, **{f"{HOSTS_TABLE}.{_key(name)}": host for name, host in hosts.items()}}.items():
        yield ""
        yield f"[{title}]"
        rows = [[_assignment(name, setting.value), f"# {setting.origin}" if origin else ""] for name, setting in table.items()]
        yield from aligned(rows) if rows else ()


def _settings(loaded: settings.Loaded[Any]) -> dict[str, Setting]:
    return {
        name: Setting(value=_shown(getattr(loaded.values, name)), origin=printable(origin))
        for name, origin in loaded.origins.items()
    }


def _key(name: str) -> str:
    """A key of TOML: bare where it may be, else a string, whose form is that of JSON."""
    return name if _BARE_KEY.fullmatch(name) else msgspec.json.encode(printable(name)).decode()


def _assignment(name: str, value: Any) -> str:
    return f"# {name} is unset" if value is None else f"{name} = {msgspec.json.encode(value).decode()}"


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_shown(part) for part in value]
    return printable(_CREDENTIALS.sub("<hidden>@", value)) if isinstance(value, str) else value
