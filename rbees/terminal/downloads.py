"""A download as it goes: a bar with rate and time left on a terminal, a line for each quarter in a log, JSON lines for programs."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

import click

from rbees.protocol.downloads import DownloadDone, DownloadEvent, DownloadPlanned, DownloadProgress, PoolChosen, SourceDropped
from rbees.terminal.notes import Notes, notes
from rbees.terminal.output import is_live, print_json
from rbees.terminal.quantities import bytes_text, duration_text


async def show_download(events: AsyncGenerator[DownloadEvent], model: str, *, as_json: bool) -> None:
    """Follow a download to its end; as JSON each event is a line."""
    with notes(silent=as_json) as said:
        said.note(f"asking for {model}")
        async with aclosing(events) as following:
            async for event in following:
                if as_json:
                    print_json(event)
                elif isinstance(event, PoolChosen):
                    said.keep(f"on {event.pool_id}: {event.why}")
                elif isinstance(event, DownloadPlanned):
                    _say_plan(said, event)
                elif isinstance(event, SourceDropped):
                    said.keep(f"without {event.source}: {event.why}")
                elif isinstance(event, DownloadProgress):
                    _note(said, model, event)
                elif isinstance(event, DownloadDone):
                    said.clear()
                    said.keep(_summary(event))
                    click.echo(event.model_ref)


def _say_plan(said: Notes, planned: DownloadPlanned) -> None:
    if planned.why is not None:
        said.keep(f"taking {planned.files[0]}: {planned.why}")
    if planned.sources:
        said.keep(f"from {', '.join(planned.sources)}")


def _note(said: Notes, model: str, progress: DownloadProgress) -> None:
    verb = "another process downloads" if progress.waiting else "downloading"
    share = progress.done_bytes / progress.total_bytes if progress.total_bytes else 1.0
    # A log gets the same words each time, and so one line for each quarter.
    said.note(f"{verb} {model}{f': {figures(progress)}' if is_live(sys.stderr) else ''}", share)


def figures(progress: DownloadProgress) -> str:
    """How much of how much, and where it can be said how fast and how long still."""
    text = f"{bytes_text(progress.done_bytes)} of {bytes_text(progress.total_bytes)}"
    if progress.bytes_per_s is not None and progress.left_s is not None:
        text += f", {bytes_text(round(progress.bytes_per_s))}/s, {duration_text(progress.left_s)} left"
    return text


def _summary(event: DownloadDone) -> str:
    how = f"fetched {bytes_text(event.fetched_bytes)}" if event.fetched_bytes else "was here already"
    if event.by_source:
        how += f" ({', '.join(f'{bytes_text(count)} from {url}' for url, count in event.by_source.items())})"
    return f"{how}; sha256 {event.sha256[:16]}… is right; {event.paths[0]}"
