"""Physical cores that may be used, over laid-out folders: threads of one core count once, and a quota counts."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from rbees.service.cgroup import ControlGroups
from rbees.service.cores import usable_cores


def processors(folder: Path, *cores: tuple[int, ...], name: str = "core_cpus_list") -> Path:
    """A machine with these cores, each given by the numbers of its threads."""
    for core in cores:
        for number in core:
            topology = folder / f"cpu{number}" / "topology"
            topology.mkdir(parents=True)
            (topology / name).write_text(",".join(map(str, core)) + "\n")
    return folder


def groups(folder: Path, cpu_max: str | None = None) -> ControlGroups:
    membership = folder / "membership"
    membership.write_text("0::/box\n")
    (folder / "groups" / "box").mkdir(parents=True)
    if cpu_max is not None:
        (folder / "groups" / "box" / "cpu.max").write_text(cpu_max)
    return ControlGroups(membership, folder / "groups")


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
@pytest.mark.parametrize(
    ("allowed", "cpu_max", "expected"),
    [
        ((0, 1, 2, 3, 4, 5, 6, 7), None, 4),
        ((0, 4, 1, 5), None, 2),
        ((0, 1), None, 2),
        ((3,), None, 1),
        (range(8), "max 100000", 4),
        (range(8), "200000 100000", 2),
        (range(8), "150000 100000", 2),
        (range(8), "20000 100000", 1),
        ((0, 4), "300000 100000", 1),
    ],
)
def test_threads_of_one_core_count_once_and_the_tighter_limit_counts(
    tmp_path: Path, name: str, allowed: tuple[int, ...], cpu_max: str | None, expected: int
) -> None:
    machine = processors(tmp_path / "cpu", (0, 4), (1, 5), (2, 6), (3, 7), name=name)
    assert usable_cores(groups(tmp_path, cpu_max), machine, allowed) == expected


def test_without_a_word_of_the_system_the_affinity_bounds_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    machine = processors(tmp_path / "cpu", (0,), (1,))
    unlimited = groups(tmp_path)
    assert usable_cores(unlimited, tmp_path / "none", range(16)) == 8
    assert usable_cores(unlimited, tmp_path / "none", range(3)) == 3
    assert usable_cores(unlimited, machine, range(4)) == 4, "it says something of two of them only"


def test_this_machine_has_some() -> None:
    assert 1 <= usable_cores() <= (psutil.cpu_count() or 1)
