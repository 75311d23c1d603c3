"""`python -m tests.bench [SUITE[.PART] …] [--short] [--write-docs]`: measure, print, write build/bench.json.

Run it from the root of the repository. It ends with 0 whatever the figures are; what does not hold is said.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from tests.bench import api, document, engine, host, orcd, rows, spine
from tests.bench.rows import Row

SUITES: dict[str, dict[str, Callable[[bool], list[Row]]]] = {
    "spine": spine.PARTS,
    "orcd": orcd.PARTS,
    "engine": engine.PARTS,
    "api": api.PARTS,
    "host": host.PARTS,
}


def main() -> int:
    """Run what was asked for, everything if nothing was."""
    options = _options()
    fresh: list[Row] = []
    for suite, parts in SUITES.items():
        for part, measure in parts.items():
            if options.only and not {suite, f"{suite}.{part}"} & set(options.only):
                continue
            begun = time.monotonic()
            fresh += measure(options.short)
            print(f"{suite}.{part}: measured in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    whole = [suite for suite in SUITES if not options.only or suite in options.only]
    kept = rows.merge(rows.load(rows.RESULTS), fresh, whole)
    rows.save(kept, rows.RESULTS)
    if options.write_docs:
        document.write(kept)
    print(rows.table(fresh))
    for row in fresh:
        if row.holds is False:
            print(f"does not hold: {row.name}: {row.about}", file=sys.stderr)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure this machine; never fails on a time.")
    names = [name for suite, parts in SUITES.items() for name in (suite, *(f"{suite}.{part}" for part in parts))]
    parser.add_argument("only", nargs="*", metavar="SUITE[.PART]", help=f"what to run: {', '.join(names)}; default: all")
    parser.add_argument("--short", action="store_true", help="few samples: to see that it runs, not to publish")
    parser.add_argument("--write-docs", action="store_true", help="bring the tables of docs/benchmarks.md up to date")
    options = parser.parse_args()
    unknown = sorted(set(options.only) - set(names))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(names)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
