"""`rbees pool dev doctor|setup`: looks whether this host can do its part, and prepares it for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rbees.terminal.asking import ask
from rbees.terminal.notes import notes
from rbees.terminal.output import json_option, print_json
from rbees.terminal.text import printable

if TYPE_CHECKING:
    from rbees.host.findings import Finding
    from rbees.host.service_files import Role, Scope


_roles = click.option(
    "--role",
    "roles",
    type=click.Choice(["poold", "orcd"]),
    multiple=True,
    default=("poold",),
    show_default=True,
    help="A daemon that this host is to run; may come twice.",
)


@click.group()
def dev() -> None:
    """Set this host up, and look whether it is well."""


@dev.command()
@_roles
@click.option("--orcd-url", "--orcd", metavar="URL", help="The orchestrator to reach.  [default: that of the settings]")
@click.option("--token-file", type=click.Path(), help="File (mode 0600) with the cluster token.")
@json_option
def doctor(*, roles: tuple[str, ...], orcd_url: str | None, token_file: str | None, as_json: bool) -> int:
    """Examine this host: Python, compiler, devices, disk, ports, clock, orchestrator, versions.

    Every device is tried with a small model in a process of its own. Nothing is changed. Exits 1 if something failed; warnings do
    not count.
    """
    from rbees.host.findings import examination
    from rbees.pool.dev_doctor import examine

    found: list[Finding] = []
    with notes(silent=as_json) as said:
        for finding in examine(roles, orcd_url, token_file, said.note):
            found.append(finding)
            if not as_json:
                said.clear()
                click.echo(f"{finding.verdict:<8} {finding.check:<9} {printable(finding.message)}")
    result = examination(found)
    if as_json:
        print_json(result)
    return 0 if result.healthy else 1


@dev.command()
@_roles
@click.option(
    "--service",
    type=click.Choice(["user", "system", "none"]),
    help="Run as a service of this user, of the machine, or not.  [default: system for root, else user]",
)
@click.option(
    "--shell", "shells", multiple=True, type=click.Choice(["bash", "zsh", "fish"]), help="Completion.  [default: all that are here]"
)
@click.option("--llama/--no-llama", default=None, help="Install llama.cpp, built for this host.  [default: where poold is to run]")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def setup(
    *,
    roles: tuple[Role, ...],
    service: str | None,
    shells: tuple[str, ...],
    llama: bool | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Prepare this host: folders, llama.cpp, services, completion. Says first what it will do, and asks.

    A second run changes nothing. `--service none` leaves it to you to start daemons.
    """
    import os

    from rbees.pool.dev_setup import Wish, found_shells, places, steps

    scope: Scope = "system" if service == "system" or (service != "user" and os.geteuid() == 0) else "user"
    wish = Wish(
        roles=tuple(dict.fromkeys(roles)),
        scope=scope,
        service=service != "none",
        shells=tuple(dict.fromkeys(shells)) or found_shells(),
        llama="poold" in roles if llama is None else llama,
    )
    planned = list(steps(wish, places(scope)))
    waiting = [step for step in planned if step.act]
    if not as_json:
        for step in planned:
            click.echo(f"{step.view().state:<8} {step.name:<10} {printable(step.about)}")
    if waiting and not dry_run:
        if not yes:
            ask(f"Do what is to do ({len(waiting)} {'step' if len(waiting) == 1 else 'steps'})?")
        for step in waiting:
            assert step.act is not None
            step.act()
            if not as_json:
                click.echo(f"{'made':<8} {step.name:<10} {printable(step.about)}")
    if as_json:
        print_json({"steps": [step.view(acted=not dry_run) for step in planned]})
    elif not waiting:
        click.echo("Nothing is to do.", err=True)
