"""A pytest plugin that writes build/faults.json: one row for each fault test that ran. `make faults` names it with `-p`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.bench import rows

RESULTS = Path("build/faults.json")
_found: list[rows.Row] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what a test came to: 0 where the fault was survived, 1 where it was not."""
    if report.when == "call" or (report.when == "setup" and report.failed):
        name = "spine.faults." + re.sub(r"^test_", "", report.nodeid.rpartition("::")[2])
        _found.append(rows.at_most(name, float(report.failed), "failed", 0.0, f"survived within {report.duration:.1f} s"))


def pytest_sessionfinish() -> None:
    """Write the rows."""
    rows.save(_found, RESULTS)
