"""Run many seeds over all cores, and turn what they came to into the rows of build/sim.json."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.simulation.world import Outcome, World


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


def run_seed(seed: int, hosts: int, minutes: float) -> Outcome | Failure:
    """One world from beginning to end; a failure carries the traceback, since it may cross processes."""
    try:
        return World(seed, hosts=hosts, minutes=minutes).run()
    except (AssertionError, LookupError, TypeError, ValueError, AttributeError):
        return Failure(seed, traceback.format_exc())


def run_seeds(seeds: Iterable[int], *, hosts: int = 5, minutes: float = 10.0) -> Campaign:
    """Every seed, spread over the cores of this machine."""
    begun_s = time.perf_counter()
    # Started anew rather than forked, because a test runner may have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        results = list(pool.map(partial(run_seed, hosts=hosts, minutes=minutes), seeds, chunksize=10))
    wall_s = time.perf_counter() - begun_s
    outcomes = tuple(result for result in results if isinstance(result, Outcome))
    failures = tuple(result for result in results if isinstance(result, Failure))
    return Campaign(outcomes, failures, wall_s)


def explain(failures: Iterable[Failure], hosts: int, minutes: float) -> str:
    """What to print: each failing seed with its traceback and the command that repeats it."""
    command = f"python -m tests.simulation --seeds 1 --hosts {hosts} --minutes {minutes} --first"
    return "\n".join(f"seed {one.seed} failed; repeat it with `{command} {one.seed}`\n{one.report}" for one in failures)


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
        _row("orcd.sim.retries", sum(outcome.retries for outcome in outcomes), "attempts"),
        _row("orcd.sim.faults", sum(outcome.faults for outcome in outcomes), "faults"),
        _row("orcd.sim.longest_wait", round(max((outcome.longest_wait_s for outcome in outcomes), default=0.0), 1), "s"),
    ]


def write_rows(rows_: list[dict[str, object]], path: Path) -> None:
    """Write the rows as JSON, one per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows_) + "\n]\n", encoding="utf-8")


def _row(name: str, value: float, unit: str, *, goal: float | None = None, holds: bool | None = None) -> dict[str, object]:
    return {"name": name, "value": value, "unit": unit, "peer": None, "ratio": None, "goal": goal, "holds": holds}
