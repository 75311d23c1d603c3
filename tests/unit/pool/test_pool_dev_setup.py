"""The steps that prepare a host: what is done already is left alone, and what is not is said before it is done."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rbees.host.build_flags import Build, Hardware, build_for
from rbees.pool import dev_setup
from rbees.pool.dev_setup import completion_steps, hidden_from_others, llama_steps, places
from rbees.pool.dev_steps import make_folder, run, says, write_file
from rbees.protocol.errors import ErrorCode, RbeesError


def test_a_file_is_written_once_and_replaced_where_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/file"
    step = write_file("name", path, "text\n", 0o600)
    assert (step.view().state, path.exists()) == ("to do", False)
    assert step.act is not None
    step.act()
    assert (path.read_text(), path.stat().st_mode & 0o777, os.listdir(path.parent)) == ("text\n", 0o600, ["file"])
    assert write_file("name", path, "text\n").view().state == "done"
    assert "replace" in write_file("name", path, "other\n").about


def test_what_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for step in (write_file("name", tmp_path / "file/x", ""), make_folder("name", tmp_path / "file/x", lambda path: path.mkdir())):
        assert step.act is not None
        with pytest.raises(RbeesError, match="cannot be written"):
            step.act()


def test_completion_for_every_shell_in_the_places_of_the_machine(tmp_path: Path) -> None:
    where = places("system", tmp_path)
    for shell in ("bash", "zsh", "fish"):
        (step,) = completion_steps(shell, where)
        assert step.act is not None
        step.act()
        assert [again.view().state for again in completion_steps(shell, where)] == ["done"]
    share = tmp_path / "usr/local/share"
    assert (share / "bash-completion/completions/llorch").exists()
    assert (share / "zsh/site-functions/_rbees").read_text().startswith("#compdef rbees")
    assert (share / "fish/vendor_completions.d/rbees-pool.fish").exists()


def test_llama_is_built_again_only_for_what_it_lacks() -> None:
    assert [step.view().state for step in llama_steps(build_for(Hardware()))] == ["done"]
    (step,) = llama_steps(build_for(Hardware(amd=True, hipcc=True)))
    assert step.view().state == "to do"
    assert "CMAKE_ARGS='-DGGML_HIP=on'" in step.about
    lacking, present = llama_steps(build_for(Hardware(nvidia=True)))
    assert (lacking.view().state, present.view().state) == ("left out", "done")
    assert "CUDA toolkit" in lacking.about


def test_a_build_gets_the_flags_unless_the_user_has_set_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (sys.executable, "-c", f"import os; open({str(tmp_path / 'flags')!r}, 'w').write(os.environ['CMAKE_ARGS'])")
    build = Build("rocm", "-DGGML_HIP=on", "for tests")
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    dev_setup._build(words, build)
    assert (tmp_path / "flags").read_text() == "-DGGML_HIP=on"
    monkeypatch.setenv("CMAKE_ARGS", "-DMINE=on")
    dev_setup._build(words, build)
    assert (tmp_path / "flags").read_text() == "-DMINE=on"


def test_programs_that_fail_or_are_not_here() -> None:
    with pytest.raises(RbeesError, match="exit code 3"):
        run((sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(RbeesError) as caught:
        run(("no-such-program",))
    assert caught.value.code is ErrorCode.BACKEND_UNAVAILABLE
    assert says("no-such-program") == ""
    assert says(sys.executable, "-c", "print('running'); raise SystemExit(1)") == "running"


def test_what_a_service_could_not_read_is_named_with_the_folder_in_the_way(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    own, python = Path("/usr"), tmp_path / "python"
    python.mkdir(mode=0o755)
    assert hidden_from_others({"rbees": own}) is None
    said = hidden_from_others({"rbees": own, "Python": python})
    assert said is not None
    assert said.startswith(f"Python in {python}, because other users may not enter {tmp_path};")
    assert said.endswith("with a Python that every user may run")
