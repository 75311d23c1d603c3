"""`llorch jobs explain` and `llorch plan`: what orcd says of its decisions, as a sentence and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from rbees.ctl.rows import attempt_text
from rbees.ctl.submit import build_job
from rbees.ctl.target import Target
from rbees.protocol.decisions import Candidate, Explanation, Plan, WaitBound
from rbees.protocol.errors import RbeesError
from rbees.terminal.columns import Column
from rbees.terminal.output import print_json, print_pairs
from rbees.terminal.pages import print_table
from rbees.terminal.quantities import bytes_text

CANDIDATE_COLUMNS: Final = (
    Column(""),
    Column("where", prose=True),
    Column("starts in", rank=3, right=True),
    Column("takes", rank=4, right=True),
    Column("done in", right=True),
    Column("cached saves", rank=2, right=True),
    Column("memory", rank=1),
    Column("why not now", prose=True),
)
GUESS: Final = "no answer of this model was seen yet: all times follow from the size of its file and may be far off"


async def explain_job(target: Target, *, job_id: str, as_json: bool) -> None:
    """Why a job is where it is."""
    async with target.client() as orcd:
        told = await orcd.explain(job_id)
    if as_json:
        print_json(told)
        return
    pairs = [("job", told.job_id), ("status", told.status), ("about", told.reason)]
    pairs += _when(told)
    if told.bound is not None:
        pairs.append(("waits at most", bound_text(told.bound)))
    pairs += [(f"attempt {attempt.epoch}", attempt_text(attempt)) for attempt in told.attempts]
    print_pairs(pairs)
    _print_candidates(told.candidates)


async def plan_job(target: Target, *, model: str, prompt: str, as_json: bool, **options: Any) -> int | None:
    """What would become of a job. Returns the exit code: of one that would be refused the one that submitting it would have."""
    job = build_job(prompt, raw=True, model=model, **options)
    async with target.client() as orcd:
        told = await orcd.plan(job)
    if as_json:
        print_json(told)
    else:
        print_pairs(plan_pairs(told))
        _print_candidates(told.candidates)
    return RbeesError.from_body(told.error).exit_code if told.outlook == "refused" and told.error is not None else None


def plan_pairs(told: Plan) -> list[tuple[str, str]]:
    """What there is to say of a plan besides its places."""
    pairs = [("outlook", told.outlook.replace("_", " ")), ("about", told.reason)]
    pairs += _when(told)
    if told.error is not None:
        pairs.append(("code", told.error.code))
    if told.model_sha256 is not None:
        pairs.append(("sha256", told.model_sha256))
    return pairs


def _print_candidates(candidates: Sequence[Candidate]) -> None:
    if candidates:
        click.echo()
        print_table(CANDIDATE_COLUMNS, [candidate_row(candidate) for candidate in candidates], empty="")


def candidate_row(candidate: Candidate) -> tuple[str, ...]:
    """One place in one line, under `CANDIDATE_COLUMNS`."""
    devices = ", ".join(candidate.devices)
    if candidate.gpu_layers is not None:
        devices += f" ({candidate.gpu_layers} layers) and main memory"
    what = candidate.worker_id or "new worker"
    memory = ""
    if candidate.needed_bytes is not None and candidate.free_bytes is not None:
        memory = f"{bytes_text(candidate.needed_bytes)} of {bytes_text(candidate.free_bytes)}"
    return (
        "*" if candidate.chosen else "",
        f"{what} on {devices} at {candidate.pool_id}",
        _seconds(candidate.starts_in_s),
        _seconds(candidate.takes_s),
        _seconds(candidate.done_in_s),
        _seconds(candidate.saved_s or None),
        memory,
        candidate.refusal or "",
    )


def _when(told: Explanation | Plan) -> list[tuple[str, str]]:
    pairs = []
    if told.ahead is not None:
        pairs.append(("before it", f"{_count(told.ahead, 'job')} for this model"))
    if told.done_in_s is not None:
        pairs.append(("done in", f"about {told.done_in_s:.1f} s"))
    if told.is_guess:
        pairs.append(("guess", GUESS))
    return pairs


def bound_text(bound: WaitBound) -> str:
    """The formula with its figures, without the parts that are nothing."""
    works = [
        (bound.sessions * bound.own_work, "of its session before it" if bound.sessions == 1 else "of sessions in turn"),
        (2 * (bound.sessions - 1) * bound.largest_work, "of what may come between"),
        (bound.other_work, "that go first by priority or age"),
    ]
    terms = [f"{work:.0f} tokens {what}" for work, what in works if work]
    running = [f"{bound.running_s:.1f} s that run"] if bound.running_s else []
    waiting = [f"({' + '.join(terms)}) × {bound.seconds_per_work * 1000:.3g} ms"] if terms else []
    known = " + ".join(running + waiting) or "nothing"
    return f"about {bound.waits_at_most_s:.1f} s: ({known}) / {_count(bound.slots, 'slot')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"
