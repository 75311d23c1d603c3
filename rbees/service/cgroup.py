"""The limits that Linux control groups (version 2, or version 1) set on this process: memory and processor time.

Every level from the process's own group up to the root is looked at, because the tightest one counts. The folders are
arguments so that tests can lay them out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Version 1 writes "no limit" as the largest multiple of the page size.
_NO_LIMIT_BYTES: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The level that leaves least: its limit, and what of it is in use without cache that can be dropped."""

    limit_bytes: int
    used_bytes: int

    @property
    def free_bytes(self) -> int:
        """What may still be taken."""
        return max(0, self.limit_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """The control groups of one process."""

    membership: Path = Path("/proc/self/cgroup")
    mount: Path = Path("/sys/fs/cgroup")

    def memory_limit(self) -> MemoryLimit | None:
        """The tightest memory limit, or None where none is set."""
        limits = [limit for folder in self._unified_folders() if (limit := _memory(folder, "memory.max", "memory.current"))]
        limits += [
            limit
            for folder in self._legacy_folders("memory")
            if (limit := _memory(folder, "memory.limit_in_bytes", "memory.usage_in_bytes"))
        ]
        return min(limits, key=lambda limit: limit.free_bytes, default=None)

    def processor_limit(self) -> int | None:
        """Whole processors' worth of time that may be used (rounded up), or None where no quota is set."""
        quotas = [quota for folder in self._unified_folders() if (quota := _unified_quota(folder))]
        quotas += [quota for folder in self._legacy_folders("cpu") if (quota := _legacy_quota(folder))]
        return max(1, math.ceil(min(quotas))) if quotas else None

    def _unified_folders(self) -> Iterator[Path]:
        for hierarchy, _controllers, path in self._memberships():
            if hierarchy == "0":
                yield from _upwards(self.mount, path)

    def _legacy_folders(self, controller: str) -> Iterator[Path]:
        for hierarchy, controllers, path in self._memberships():
            if hierarchy != "0" and controller in controllers.split(","):
                yield from _upwards(self.mount / controllers, path)
                yield from _upwards(self.mount / controller, path)

    def _memberships(self) -> Iterator[tuple[str, str, str]]:
        for line in (_read(self.membership) or "").splitlines():
            hierarchy, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            yield hierarchy, controllers, path


def _upwards(root: Path, path: str) -> Iterator[Path]:
    # A container sees its group mounted as the root while the membership names the path outside: the root is always tried.
    folder = root / path.lstrip("/")
    while folder != root and root in folder.parents:
        yield folder
        folder = folder.parent
    yield root


def _memory(folder: Path, limit_name: str, usage_name: str) -> MemoryLimit | None:
    limit, usage = _number(folder / limit_name), _number(folder / usage_name)
    if limit is None or limit >= _NO_LIMIT_BYTES:
        return None
    return MemoryLimit(limit, max(0, (usage or 0) - _droppable_bytes(folder)))


def _droppable_bytes(folder: Path) -> int:
    """File cache that the kernel gives back on demand: mapped model files are no use of memory in this sense."""
    found = {}
    for line in (_read(folder / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        found[name] = int(value) if value.isdecimal() else 0
    return found.get("total_inactive_file", found.get("inactive_file", 0))


def _unified_quota(folder: Path) -> float | None:
    quota, _, period = (_read(folder / "cpu.max") or "").strip().partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _legacy_quota(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period else None


def _number(path: Path) -> int | None:
    text = (_read(path) or "").strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
