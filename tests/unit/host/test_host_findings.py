"""What the doctor says of what was measured, and how llama.cpp is to be built for what is here."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from rbees.host.build_flags import AMX_ARGS, Hardware, build_for, has_amx_in_vm
from rbees.host.findings import (
    PortState,
    Verdict,
    examination,
    failed,
    of_clock,
    of_compiler,
    of_disk,
    of_port,
    of_python,
    of_versions,
    ok,
    warning,
)

NOON_MS = 1_700_000_000_000


def test_warnings_leave_a_host_healthy_and_failures_do_not() -> None:
    assert examination([ok("a", "Good."), warning("b", "Middling.")]).healthy
    assert not examination([ok("a", "Good."), failed("b", "Bad.")]).healthy


@pytest.mark.parametrize(
    ("behind_s", "verdict", "said"),
    [
        (0, "ok", "agrees"),
        (2, "ok", "agrees"),
        (-2, "ok", "agrees"),
        (3600, "warning", "3600 s behind"),
        (-60, "warning", "ahead of"),
    ],
)
def test_the_clock_beside_that_of_a_peer(behind_s: int, verdict: Verdict, said: str) -> None:
    date = formatdate(NOON_MS // 1000 + behind_s, usegmt=True)
    found = of_clock(date, NOON_MS, NOON_MS + 40, "orcd")
    assert (found.verdict, said in found.message) == (verdict, True)


def test_a_slow_answer_does_not_make_a_clock_wrong() -> None:
    assert of_clock(formatdate(NOON_MS // 1000, usegmt=True), NOON_MS - 9_000, NOON_MS + 9_000, "orcd").verdict == "ok"


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Foo 2020"])
def test_a_peer_that_does_not_tell_the_time(date: str | None) -> None:
    assert of_clock(date, NOON_MS, NOON_MS, "orcd").verdict == "warning"


def test_versions() -> None:
    assert of_versions("1.2", {}).verdict == "ok"
    assert of_versions("1.2", {"orcd": "1.2"}).verdict == "ok"
    differs = of_versions("1.2", {"orcd": "1.2", "poold mac": "1.1"})
    assert differs.verdict == "warning"
    assert "poold mac runs 1.1" in differs.message
    assert "orcd runs" not in differs.message


def test_python_compiler_and_disk() -> None:
    assert of_python((3, 13, 1), "/python", wide=True).verdict == "ok"
    assert of_python((3, 10, 9), "/python", wide=True).verdict == "failed"
    assert of_python((3, 13, 1), "/python", wide=False).verdict == "failed"
    assert of_compiler(None, needed=True).verdict == "ok"
    assert of_compiler("None is here.", needed=True).verdict == "failed"
    assert of_compiler("None is here.", needed=False).verdict == "warning"
    assert [of_disk("disk", "/x", free, "some").verdict for free in (1 << 20, 1 << 30, 1 << 40)] == ["failed", "warning", "ok"]


@pytest.mark.parametrize(
    ("state", "verdict"),
    [("free", "ok"), ("ours", "ok"), ("taken", "failed"), ("forbidden", "failed"), ("no such address", "failed")],
)
def test_ports(state: PortState, verdict: Verdict) -> None:
    assert of_port("poold", "127.0.0.1", 9200, state).verdict == verdict


@pytest.mark.parametrize(
    ("found", "accelerator", "flags", "lacks"),
    [
        (Hardware(), None, "", None),
        (Hardware(apple_silicon=True), "metal", "-DGGML_METAL=on", None),
        (Hardware(nvidia=True, nvcc=True), "cuda", "-DGGML_CUDA=on", None),
        (Hardware(nvidia=True), None, "", "nvcc"),
        (Hardware(nvcc=True), None, "", None),
        (Hardware(amd=True, hipcc=True, glslc=True), "rocm", "-DGGML_HIP=on", None),
        (Hardware(amd=True, glslc=True), "vulkan", "-DGGML_VULKAN=on", None),
        (Hardware(amd=True), None, "", "hipcc"),
        (Hardware(intel=True, glslc=True), "vulkan", "-DGGML_VULKAN=on", None),
        (Hardware(intel=True), None, "", "glslc"),
        (Hardware(amx_in_vm=True), None, AMX_ARGS, None),
        (Hardware(nvidia=True, nvcc=True, amx_in_vm=True), "cuda", f"-DGGML_CUDA=on {AMX_ARGS}", None),
    ],
)
def test_how_to_build(found: Hardware, accelerator: str | None, flags: str, lacks: str | None) -> None:
    build = build_for(found)
    assert (build.accelerator, build.cmake_args) == (accelerator, flags)
    assert lacks is None or lacks in (build.lacks or "")
    assert (build.lacks is None) == (lacks is None)


def test_the_matrix_unit_counts_in_a_virtual_machine_only() -> None:
    assert has_amx_in_vm("flags : fpu hypervisor amx_bf16 amx_tile avx512f")
    assert not has_amx_in_vm("flags : fpu amx_bf16 amx_tile avx512f")
    assert not has_amx_in_vm("flags : fpu hypervisor amx_tiles")
