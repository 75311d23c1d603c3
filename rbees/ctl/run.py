"""`llorch run`: what can be typed. What the command does is in `run_actions.py`; without a prompt, on a terminal, it is a chat."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

import click

from rbees.ctl.job_options import form_options, run_options, sampling_options, text_of_stdin
from rbees.ctl.target import Target, names_orcd

_NOTE_AFTER_S: Final = 1.0


def _prompt(_context: click.Context, _argument: click.Parameter, words: tuple[str, ...]) -> str | None:
    """The words, and behind them what a pipe brings; None where there is nobody to ask but whoever sits there."""
    if sys.stdin.isatty() and words != ("-",):
        return " ".join(words) if words else None
    with _note_of_waiting() if words else contextlib.nullcontext():
        material = text_of_stdin()
    asked = " ".join(words) if words != ("-",) else ""
    return f"{asked}\n\n{material}" if asked and material.strip() else asked or material


@contextlib.contextmanager
def _note_of_waiting() -> Iterator[None]:
    """Whoever has written a prompt may not know what else is waited for, such as the end of a stdin that nobody closes."""
    note = "waiting for the end of standard input, which goes with the prompt; `< /dev/null` gives none"
    timer = threading.Timer(_NOTE_AFTER_S, lambda: click.echo(note, err=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("prompt", nargs=-1, metavar="[PROMPT]", callback=_prompt)
@click.option("--system", metavar="TEXT", help="What the model is told before the conversation begins.")
@sampling_options
@form_options
@run_options
@click.option("--deterministic", is_flag=True, help="Decode this job alone: its text does not depend on other jobs.")
@click.option("--no-reasoning", is_flag=True, help="Do not show what the model thinks before it answers.")
@names_orcd
def run(target: Target, **given: Any) -> int | None:
    """Have MODEL answer PROMPT. What comes through a pipe is the prompt, or the material behind it.

    A pipe is read to its end even where nobody meant it, as in a loop that reads lines: write `< /dev/null` behind such a command.

    The answer alone is on stdout: `llorch run MODEL "Sum this up." < page.txt > short.txt`. Ctrl-C ends the job, as does a reader
    that leaves. An answer that was to have a form and was cut exits 1. Without PROMPT, on a terminal, this is `llorch chat`.
    """
    if given["prompt"] is None:
        from rbees.ctl.chat_actions import chat

        del given["prompt"]
        return chat(target, load_file=None, no_history=False, **given)
    from rbees.ctl.run_actions import run_prompt

    return asyncio.run(run_prompt(target, **given))
