"""`llorch pool COMMAND … --host NAME`: every command of `rbees-pool`, on other hosts. Knows none of them by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import click

from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.terminal.text import printable

Via = Literal["http", "ssh"]


def with_host_options(command: Any) -> Any:
    """The options by which a command names hosts and the way to them."""
    for option in reversed(
        (
            click.option("--host", "hosts", multiple=True, metavar="NAME", help="Host to run it on; repeatable, or with commas."),
            click.option("--all", "every", is_flag=True, help="Run it on every `[hosts.NAME]` of the settings."),
            click.option(
                "--via", type=click.Choice(["http", "ssh"]), help="Way to the host.  [default: http if its poold answers]"
            ),
        )
    ):
        command = option(command)
    return command


class PoolCommands(click.Group):
    """The commands of `llorch pool`; a name that is none of them is one of `rbees-pool`, for the hosts that are named."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group`."""
        return super().get_command(ctx, cmd_name) or (None if cmd_name.startswith("-") else _forward(cmd_name))


class _Forward(click.Command):
    """Takes its own options out of the words, wherever they stand before a `--`, and leaves all others in their order."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command`."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta["behind"] = tuple(args[end:])
        return super().parse_args(ctx, args[:end])


def _forward(name: str) -> click.Command:
    @click.command(
        name,
        cls=_Forward,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True},
    )
    @with_host_options
    @click.option("--token-file", type=click.Path(), help="File (mode 0600) with the token that the hosts' daemons ask for.")
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def forward(
        context: click.Context,
        *,
        hosts: tuple[str, ...],
        every: bool,
        via: Via | None,
        token_file: str | None,
        words: tuple[str, ...],
    ) -> int:
        return run(hosts, every, via, token_file, (name, *words), tuple(context.meta["behind"]))

    return forward


def run(
    hosts: tuple[str, ...],
    every: bool,
    via: Via | None,
    token_file: str | None,
    words: tuple[str, ...],
    behind: tuple[str, ...] = (),
) -> int:
    """Run a command of `rbees-pool` on the hosts; the exit code. `behind` is what stands behind a `--`, which comes first in it."""
    from rbees.ctl import over_http

    with _ended_by_interrupt():
        if "--help" in words:
            return asyncio.run(over_http.run_here((*words, *behind)))
        if not hosts and not every:
            raise asyncio.run(_no_host(words))
        return asyncio.run(reach_hosts(hosts, every, via, (*words, *behind), token_file))


async def reach_hosts(
    hosts: tuple[str, ...],
    every: bool,
    via: Via | None,
    words: tuple[str, ...],
    token_file: str | None = None,
    *,
    watch_s: float | None = None,
) -> int:
    """Run a command of `rbees-pool` on the hosts; the exit code. `watch_s`: it is `status`, again and again. Raises RbeesError."""
    from rbees.ctl.hosts import chosen_names, find_hosts
    from rbees.ctl.reach import Errand, reach
    from rbees.service import settings
    from rbees.service.role_settings import CtlSettings

    chosen = settings.load("ctl", CtlSettings).values
    found = find_hosts(chosen_names(hosts, every=every), chosen)
    return await reach(found, Errand(words, via, token_file, watch_s), chosen)


async def _no_host(words: tuple[str, ...]) -> Exception:
    from rbees.ctl import over_http

    forms = await over_http.read_forms()
    groups = sorted({form.partition(" ")[0] for form in forms})
    if words[0] not in groups:
        return click.exceptions.NoSuchCommand(words[0], possibilities=[*groups, "list", "register", "drain", "resume", "remove"])
    message = f"Name the hosts, as in `llorch pool {printable(words[0])} … --host mac`, or all by `--all`; here it is `rbees-pool`."
    return RbeesError(ErrorCode.INVALID_REQUEST, message, field="host")


@contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """The second Ctrl-C cancels what still waits; to the program that is the same as one that nobody handled."""
    try:
        yield
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except BrokenPipeError:
        # What is still buffered is dropped where the program ends; click would make an ordinary failure of this.
        raise SystemExit(ExitCode.PIPE_CLOSED) from None
