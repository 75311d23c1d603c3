"""Run many seeds over all cores, and turn what they came to into the rows of build/sim.json."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.simulation import shrink
from tests.simulation.shrink import Size, Try
from tests.simulation.world import Outcome, World

USUAL: Final = Size()
DAY_SEED: Final = 1
DAY_HOSTS: Final = 200
DAY_MINUTES: Final = 24 * 60.0
VIOLATIONS: Final = (AssertionError, LookupError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed that violated an invariant."""

    seed: int
    report: str


@dataclass(frozen=True, slots=True)
class Campaign:
    """All seeds of one run."""

    outcomes: tuple[Outcome, ...]
    failures: tuple[Failure, ...]
    wall_s: float


def run_seed(seed: int, size: Size) -> Outcome | Failure:
    """One world from beginning to end; a failure carries the traceback, since it may cross processes."""
    try:
        return _world(seed, size).run()
    except VIOLATIONS:
        return Failure(seed, traceback.format_exc())


def smallest(seed: int, size: Size, within_s: float = shrink.WITHIN_S) -> tuple[int, Size, str]:
    """Seed and size of the smallest world that was found to fail like this one, and its traceback."""
    other, small = shrink.shrink(seed, size, _try, within_s)
    end = run_seed(other, small)
    return other, small, end.report if isinstance(end, Failure) else "It did not fail again."


def _world(seed: int, size: Size) -> World:
    return World(seed, hosts=size.hosts, minutes=size.minutes, faults=size.faults, jobs=size.jobs)


def _try(seed: int, size: Size) -> Try:
    world = _world(seed, size)
    try:
        world.run()
    except VIOLATIONS as error:
        return Try(f"{type(error).__name__}: {error}", *world.counts)
    return Try(None, *world.counts)


def run_seeds(seeds: Iterable[int], *, size: Size = USUAL) -> Campaign:
    """Every seed, spread over the cores of this machine."""
    begun_s = time.perf_counter()
    # Started anew rather than forked, because a test runner may have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        results = list(pool.map(partial(run_seed, size=size), seeds, chunksize=10))
    wall_s = time.perf_counter() - begun_s
    outcomes = tuple(result for result in results if isinstance(result, Outcome))
    failures = tuple(result for result in results if isinstance(result, Failure))
    return Campaign(outcomes, failures, wall_s)


def explain(failures: Sequence[Failure], size: Size, *, shrunk: bool = True) -> str:
    """What to print: each failing seed with its traceback and the command that repeats it; the first one made small."""
    told = [f"seed {one.seed} failed; repeat it with `{command(one.seed, size)}`\n{one.report}" for one in failures]
    if failures and shrunk:
        seed = failures[0].seed
        other, small, report = smallest(seed, size)
        told.append(f"the smallest world found that fails like seed {seed}: `{command(other, small)}`\n{report}")
    return "\n".join(told)


def command(seed: int, size: Size) -> str:
    """What to type to see one world fail."""
    return f"python -m tests.simulation --seeds 1 --first {seed} {size.options}"


def rows(campaign: Campaign) -> list[dict[str, object]]:
    """The campaign as rows that runs can be compared by."""
    outcomes = campaign.outcomes
    jobs = sum(outcome.jobs for outcome in outcomes)
    return [
        _row("orcd.sim.seeds", len(outcomes) + len(campaign.failures), "seeds"),
        _row("orcd.sim.violations", len(campaign.failures), "seeds", goal=0, holds=not campaign.failures),
        _row("orcd.sim.wall", round(campaign.wall_s, 1), "s", goal=60, holds=campaign.wall_s <= 60),
        _row("orcd.sim.jobs", jobs, "jobs"),
        _row("orcd.sim.completed", sum(outcome.completed for outcome in outcomes), "jobs"),
        # Each was asked for by its client, or is owed to a fault that it made itself: anything else would be a violation.
        *(_row(f"orcd.sim.{code.lower()}", count, "jobs") for code, count in sorted(_ended_by(outcomes).items())),
        _row("orcd.sim.retries", sum(outcome.retries for outcome in outcomes), "attempts"),
        _row("orcd.sim.faults", sum(outcome.faults for outcome in outcomes), "faults"),
        _row("orcd.sim.longest_wait", round(max((outcome.longest_wait_s for outcome in outcomes), default=0.0), 1), "s"),
    ]


def _ended_by(outcomes: Iterable[Outcome]) -> Counter[str]:
    return sum((Counter(outcome.failed) for outcome in outcomes), Counter())


def run_day(hosts: int = DAY_HOSTS, minutes: float = DAY_MINUTES) -> list[dict[str, object]]:
    """One world of many hosts for a long time, as rows."""
    begun_s = time.perf_counter()
    end = run_seed(DAY_SEED, Size(hosts, minutes))
    wall_s = time.perf_counter() - begun_s
    if isinstance(end, Failure):
        print(explain([end], Size(hosts, minutes), shrunk=False), file=sys.stderr)
        return [_row("orcd.sim.day_violations", 1, "seeds", goal=0, holds=False)]
    return [
        _row("orcd.sim.day_hosts", hosts, "hosts"),
        _row("orcd.sim.day_hours", round(minutes / 60, 2), "h"),
        _row("orcd.sim.day_violations", 0, "seeds", goal=0, holds=True),
        _row("orcd.sim.day_wall", round(wall_s, 1), "s"),
        _row("orcd.sim.day_events", end.events, "events"),
        _row("orcd.sim.day_jobs", end.jobs, "jobs"),
        _row("orcd.sim.day_completed", end.completed, "jobs"),
        _row("orcd.sim.day_retries", end.retries, "attempts"),
        _row("orcd.sim.day_faults", end.faults, "faults"),
        _row("orcd.sim.day_longest_wait", round(end.longest_wait_s, 1), "s"),
    ]


def write_rows(rows_: list[dict[str, object]], path: Path) -> None:
    """Write the rows as JSON, one per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows_) + "\n]\n", encoding="utf-8")


def _row(name: str, value: float, unit: str, *, goal: float | None = None, holds: bool | None = None) -> dict[str, object]:
    return {"name": name, "value": value, "unit": unit, "peer": None, "ratio": None, "goal": goal, "holds": holds}
