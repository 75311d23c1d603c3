"""Limits of control groups, in both layouts, at every level."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbees.service.cgroup import ControlGroups, MemoryLimit


def lay_out(root: Path, files: dict[str, str], membership: str) -> ControlGroups:
    for name, content in files.items():
        path = root / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (root / "self").write_text(membership)
    return ControlGroups(root / "self", root / "fs")


def test_no_groups_no_limits(tmp_path: Path) -> None:
    groups = ControlGroups(tmp_path / "missing", tmp_path / "nowhere")
    assert groups.memory_limit() is None
    assert groups.processor_limit() is None


def test_version_2_takes_the_level_that_leaves_least(tmp_path: Path) -> None:
    groups = lay_out(
        tmp_path,
        {
            "memory.max": "max\n",
            "cpu.max": "max 100000\n",
            "pod/memory.max": "1000\n",
            "pod/memory.current": "900\n",
            "pod/memory.stat": "anon 600\ninactive_file 300\nfile 300\n",
            "pod/cpu.max": "250000 100000\n",
            "pod/app/memory.max": "800\n",
            "pod/app/memory.current": "100\n",
            "pod/app/cpu.max": "max 100000\n",
        },
        "0::/pod/app\n",
    )
    assert groups.memory_limit() == MemoryLimit(1000, 600)
    assert groups.processor_limit() == 3


def test_inside_a_container_the_root_is_the_own_group(tmp_path: Path) -> None:
    groups = lay_out(tmp_path, {"memory.max": "5000\n", "memory.current": "1\n"}, "0::/kubepods/abc/def\n")
    limit = groups.memory_limit()
    assert limit is not None
    assert limit.free_bytes == 4999


def test_version_1(tmp_path: Path) -> None:
    groups = lay_out(
        tmp_path,
        {
            "memory/docker/x/memory.limit_in_bytes": "2000\n",
            "memory/docker/x/memory.usage_in_bytes": "1500\n",
            "memory/docker/x/memory.stat": "inactive_file 9\ntotal_inactive_file 500\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "50000\n",
            "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n",
    )
    assert groups.memory_limit() == MemoryLimit(2000, 1000)
    assert groups.processor_limit() == 1


def test_a_group_over_its_limit_has_nothing_free() -> None:
    assert MemoryLimit(10, 20).free_bytes == 0


@pytest.mark.parametrize("content", ["", "garbage", "-5", "0 0", "max 0"])
def test_nonsense_is_no_limit(tmp_path: Path, content: str) -> None:
    groups = lay_out(tmp_path, {"memory.max": content, "cpu.max": content}, "0::/../../etc\nnonsense\n")
    assert groups.memory_limit() is None
    assert groups.processor_limit() is None
