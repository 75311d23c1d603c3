"""The device `cpu`: names and features of processors, nodes of memory, and limits of containers."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from rbees.host.cpu import CpuSource, parse_processor_name
from rbees.host.numa import allowed_nodes, parse_list
from rbees.host.processor_features import features_of_linux, features_of_macos
from rbees.protocol.pools import NumaNode
from rbees.service.cgroup import ControlGroups
from tests.support.sysfs import lay_out, numa_node

MIB = 1 << 20
XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu sse4_2 avx avx2 fma f16c bmi2 avx512f avx512bw avx512vl avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8 la57
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu sse4_2 avx avx2 fma f16c bmi2 avx512f avx512bw avx512vl avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8 la57
"""
PI = """processor\t: 0
Features\t: fp asimd evtstrm aes asimdhp asimddp

Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""
UNLIKE = "Features\t: asimd asimddp i8mm bf16 sve\n\nFeatures\t: asimd asimddp\n"
MAC = """hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_SME: 0
hw.optional.AdvSIMD: 1
hw.optional.floatingpoint: 1
"""


def no_groups(root: Path) -> ControlGroups:
    return ControlGroups(root / "none", root / "nowhere")


def test_processor_names() -> None:
    assert parse_processor_name("processor\t: 0\nmodel name\t: AMD EPYC 9B45\nflags : x\n") == "AMD EPYC 9B45"
    assert parse_processor_name(PI) == "Raspberry Pi 5 Model B Rev 1.0"
    assert parse_processor_name("processor: 0\n") is None


def test_features() -> None:
    assert set(features_of_linux(XEON)) >= {"avx2", "avx512f", "avx512_vnni", "amx_int8", "fma"}
    assert "fpu" not in features_of_linux(XEON)
    assert features_of_linux(PI) == ("dotprod", "fp16", "neon")
    assert features_of_linux(UNLIKE) == ("dotprod", "neon"), "a thread may move to the core that has less"
    assert features_of_linux("") == ()
    assert features_of_macos(MAC) == ("bf16", "dotprod", "neon")
    assert features_of_macos("") == ()


def test_this_machine_has_a_cpu() -> None:
    source = CpuSource()
    (found,) = source.measure()
    assert found.device_id == "cpu"
    assert 0 < found.free_bytes <= found.total_bytes
    assert found.physical_cores is not None
    assert found.logical_cores is not None
    assert 1 <= found.physical_cores <= found.logical_cores
    assert found.utilization is None, "nothing to compare with yet"
    (again,) = source.measure()
    assert again.utilization is not None


def test_in_a_container_all_and_free_follow_the_limit(tmp_path: Path) -> None:
    stat = "anon 104857600\ninactive_file 209715200"
    lay_out(
        tmp_path,
        {
            "fs/memory.max": 512 * MIB,
            "fs/memory.current": 300 * MIB,
            "fs/memory.stat": stat,
            "fs/cpu.max": "100000 100000",
            "self": "0::/",
            "proc/cpuinfo": XEON,
        },
    )
    (found,) = CpuSource(ControlGroups(tmp_path / "self", tmp_path / "fs"), tmp_path).measure()
    assert (found.total_bytes, found.free_bytes) == (512 * MIB, 412 * MIB), "file cache can be dropped"
    assert (found.physical_cores, found.logical_cores) == (1, 1)
    assert found.name == "Intel(R) Xeon(R) Platinum 8480+"
    assert "amx_tile" in found.features
    lay_out(tmp_path, {"fs/memory.current": 500 * MIB})
    (found,) = CpuSource(ControlGroups(tmp_path / "self", tmp_path / "fs"), tmp_path).measure()
    assert found.free_bytes == 212 * MIB


def test_nodes_of_memory(tmp_path: Path) -> None:
    numa_node(tmp_path, 0, "0-31,64-95", 1000, 300, 200)
    numa_node(tmp_path, 1, "32-63,96-127", 2000, 100)
    numa_node(tmp_path, 10, "", 4000, 4000)
    lay_out(tmp_path, {"proc/self/status": "Name:\tpython\nMems_allowed_list:\t0-1,10"})
    (found,) = CpuSource(no_groups(tmp_path), tmp_path).measure()
    assert found.numa == (
        NumaNode(node=0, processors="0-31,64-95", total_bytes=1000 << 10, free_bytes=500 << 10),
        NumaNode(node=1, processors="32-63,96-127", total_bytes=2000 << 10, free_bytes=100 << 10),
        NumaNode(node=10, processors="", total_bytes=4000 << 10, free_bytes=4000 << 10),
    )
    assert found.total_bytes == psutil.virtual_memory().total


def test_who_may_use_some_nodes_only_has_their_memory(tmp_path: Path) -> None:
    numa_node(tmp_path, 0, "0-1", 1000, 300)
    numa_node(tmp_path, 1, "2-3", 2000, 100)
    lay_out(tmp_path, {"proc/self/status": "Mems_allowed_list:\t1"})
    (found,) = CpuSource(no_groups(tmp_path), tmp_path).measure()
    assert (found.total_bytes, found.free_bytes, found.numa) == (2000 << 10, 100 << 10, ())


def test_one_node_and_none(tmp_path: Path) -> None:
    assert allowed_nodes(tmp_path) == ((), False)
    numa_node(tmp_path, 0, "0-3", 1000, 300)
    numa_node(tmp_path, 1, "", 0, 0)
    nodes, some_are_forbidden = allowed_nodes(tmp_path)
    assert ([node.node for node in nodes], some_are_forbidden) == ([0], False)


@pytest.mark.parametrize(("text", "numbers"), [("0", [0]), ("0-2,5", [0, 1, 2, 5]), ("", []), ("x,3-y,7", [7]), ("-4", [])])
def test_lists_of_numbers(text: str, numbers: list[int]) -> None:
    assert list(parse_list(text)) == numbers
