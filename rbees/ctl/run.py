"""`llorch run`: what can be typed. What the command does is in `run_actions.py`; without a prompt, on a terminal, it is a chat."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from rbees.ctl.job_options import form_options, run_options, sampling_options, text_of_stdin
from rbees.ctl.target import Target, names_orcd


def _prompt(_context: click.Context, _argument: click.Parameter, words: tuple[str, ...]) -> str | None:
    """The words, and behind them what a pipe brings; None where there is nobody to ask but whoever sits there."""
    if sys.stdin.isatty() and words != ("-",):
        return " ".join(words) if words else None
    material = text_of_stdin()
    asked = " ".join(words) if words != ("-",) else ""
    return f"{asked}\n\n{material}" if asked and material.strip() else asked or material


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

    The answer alone is on stdout: `llorch run MODEL "Sum this up." < page.txt > short.txt`. Ctrl-C ends the job, as does a reader
    that leaves. An answer that was to have a form and was cut exits 1. Without PROMPT, on a terminal, this is `llorch chat`.
    """
    if given["prompt"] is None:
        from rbees.ctl.chat_actions import chat

        del given["prompt"]
        return chat(target, load_file=None, no_history=False, **given)
    from rbees.ctl.run_actions import run_prompt

    return asyncio.run(run_prompt(target, **given))
