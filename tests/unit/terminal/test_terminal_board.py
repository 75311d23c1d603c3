"""The lines of several hosts on one terminal."""

from __future__ import annotations

import io
import re

from rich.console import Console

from rbees.terminal.rich_views import LiveBoard


def test_what_a_host_says_gives_way_to_its_name() -> None:
    out = io.StringIO()
    board = LiveBoard(["mac", "a-workstation-in-the-attic"], Console(file=out, force_terminal=True, width=60))
    board.end("mac", "haiku", well=True)
    board.end("a-workstation-in-the-attic", "it has no `rbees-pool` " * 9, well=False)
    board.close()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n").splitlines()
    (last,) = [line for line in lines if "failed" in line]
    assert last.strip().startswith("a-workstation-in-the-attic failed: it has no")
    assert len(last) <= 60
    assert any("mac" in line and "done: haiku" in line for line in lines)
