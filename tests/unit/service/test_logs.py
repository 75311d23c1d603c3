"""Log lines: one JSON object each, with the correlation id, and without anything a caller sent."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import logs

SECRET = "the-canary-sings"


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    logs.configure("orcd", "info", "json")

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    return read


def fail_with_a_prompt(prompt: str) -> None:
    local_copy = prompt * 2
    raise ValueError(f"cannot work with {local_copy}")


def test_a_line_is_an_object(lines: Any) -> None:
    token = logs.correlation_id.set("abc-1")
    logs.logger().info("worker started", action="worker_start", worker_id="w1")
    logs.correlation_id.reset(token)
    logs.logger().debug("not shown")
    logs.logger().warning("later")
    first, second = lines()
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "worker started",
        "action": "worker_start",
        "worker_id": "w1",
        "role": "orcd",
        "level": "info",
        "correlation_id": "abc-1",
    }
    assert "correlation_id" not in second


def test_tracebacks_show_frames_and_no_values(lines: Any) -> None:
    try:
        fail_with_a_prompt(SECRET)
    except ValueError as error:
        logs.logger().error("request failed", action="http_defect", exc_info=error)
        logs.logger().exception("the same", action="http_defect")
    for line in lines():
        assert SECRET not in json.dumps(line)
        (link,) = line["exception"]
        assert link["type"] == "ValueError"
        assert "text" not in link
        assert link["frames"][-1].endswith("fail_with_a_prompt")


def test_our_own_texts_show_along_the_chain(lines: Any) -> None:
    try:
        try:
            fail_with_a_prompt(SECRET)
        except ValueError as error:
            raise RbeesError(ErrorCode.INTERNAL, "It broke.") from error
    except RbeesError as error:
        logs.logger().error("request failed", exc_info=error)
    (line,) = lines()
    assert [link.get("text") for link in line["exception"]] == ["INTERNAL: It broke.", None]


def test_a_group_shows_what_broke_within(lines: Any) -> None:
    def deep() -> None:
        raise RbeesError(ErrorCode.INTERNAL, "It is broken.")

    try:
        deep()
    except RbeesError as error:
        group = ExceptionGroup("of tasks", [ExceptionGroup("of others", [error]), *[ValueError(SECRET)] * 9])
    logs.logger().error("a task failed", exc_info=group)
    (line,) = lines()
    assert [link["type"] for link in line["exception"]] == [
        "ExceptionGroup",
        "ExceptionGroup",
        "RbeesError",
        "ValueError",
        "ValueError",
    ]
    assert line["exception"][2]["text"] == "INTERNAL: It is broken."
    assert line["exception"][2]["frames"][-1].endswith(" deep")
    assert SECRET not in str(line)


def test_operating_system_errors_keep_their_words(lines: Any) -> None:
    logs.logger().error("disk", exc_info=OSError(28, "No space left on device", "/secret/path"))
    (line,) = lines()
    assert line["exception"][0]["text"] == "No space left on device"


def test_other_libraries_come_through_the_same_door(lines: Any) -> None:
    logging.getLogger("aiohttp.server").warning("first line\n%s", SECRET)
    logging.getLogger("somebody").info("not shown")
    (line,) = lines()
    assert (line["event"], line["library"], line["level"], line["action"]) == (
        "first line",
        "aiohttp.server",
        "warning",
        "library_log",
    )


def test_text_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("poold", "info", "text")
    try:
        fail_with_a_prompt(SECRET)
    except ValueError as error:
        logs.logger().error("it failed", action="x", exc_info=error)
    shown = capsys.readouterr().err
    assert "it failed" in shown
    assert "fail_with_a_prompt" in shown
    assert SECRET not in shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals_whose_user_wants_them(
    environ: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NO_COLOR": "", "TERM": "xterm", **environ}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    logs.configure("poold", "info", "text")
    logs.logger().info("hello")
    assert ("\x1b[" in terminal.getvalue()) is coloured


def test_what_draws_on_terminals_stays_out_of_processes_that_only_log() -> None:
    code = "import sys, rbees.service.logs; assert 'rich' not in sys.modules; import rich.traceback"
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
