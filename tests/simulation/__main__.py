"""`python -m tests.simulation`: what `make sim` runs. Exits 1 and prints the seeds if an invariant was violated."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.simulation import runner


def main() -> int:
    """Parse the command line, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--hosts", type=int, default=5, help="hosts in each world")
    parser.add_argument("--minutes", type=float, default=10.0, help="virtual minutes of each world")
    parser.add_argument("--output", type=Path, default=Path("build/sim.json"), help="where the rows go")
    asked = parser.parse_args()
    campaign = runner.run_seeds(range(asked.first, asked.first + asked.seeds), hosts=asked.hosts, minutes=asked.minutes)
    rows = runner.rows(campaign)
    runner.write_rows(rows, asked.output)
    for row in rows:
        print(f"{row['name']:<24} {row['value']:>10} {row['unit']}")
    if campaign.failures:
        print(runner.explain(campaign.failures, asked.hosts, asked.minutes), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
