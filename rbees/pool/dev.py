"""`rbees pool dev doctor|setup`: looks whether this host can do its part, and prepares it for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rbees.terminal.notes import notes
from rbees.terminal.output import json_option, print_json
from rbees.terminal.text import printable

if TYPE_CHECKING:
    from rbees.host.findings import Finding


@click.group()
def dev() -> None:
    """Set this host up, and look whether it is well."""


@dev.command()
@click.option(
    "--role",
    "roles",
    type=click.Choice(["poold", "orcd"]),
    multiple=True,
    default=("poold",),
    show_default="poold",
    help="A daemon that this host is to run; may come twice.",
)
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
