"""A pytest plugin that prints the matrix of faults with the figures that its tests reached, and writes build/faults.json: those
figures, and one row for each fault test that ran. `make faults` names it with `-p`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.bench import rows
from tests.support import fault_matrix

RESULTS = Path("build/faults.json")
_tests: list[rows.Row] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what a test came to: 0 where the fault was survived, 1 where it was not."""
    if report.when == "call" or (report.when == "setup" and report.failed):
        name = "spine.faults." + re.sub(r"^test_", "", report.nodeid.rpartition("::")[2])
        _tests.append(rows.at_most(name, float(report.failed), "failed", 0.0, f"survived within {report.duration:.1f} s"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrix."""
    terminalreporter.section("faults and figures")
    terminalreporter.write_line(fault_matrix.table(fault_matrix.figures()))


def pytest_sessionfinish() -> None:
    """Write the rows."""
    rows.save([*fault_matrix.figures(), *_tests], RESULTS)
