"""What `make` says on a machine that lacks something, before it downloads anything. Folders may have spaces in their names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLD = '#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.10.4" && exit 0\nexit 1\n'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder to be the whole PATH: what the scripts call, and no Python."""
    folder = tmp_path / "some programs"
    folder.mkdir()
    for name in ("sh", "dirname"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def script(name: str, programs: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "scripts" / name)], env={"PATH": str(programs), **environ}, capture_output=True, text=True, check=False
    )


def add(programs: Path, name: str, content: str) -> Path:
    path = programs / name
    path.write_text(content)
    path.chmod(0o755)
    return path


def test_a_python_that_is_too_old_is_named(programs: Path) -> None:
    add(programs, "python3", OLD)
    done = script("find-python", programs)
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs Python 3.11 or later" in done.stderr
    assert "python3 here is Python 3.10.4" in done.stderr


def test_a_later_python_of_another_name_is_found(programs: Path) -> None:
    add(programs, "python3", OLD)
    newer = add(programs, "python3.12", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    assert script("find-python", programs).stdout.strip() == str(newer)


def test_a_python_that_was_named_is_taken_or_refused(programs: Path) -> None:
    named = add(programs, "my python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    assert script("find-python", programs, PYTHON=str(named)).stdout.strip() == str(named)
    add(programs, "my python", OLD)
    assert script("find-python", programs, PYTHON=str(named)).returncode == 1


@pytest.mark.parametrize(("missing", "language"), [("CC", "C"), ("CXX", "C++")])
def test_a_missing_compiler_is_named_with_the_command_that_brings_it(programs: Path, missing: str, language: str) -> None:
    add(programs, "python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    compilers = {"CC": "sh", "CXX": "sh", missing: "no-such-compiler"}
    done = script("check-host", programs, **compilers)
    assert done.returncode == 1
    assert f"No {language} compiler (no-such-compiler) is here" in done.stderr
    assert "apt-get install build-essential" in done.stderr


def test_a_program_that_tests_need_is_named_with_the_command_that_brings_it(programs: Path) -> None:
    # Nobody but an administrator may install, so it only says what to type.
    add(programs, "id", "#!/bin/sh\necho 1000\n")
    done = subprocess.run(
        [str(ROOT / "scripts" / "test-tools"), "no-such-program:its-package"],
        env={**os.environ, "PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, "the other tests can run"
    assert "apt-get install its-package" in done.stderr
