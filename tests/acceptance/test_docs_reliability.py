"""docs/reliability.md is true: its walk-through is typed as it stands, but for the ports, and prints what the page shows."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.architecture.sources import ROOT
from tests.support.fault_matrix import MATRIX
from tests.support.home import free_port

PAGE: Final = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
BLOCK: Final = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TYPED: Final = ("mkdir ", "for ", "llorch ", "job=", "curl ", "kill ")
"""How blocks begin that are typed; the others show what comes."""
WALK_S: Final = 90.0


def _pattern(shown: str) -> re.Pattern[str]:
    """A line as the page shows it, with anything for `…` and any number of blanks between columns."""
    words = [".*".join(map(re.escape, word.split("…"))) for word in shown.split()]
    return re.compile(r"^\s*" + r"\s+".join(words) + r"\s*$", re.MULTILINE)


def test_the_walk_prints_what_the_page_shows(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE)
    typed = [block for block in blocks if block.startswith(TYPED)]
    shown = [line for block in blocks if block not in typed for line in block.splitlines()]
    assert (len(typed), len(shown)) == (7, 13)
    text = "".join(typed)
    for port in ("8080", "9200"):
        text = text.replace(port, str(free_port()))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RBEES_")}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        walk = subprocess.Popen(
            ["bash", "-c", f"set -e\n{text}"],
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            ended = walk.wait(WALK_S)
        finally:
            # However the walk ends, nothing of it stays: its daemons are of its group, and poold ends the workers.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(walk.pid, signal.SIGTERM)
            walk.wait(WALK_S)
    said = output.read_text(encoding="utf-8")
    assert ended == 0, said
    for line in shown:
        assert _pattern(line).search(said), f"the page shows this, which does not come:\n{line}\n\n{said}"


def test_every_fault_of_the_matrix_stands_on_the_page() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|", PAGE, re.MULTILINE)
    assert rows[1:] == [(fault.what, fault.caused, fault.expected) for fault in MATRIX.values()]
