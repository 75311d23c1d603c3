"""The services of systemd and launchd: read back by systemd itself and by plistlib, and the same in packaging/."""

from __future__ import annotations

import os
import plistlib
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from rbees.host.hardware import find_hardware
from rbees.host.service_files import ROLES, Role, Scope, launchd_plist, systemd_unit, unit_name
from rbees.pool.dev_setup import start_words
from scripts import service_files
from tests.architecture.sources import ROOT


@pytest.mark.parametrize("scope", get_args(Scope))
@pytest.mark.parametrize("role", ROLES)
def test_systemd_finds_no_fault_with_a_unit(role: Role, scope: Scope, tmp_path: Path) -> None:
    odd = {"RBEES_HOME": '/home/a b/100%/$HOME/"x"\\y'}
    path = tmp_path / unit_name(role)
    path.write_text(systemd_unit(role, scope, start_words(role), odd, groups=("root",)))
    words = ["systemd-analyze", "--man=no", *(["--user"] if scope == "user" else []), "verify", str(path)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert (done.returncode, [line for line in done.stderr.splitlines() if path.name in line]) == (0, []), done.stderr


def test_words_come_back_as_they_were() -> None:
    unit = systemd_unit("poold", "user", ("/opt/my rbees/python", "100%", "$HOME", 'a"b', "c\\d"))
    assert 'ExecStart="/opt/my rbees/python" 100%% $$HOME "a\\"b" "c\\\\d"\n' in unit


def test_workers_outlive_a_restart_of_their_pool_only() -> None:
    assert "KillMode=process" in systemd_unit("poold", "user", ("x",))
    assert "KillMode" not in systemd_unit("orcd", "user", ("x",))
    assert plistlib.loads(launchd_plist("poold", ("x", "a b"), "/log").encode())["AbandonProcessGroup"] is True
    assert plistlib.loads(launchd_plist("orcd", ("x", "a b"), "/log").encode())["ProgramArguments"] == ["x", "a b"]


def test_the_services_of_packaging_are_fresh() -> None:
    folder = ROOT / "packaging"
    made = service_files.files()
    assert {name: (folder / name).read_text() for name in made} == made, "run `make docs`"


def test_hardware_is_read_from_the_files_of_the_kernel(tmp_path: Path) -> None:
    for card, vendor in (("card0", "0x8086"), ("card1", "0x1002"), ("card2", "0x1234")):
        folder = tmp_path / f"sys/class/drm/{card}/device"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags\t\t: fpu hypervisor amx_tile\n")
    found = find_hardware(tmp_path)
    assert (found.intel, found.amd, found.nvidia, found.amx_in_vm) == (True, True, False, True)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert find_hardware(tmp_path).nvidia
    assert find_hardware(tmp_path / "empty").apple_silicon == (sys.platform == "darwin" and os.uname().machine == "arm64")
