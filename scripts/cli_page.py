"""Makes docs/cli.md from the click commands of every role: `python -m scripts.cli_page docs` writes it.

A test compares the file with what this makes, so the page cannot fall behind the commands.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from rbees.personas import CALLED_NAMES, PERSONAS

PAGE: Final = "cli.md"
_NOTE: Final = "<!-- Made by `make docs` from the commands; edit their docstrings and options. -->"
_HEAD: Final = """\
# Commands

One program with many names. `rbees ROLE …` and the role's own name are the same: {names}.
A daemon's own name without a subcommand means `serve`, so `rbees-workerd --model …` serves.

Every command has `--help`; before the first subcommand stand `--debug` (tracebacks) and `--version`. Data goes to stdout,
everything else to stderr. `--json` prints JSON for programs, and an error then is the envelope of [errors.md](errors.md) on stderr.
Tables are plain where the output is no terminal; `NO_COLOR` is honoured.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed, such as a job that ended in an error |
| 2 | usage: an unknown word, a value out of range |
| 69 | a daemon, host or backend is not available |
| 74 | input or output failed, such as a full disk |
| 75 | busy: taken port, running twin, full queue |
| 77 | not allowed |
| 78 | a setting is wrong |
| 130 | interrupted |
| 141 | whoever read the output has left |

`rbees workerd serve` alone also ends with 65, where its model cannot be loaded: starting it again would end the same way.
"""


def page() -> str:
    """The text of docs/cli.md."""
    names = ", ".join(f"`{name}` is `rbees {role}`" for name, role in CALLED_NAMES.items())
    parts = [_NOTE, "", _HEAD.format(names=names)]
    for name, persona in PERSONAS.items():
        parts += [f"## {name}", "", persona.summary, ""]
        command: click.Command = importlib.import_module(persona.module).command
        parts += _describe(command, f"rbees {name}")
    return "\n".join(parts).rstrip() + "\n"


def _describe(command: click.Command, path: str) -> Iterator[str]:
    """A command as heading, usage, help and options; a group as its commands one after the other."""
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            if not child.hidden:
                yield from _describe(child, f"{path} {name}")
        return
    context = click.Context(command, info_name=path)
    yield f"### `{path}`"
    yield ""
    yield "```"
    yield f"{path} {' '.join(command.collect_usage_pieces(context))}"
    yield "```"
    yield ""
    yield from (line.replace("\b", "").rstrip() for line in inspect.cleandoc(command.help or "").splitlines())
    yield ""
    rows = [record for option in command.params if (record := option.get_help_record(context)) and _is_shown(option)]
    if rows:
        yield "| option | meaning |"
        yield "|---|---|"
        yield from (f"| `{_cell(names)}` | {_cell(about)} |" for names, about in rows)
        yield ""


def _is_shown(option: click.Parameter) -> bool:
    return isinstance(option, click.Option) and not option.hidden


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    (Path(sys.argv[1] if len(sys.argv) > 1 else "docs") / PAGE).write_text(page(), encoding="utf-8")
