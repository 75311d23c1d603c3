"""The history of what was typed: whole messages, the newest ones, over odd files."""

from __future__ import annotations

import stat
from pathlib import Path

from rbees.terminal.line_editor import LONGEST_HISTORY, append_entry, entries


def test_a_message_of_several_lines_stays_one_entry_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "history"
    assert entries(path) == []
    assert entries(None) == []
    append_entry(path, "one\ntwo \u2028 \x1b")
    append_entry(path, "three")
    assert entries(path) == ["one\ntwo \u2028 \x1b", "three"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_history_stays_short_and_passes_over_what_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text('"old"\n' * (2 * LONGEST_HISTORY) + '"ne' + "\n7\n" + '"new"\n')
    assert entries(path) == ["old"] * (LONGEST_HISTORY - 3) + ["new"]
    assert len(path.read_text().splitlines()) == LONGEST_HISTORY
    assert [entry.name for entry in tmp_path.iterdir()] == ["history"]
