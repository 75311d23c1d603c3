"""`llorch jobs list|show|watch|cancel`."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

import click

from rbees.ctl.rows import job_pairs, job_row
from rbees.ctl.screen import result_lines, screen
from rbees.ctl.submit import RESTART_PATIENCE_S, show_events
from rbees.ctl.target import Target
from rbees.protocol.codec import encode
from rbees.protocol.jobs import TERMINAL_STATUSES, JobView, StatusFilter
from rbees.protocol.vectors import Embeddings, Ranking
from rbees.service.clock import SystemClock
from rbees.terminal.answer import AnswerWriter
from rbees.terminal.columns import Column
from rbees.terminal.notes import notes
from rbees.terminal.output import print_json, print_pairs
from rbees.terminal.pages import print_table

JOB_COLUMNS: Final = (
    Column("job", whole=True),
    Column("status"),
    Column("model", least=12, tail=True),
    Column("age", rank=1, right=True),
    Column("tokens", rank=2, right=True),
    Column("about", least=12),
)


async def list_jobs(
    target: Target, *, status: StatusFilter | None, model: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """One page of jobs."""
    async with target.client() as orcd:
        page = await orcd.jobs(status, model, limit, cursor)
    if as_json:
        print_json(page)
        return
    now_ms = round(time.time() * 1000)
    print_table(JOB_COLUMNS, [job_row(job, now_ms) for job in page.jobs], empty="no jobs")
    if page.next_cursor:
        click.echo(f"more with --cursor {page.next_cursor}", err=True)


async def show_job(target: Target, *, job_id: str, as_json: bool) -> None:
    """One job in full."""
    async with target.client() as orcd:
        job = await orcd.job(job_id)
    if as_json:
        print_json(job)
        return
    print_pairs(job_pairs(job, round(time.time() * 1000)))
    _show_output(job)


async def watch_job(target: Target, *, job_id: str, after: int, no_reasoning: bool, as_json: bool) -> None:
    """A job's events to its end."""
    with notes(silent=as_json) as said:
        shown = screen(as_json=as_json, notes=said, reasoning=not no_reasoning)
        async with target.client() as orcd:
            try:
                patience_s = RESTART_PATIENCE_S if target.is_home else 0.0
                await show_events(orcd, job_id, shown, SystemClock(), after=after, first_patience_s=patience_s)
            except asyncio.CancelledError:
                # Ctrl-C. Of a command called `submit` it ends the job, so it is said that this one does not.
                shown.leave()
                shown.keep(f"the job goes on; watch it again with `llorch jobs watch {job_id}`")
                raise
            finally:
                shown.leave()


async def cancel_job(target: Target, *, job_id: str, as_json: bool) -> None:
    """End a job."""
    async with target.client() as orcd:
        answer = await orcd.cancel(job_id)
    if as_json:
        print_json(answer)
    elif answer.status in TERMINAL_STATUSES:
        click.echo(f"{answer.job_id} is {answer.status}")
    else:
        click.echo(f"{answer.job_id} is being cancelled")


def _show_output(job: JobView) -> None:
    if isinstance(job.output, Embeddings | Ranking):
        click.echo("\n" + "\n".join(result_lines(job.output)))
        return
    for choice in job.output or ():
        writer = AnswerWriter(sys.stdout)
        if choice.choice:
            writer.begin(choice.choice + 1)
        else:
            click.echo()
        writer.think(choice.reasoning)
        writer.write(choice.text)
        for call in choice.tool_calls:
            writer.write(f"\n{call.name} {encode(call.arguments).decode()}")
        writer.finish()
