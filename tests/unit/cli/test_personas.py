"""The right role for every name and word, and the right exit code and sentence for everything that goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from rbees import cli
from rbees.personas import CALLED_NAMES, PERSONAS
from rbees.protocol.errors import ERROR_TABLE, ErrorCode, RbeesError


@pytest.mark.parametrize("name", PERSONAS)
def test_every_persona_has_help_and_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("rbees", [name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: rbees {name}")


@pytest.mark.parametrize("called", CALLED_NAMES)
def test_every_other_name_plays_its_role(called: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(called, ["--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: {called} ")


def test_help_lists_every_persona(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("rbees", ["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in PERSONAS)


@pytest.mark.parametrize(
    ("called", "words", "suggestion"),
    [
        ("rbees", ["orcdd"], "orcd"),
        ("rbees", ["ctl", "jbos"], "jobs"),
        ("llorch", ["jobs", "sumbit"], "submit"),
        ("rbees-poold", ["srve"], "serve"),
        ("llorch", ["jobs", "list", "--stat", "queued"], "--status"),
    ],
)
def test_a_slip_is_a_usage_error_with_a_suggestion(
    called: str, words: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(called, words) == 2
    said = capsys.readouterr()
    assert "Did you mean" in said.err or "did you mean" in said.err
    assert suggestion in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["serve"]),
        (["--model", "x.gguf"], ["serve", "--model", "x.gguf"]),
        (["serve", "--port", "1"], ["serve", "--port", "1"]),
        (["--help"], ["--help"]),
        (["--version"], ["--version"]),
        (["--debug", "--port", "1"], ["--debug", "serve", "--port", "1"]),
        (["nonsense"], ["nonsense"]),
    ],
)
def test_a_daemons_own_name_without_a_subcommand_means_serve(words: list[str], expected: list[str]) -> None:
    assert cli._with_serve(words) == expected


def failing(error: BaseException) -> click.Command:
    def fail() -> None:
        raise error

    return click.Command("failing", callback=fail, params=[click.Option(["--json"], is_flag=True, expose_value=False)])


def playing(error: BaseException, *words: str) -> int:
    """The exit code of a command that fails so."""
    return cli.run("llorch", words, role=lambda _persona: failing(error))


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_becomes_one_sentence_and_its_exit_code(code: ErrorCode, capsys: pytest.CaptureFixture[str]) -> None:
    assert playing(RbeesError(code, "Do this instead.", path="/x", count=3)) == ERROR_TABLE[code].exit_code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"llorch: Do this instead. [{code}]\n  path: /x\n  count: 3\n"


def test_a_program_gets_the_envelope(capsys: pytest.CaptureFixture[str]) -> None:
    assert playing(RbeesError(ErrorCode.JOB_NOT_FOUND, "No such job.", job_id="job-1"), "--json") == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["code"], error["message"], error["details"]) == ("JOB_NOT_FOUND", "No such job.", {"job_id": "job-1"})


def test_a_usage_error_is_an_envelope_too_where_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("llorch", ["jobs", "list", "--limit", "many", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("called", "words"),
    [
        ("llorch", ["jobs", "show", "\udcff"]),
        ("llorch", ["jobs", "submit", "--model", "m", "--prompt", "p", "--session-id", "\udcff"]),
        ("llorch", ["pool", "register", "\udcff"]),
        ("rbees", ["\udcff"]),
    ],
)
def test_words_that_are_not_utf_8_are_refused(called: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(called, words) == 2
    assert f"Word {len(words)} of the command line is not valid UTF-8." in capsys.readouterr().err


def test_json_behind_two_dashes_is_a_word() -> None:
    assert cli.wants_json(["a", "--json"])
    assert not cli.wants_json(["a", "--", "--json"])


def test_an_interruption_is_130_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert playing(KeyboardInterrupt()) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_defect_is_not_dressed_up_as_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        playing(ZeroDivisionError())


def test_debug_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert playing(RbeesError(ErrorCode.CONFIGURATION, "Wrong."), "--debug") == 78
    assert "Traceback" in capsys.readouterr().err


def test_help_imports_no_role_and_nothing_heavy() -> None:
    script = (
        "import sys; from rbees import cli; code = cli.run('rbees', ['--help'])\n"
        "heavy = {'aiohttp', 'rich', 'msgspec', 'asyncio', 'structlog', 'psutil'} & sys.modules.keys()\n"
        "roles = [name for name in sys.modules if name.startswith('rbees.') and name not in ('rbees.cli', 'rbees.personas')]\n"
        "sys.exit(f'{heavy} {roles}' if heavy or roles or code else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_pipe_that_closes_is_no_failure_worth_a_word() -> None:
    program = "import sys; from rbees import cli; sys.exit(cli.run('rbees', ['completion', 'zsh']))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


@pytest.mark.parametrize("words", [["--help"], ["version", "--json"], ["completion", "zsh"]], ids=lambda words: words[0])
def test_an_output_that_is_full_is_an_input_output_error(words: list[str]) -> None:
    program = "import sys; from rbees import cli; sys.exit(cli.run('rbees', sys.argv[1:]))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 74
    assert "Traceback" not in done.stderr
    assert "The output cannot be written: No space left on device" in done.stderr
    assert "[STORAGE_FULL]" in done.stderr or "--json" in words


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_stream_that_is_closed_from_the_start_is_an_empty_one(closed: int) -> None:
    command = ["sh", "-c", f'exec "$0" -m rbees version {closed}>&-', sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("rbees" in done.stdout) is (closed != 1)
