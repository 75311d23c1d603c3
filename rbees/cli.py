"""The personas: which role this process plays, told by the name it was called by or by the first word.

Exactly one role is imported, and only when it is about to act: `rbees --help` must not pay for what no help text needs.
How a role's own commands look is that role's business; what an error looks like and which exit code it gives is decided here.
"""

from __future__ import annotations

import copy
import errno
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from rbees.personas import CALLED_NAMES, PERSONAS

_INTERRUPTED: Final = 130
_PIPE_CLOSED: Final = 141
_UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What an output that cannot take more answers; everything else that the system refuses is translated where it happens."""


@dataclass
class Invocation:
    """What the options before the first subcommand say about this run."""

    debug: bool = False
    as_json: bool = False


class Personas(click.Group):
    """`rbees` itself: knows the names and summaries of its subcommands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """See `click.Group`; in the order of the table, which puts what a newcomer types first."""
        return list(PERSONAS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """See `click.Group`; this is the one place that imports a role."""
        return load(cmd_name) if cmd_name in PERSONAS else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group`; suggests among the personas."""
        if args and args[0] not in PERSONAS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=[*PERSONAS], ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """See `click.Group`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, persona.summary) for name, persona in PERSONAS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem[Any]]:
        """See `click.Group`."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=PERSONAS[name].summary) for name in PERSONAS if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def load(persona: str) -> click.Command:
    """The click command of a persona; imports its role."""
    command: click.Command = importlib.import_module(PERSONAS[persona].module).command
    return command


def main() -> int:
    """The entry point of every name in `pyproject.toml`."""
    called = Path(sys.argv[0]).name
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A model's answer may hold characters that an old locale lacks; a question mark is better than no answer.
            stream.reconfigure(errors="replace")
    return run(called if called in CALLED_NAMES else "rbees", sys.argv[1:])


def run(called: str, arguments: Sequence[str], role: Callable[[str], click.Command] = load) -> int:
    """Play the role that `called` and `arguments` name and return the exit code. `role` gives a persona's command."""
    invocation = Invocation(as_json=wants_json(arguments))
    try:
        _check_text(arguments)
        command, words = _command_for(called, list(arguments), invocation, role)
        result = command.main(words, prog_name=called, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        return _refuse_usage(error, invocation)
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return _PIPE_CLOSED
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _drop_output()
        return _report(_unwritable(error), called, invocation)
    except Exception as error:  # The edge of the program; what is not an RbeesError is raised again.
        return _report(error, called, invocation)
    return result if isinstance(result, int) else 0


def wants_json(arguments: Sequence[str]) -> bool:
    """True where the caller asked for JSON, also if the rest cannot be parsed."""
    words = list(arguments)
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def _check_text(arguments: Sequence[str]) -> None:
    """Refuse words that are not UTF-8: they carry lone surrogates, which neither JSON nor a request can."""
    for number, word in enumerate(arguments, 1):
        try:
            word.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"Word {number} of the command line is not valid UTF-8.") from None


def _command_for(
    called: str, words: list[str], invocation: Invocation, role: Callable[[str], click.Command]
) -> tuple[click.Command, list[str]]:
    persona = CALLED_NAMES.get(called)
    if persona is None:
        about = "Several unlike machines behave like one place to run language models."
        root: click.Command = Personas(name="rbees", help=about, no_args_is_help=True)
        return _with_global_options(root, invocation), words
    command = _with_global_options(role(persona), invocation)
    if PERSONAS[persona].is_daemon and isinstance(command, click.Group):
        words = _with_serve(words)
    return command, words


def _with_serve(words: list[str]) -> list[str]:
    """`words`, with `serve` put where a daemon was called by its own name and given flags only."""
    position = 0
    while position < len(words) and words[position] == "--debug":
        position += 1
    following = words[position : position + 1]
    if following and (following[0] in {"--help", "--version"} or not following[0].startswith("-")):
        return words
    return [*words[:position], "serve", *words[position:]]


def _with_global_options(command: click.Command, invocation: Invocation) -> click.Command:
    def set_debug(_ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
        invocation.debug = value

    def show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            from rbees import __version__

            click.echo(f"rbees {__version__}")
            ctx.exit()

    def follow_parent(ctx: click.Context, _parameter: click.Parameter, descriptor: int | None) -> None:
        if descriptor is not None and not ctx.resilient_parsing:
            from rbees.service.leash import end_with_parent

            end_with_parent(descriptor)

    extended = copy.copy(command)
    extended.params = [
        *command.params,
        click.Option(["--debug"], is_flag=True, expose_value=False, callback=set_debug, help="Show tracebacks."),
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=show_version, help="Show the version and exit."
        ),
        click.Option(["--exit-with-parent-fd"], type=int, expose_value=False, hidden=True, callback=follow_parent),
    ]
    return extended


def _refuse_usage(error: click.ClickException, invocation: Invocation) -> int:
    if not invocation.as_json:
        error.show()
        return error.exit_code
    from rbees.protocol.errors import ErrorCode, RbeesError
    from rbees.terminal.errors import show_error

    show_error(RbeesError(ErrorCode.INVALID_REQUEST, error.format_message()), as_json=True)
    return error.exit_code


def _report(error: Exception, called: str, invocation: Invocation) -> int:
    """Say an `RbeesError` in its own words. Anything else is a defect, whose traceback the interpreter shows."""
    from rbees.protocol.errors import RbeesError  # Only a failure pays for this import.

    if not isinstance(error, RbeesError):
        raise error
    if invocation.debug:
        sys.excepthook(type(error), error, error.__traceback__)
        return error.exit_code
    from rbees.terminal.errors import show_error

    show_error(error, as_json=invocation.as_json, name=called)
    return error.exit_code


def _unwritable(error: OSError) -> Exception:
    from rbees.protocol.errors import ErrorCode, RbeesError

    reason = os.strerror(error.errno or 0)
    return RbeesError(ErrorCode.STORAGE_FULL, f"The output cannot be written: {reason}; free some space or write elsewhere.")


def _drop_output() -> None:
    # What is still buffered would fail again when the interpreter flushes it; it goes nowhere instead.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _open_closed_streams() -> None:
    """Give a process that was started with a closed standard stream an empty one: else the next file opened, such as a database,
    would get its number, and whoever prints would write into that."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (it lives as long as the process)
