"""`python -m tests.simulation`: what `make sim` runs. Exits 1 and prints the seeds if an invariant was violated."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.simulation import runner
from tests.simulation.shrink import Size


def main() -> int:
    """Parse the command line, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=_positive, default=500, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--hosts", type=int, default=5, help="hosts in each world")
    parser.add_argument("--minutes", type=float, default=10.0, help="virtual minutes of each world")
    parser.add_argument("--faults", type=int, help="the most faults in each world; default: no limit")
    parser.add_argument("--jobs", type=int, help="the most jobs in each world; default: no limit")
    parser.add_argument("--day", action="store_true", help="also run 200 hosts for 24 virtual hours, once")
    parser.add_argument("--output", type=Path, default=Path("build/sim.json"), help="where the rows go")
    asked = parser.parse_args()
    size = Size(asked.hosts, asked.minutes, asked.faults, asked.jobs)
    campaign = runner.run_seeds(range(asked.first, asked.first + asked.seeds), size=size)
    rows = runner.rows(campaign)
    if asked.day:
        rows += runner.run_day()
    runner.write_rows(rows, asked.output)
    for row in rows:
        print(f"{row['name']:<24} {row['value']:>10} {row['unit']}")
    if campaign.failures:
        print(runner.explain(campaign.failures, size), file=sys.stderr)
        return 1
    return 1 if any(row["holds"] is False and row["goal"] == 0 for row in rows) else 0


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word}: at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
