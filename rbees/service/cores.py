"""How many physical cores this process may use: what its affinity, its control groups and the machine have in common.

Two threads of one core share its arithmetic units, so that a core whose threads are both allowed counts once. The folder is an
argument so that tests can lay it out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psutil

from rbees.service.cgroup import ControlGroups

PROCESSORS: Final = Path("/sys/devices/system/cpu")
_SIBLINGS: Final = ("core_cpus_list", "thread_siblings_list")
"""The processors of one core, by the file's name of today and by that of older kernels."""


def usable_cores(groups: ControlGroups | None = None, processors: Path = PROCESSORS, allowed: Iterable[int] | None = None) -> int:
    """Physical cores, at least 1: the distinct ones among the `allowed` processors (this process's affinity unless given), and
    not more than the quota of its control groups, rounded up."""
    if allowed is None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(psutil.cpu_count() or 1)
    numbers = list(allowed)
    cores = _distinct(processors, numbers) or min(psutil.cpu_count(logical=False) or len(numbers), len(numbers))
    quota = (groups or ControlGroups()).processor_limit()
    return max(1, min(cores, quota or cores))


def _distinct(processors: Path, numbers: list[int]) -> int | None:
    """Cores among these processors; None where the system does not say of each which ones share its core."""
    siblings = [_siblings(processors / f"cpu{number}" / "topology") for number in numbers]
    return None if None in siblings else len(set(siblings))


def _siblings(topology: Path) -> str | None:
    for name in _SIBLINGS:
        try:
            return (topology / name).read_text(encoding="ascii").strip() or None
        except (OSError, ValueError):
            continue
    return None
