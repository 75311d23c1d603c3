"""`llorch chat`: how one is begun. What can be typed in it is in `chat_words.py`, what it then does in `chat_actions.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rbees.ctl.job_options import form_options, run_options, sampling_options
from rbees.ctl.target import Target, names_orcd


@click.command()
@click.option("--model", metavar="REF", help="Alias, `hf:org/repo…` or `file:/path.gguf`. Default: the one that there is.")
@click.option("--system", metavar="TEXT", help="What the model is told before the conversation begins.")
@click.option(
    "--load", "load_file", type=click.Path(path_type=Path), metavar="FILE", help="Go on with a conversation that /save kept."
)
@sampling_options
@form_options
@run_options
@click.option("--deterministic", is_flag=True, help="Decode the answers alone: their text does not depend on other jobs.")
@click.option("--no-reasoning", is_flag=True, help="Do not show what the model thinks before it answers.")
@click.option("--no-history", is_flag=True, help="Do not keep what is typed for the up arrow of later chats.")
@names_orcd
def chat(target: Target, **given: Any) -> int | None:
    """Talk with a model: each line is a message, and the whole conversation goes with it.

    Three quotes begin and end a message of several lines, and a backslash at a line's end continues it; what is pasted is one
    message. Commands: `/model` and `/system` change who answers and what it was told beforehand, `/set` a sampling option; `/show`
    has what was said, `/retry` asks again, `/clear` begins anew, `/save` and `/load` keep a conversation in a file and go on with
    one, `/help` says more, `/quit` leaves. Two slashes begin a message with one.

    Answers are broken between words on the screen, but for code; `/show` has them as they were said, to be copied.

    Ctrl-C stops an answer and keeps the chat; a second one, or Ctrl-D, leaves. Through a pipe every line is a message too, stdout
    has the answers alone, and the first that fails ends it. What was typed is kept for the up arrow in `chat_history.jsonl` among
    the state of `ctl`, for its owner alone.
    """
    from rbees.ctl.chat_actions import chat as act

    return act(target, **given)
