"""`llorch jobs …`: what can be typed. What the commands do is in `submit.py` and `job_actions.py`."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from rbees.ctl.job_options import form_options, model_option, run_options, sampling_options, text_of_stdin
from rbees.ctl.target import Target, asks_orcd

STATUSES = ("queued", "dispatched", "running", "completed", "failed", "cancelled", "unfinished")


def _text(context: click.Context, option: click.Parameter, value: str | None) -> str:
    """The prompt itself. It is read before the event loop runs, where Ctrl-C would not reach a read that waits."""
    if value is None and sys.stdin.isatty():
        raise click.MissingParameter(ctx=context, param=option)
    return text_of_stdin() if value in {None, "-"} else value or ""


def _no_words(_context: click.Context, _argument: click.Parameter, words: tuple[str, ...]) -> None:
    if words:
        raise click.UsageError(f"`{words[0]}` belongs to no option; write the prompt as --prompt {shlex.quote(' '.join(words))}")


@click.group(no_args_is_help=True)
def jobs() -> None:
    """Submit jobs, look at them, cancel them."""


@jobs.command()
@model_option()
# Eager: a stray word is told before anything waits for stdin.
@click.argument("words", nargs=-1, metavar="", expose_value=False, is_eager=True, callback=_no_words)
@click.option("--prompt", metavar="TEXT", callback=_text, help="What to say; `-`, or a pipe and no such option, reads stdin.")
@click.option("--raw", is_flag=True, help="Send the text as it is, without the model's chat template.")
@sampling_options
@click.option("--n", type=click.IntRange(1, 16), help="Answers to make; the first is shown as it comes. Default: 1.")
@click.option("--logprobs", type=click.IntRange(0, 20), help="With --json: each token's logprob, and of so many alternatives.")
@form_options
@run_options
@click.option("--deterministic", is_flag=True, help="Decode this job alone: its text does not depend on other jobs.")
@click.option("--session-id", metavar="TEXT", help="A name for jobs that belong together; recorded and shown.")
@click.option("--idempotency-key", metavar="KEY", help="Submitting again with this key finds the same job.")
@click.option("--no-reasoning", is_flag=True, help="Do not show what the model thinks before it answers.")
@click.option("--detach", is_flag=True, help="Print the job's id and return at once.")
@asks_orcd
async def submit(target: Target, **given: Any) -> int | None:
    """Submit a job and stream its answer; Ctrl-C cancels the job."""
    from rbees.ctl.submit import submit as act

    return await act(target, **given)


@jobs.command(name="list")
@click.option("--status", type=click.Choice(STATUSES), help="Only jobs in this state; unfinished: all that have not ended.")
@click.option("--model", metavar="REF", help="Only jobs for this model.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Most jobs to show.")
@click.option("--cursor", metavar="TEXT", help="Go on where an earlier page ended.")
@asks_orcd
async def list_(target: Target, **given: Any) -> None:
    """List jobs, newest first."""
    from rbees.ctl.job_actions import list_jobs

    await list_jobs(target, **given)


@jobs.command()
@click.argument("job_id", metavar="ID")
@asks_orcd
async def show(target: Target, **given: Any) -> None:
    """Show a job: state, timings, attempts and, once it has ended, its output."""
    from rbees.ctl.job_actions import show_job

    await show_job(target, **given)


@jobs.command()
@click.argument("job_id", metavar="ID")
@asks_orcd
async def explain(target: Target, **given: Any) -> None:
    """Say why a job is where it is or what it waits for, with every place that could run it."""
    from rbees.ctl.decision_actions import explain_job

    await explain_job(target, **given)


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Start behind this event number. Default: from the beginning.")
@click.option("--no-reasoning", is_flag=True, help="Do not show what the model thinks before it answers.")
@asks_orcd
async def watch(target: Target, **given: Any) -> None:
    """Stream a job's answer, also again; Ctrl-C ends the watching, not the job."""
    from rbees.ctl.job_actions import watch_job

    await watch_job(target, **given)


@jobs.command()
@click.argument("job_id", metavar="ID")
@asks_orcd
async def cancel(target: Target, **given: Any) -> None:
    """Cancel a job; harmless where it has ended."""
    from rbees.ctl.job_actions import cancel_job

    await cancel_job(target, **given)
