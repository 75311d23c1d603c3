"""`llorch` as a process against an orcd that misbehaves: streams that break, answers that get lost, Ctrl-C, closed pipes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from rbees.protocol.errors import ErrorCode
from rbees.protocol.events import ChoiceEnd, End
from tests.support.shaky_orcd import JOB_ID, WORDS, ShakyOrcd, failed, finished

PROMPT = ("--model", "m", "--prompt", "a pond")


@pytest.fixture
async def orcd() -> AsyncIterator[ShakyOrcd]:
    async with ShakyOrcd() as orcd:
        yield orcd


class Llorch:
    """Starts the command in a home of its own."""

    def __init__(self, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RBEES_")}
        self.environ = {**kept, "RBEES_HOME": str(home)}

    async def start(self, orcd: ShakyOrcd, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "import sys; from rbees.cli import run; sys.exit(run('llorch', sys.argv[1:]))"),
            *words,
            env={**self.environ, "RBEES_CTL_ORCD_URL": orcd.url},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, orcd: ShakyOrcd, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        process = await self.start(orcd, *words)
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def llorch(tmp_path: Path) -> Llorch:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return Llorch(home)


async def test_an_answer_goes_to_stdout_and_all_else_to_stderr(orcd: ShakyOrcd, llorch: Llorch) -> None:
    code, out, err = await llorch.run(orcd, "jobs", "submit", *PROMPT)
    assert (code, out) == (0, "".join(WORDS) + "\n")
    assert JOB_ID in err
    (body,) = orcd.bodies
    assert body["model"] == "m"
    assert [(message["role"], message["content"]) for message in body["messages"]] == [("user", "a pond")]


async def test_a_prompt_comes_from_stdin_as_it_is(orcd: ShakyOrcd, llorch: Llorch) -> None:
    code, _, err = await llorch.run(orcd, "jobs", "submit", "--raw", "--model", "m", "--prompt", "-", stdin="a\n日本 ".encode())
    assert code == 0, err
    assert orcd.bodies[0]["prompt"] == "a\n日本 "


async def test_a_pipe_without_a_prompt_is_the_prompt(orcd: ShakyOrcd, llorch: Llorch) -> None:
    code, _, err = await llorch.run(orcd, "jobs", "submit", "--model", "m", stdin=b"said in a pipe")
    assert code == 0, err
    assert orcd.bodies[0]["messages"][0]["content"] == "said in a pipe"


async def test_a_prompt_without_its_option_is_explained(orcd: ShakyOrcd, llorch: Llorch) -> None:
    code, _, err = await llorch.run(orcd, "jobs", "submit", "--model", "m", "hello", "you")
    assert code == 2
    assert "--prompt 'hello you'" in err
    assert not orcd.bodies


async def test_text_that_is_not_utf_8_is_a_usage_error(orcd: ShakyOrcd, llorch: Llorch) -> None:
    for words, stdin in (((*PROMPT[:3], "a\udcff"), b""), ((*PROMPT[:3], "-"), b"a\xff")):
        code, out, err = await llorch.run(orcd, "jobs", "submit", *words, stdin=stdin)
        assert (code, out) == (2, "")
        assert "not valid UTF-8" in err


@pytest.mark.parametrize("cuts", [[0], [3], [1, 0, 2, 1]])
async def test_a_broken_stream_goes_on_where_it_was(orcd: ShakyOrcd, llorch: Llorch, cuts: list[int]) -> None:
    orcd.cuts = list(cuts)
    code, out, err = await llorch.run(orcd, "jobs", "submit", *PROMPT)
    assert (code, out) == (0, "".join(WORDS) + "\n"), err
    assert orcd.asked_after == [sum(cuts[:number]) for number in range(len(cuts) + 1)]


async def test_a_lost_answer_does_not_make_a_second_job(orcd: ShakyOrcd, llorch: Llorch) -> None:
    orcd.lost_answers = 1
    code, out, err = await llorch.run(orcd, "jobs", "submit", *PROMPT)
    assert (code, out) == (0, "".join(WORDS) + "\n"), err
    assert len(orcd.keys) == 2
    assert orcd.keys[0]
    assert orcd.keys[0] == orcd.keys[1]


async def test_detached_it_prints_the_id_alone(orcd: ShakyOrcd, llorch: Llorch) -> None:
    code, out, _ = await llorch.run(orcd, "jobs", "submit", *PROMPT, "--detach", "--idempotency-key", "mine")
    assert (code, out) == (0, JOB_ID + "\n")
    assert orcd.keys == ["mine"]
    assert orcd.asked_after == []


async def test_programs_get_the_acceptance_and_every_event(orcd: ShakyOrcd, llorch: Llorch) -> None:
    orcd.cuts = [3]
    code, out, err = await llorch.run(orcd, "jobs", "submit", *PROMPT, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert lines[0]["job_id"] == JOB_ID
    assert [line["seq"] for line in lines[1:]] == list(range(1, len(orcd.job) + 1))


@pytest.mark.parametrize(("code", "exit_code"), [(ErrorCode.TIMEOUT, 1), (ErrorCode.STORAGE_FULL, 74)])
async def test_a_failed_job_gives_the_exit_code_of_its_error(
    orcd: ShakyOrcd, llorch: Llorch, code: ErrorCode, exit_code: int
) -> None:
    orcd.job = failed(code, "It did not work.")
    ended, out, err = await llorch.run(orcd, "jobs", "submit", *PROMPT)
    assert (ended, out) == (exit_code, WORDS[0] + "\n")
    assert f"llorch: It did not work. [{code}]" in err


async def test_an_unknown_job_is_refused_at_once(orcd: ShakyOrcd, llorch: Llorch) -> None:
    code, out, err = await llorch.run(orcd, "jobs", "watch", "job-x")
    assert (code, out) == (1, "")
    assert "[JOB_NOT_FOUND]" in err


async def test_watching_behind_the_last_event_ends_at_once_and_as_the_job_did(orcd: ShakyOrcd, llorch: Llorch) -> None:
    words = ("jobs", "watch", JOB_ID, "--after")
    assert await llorch.run(orcd, *words, str(len(orcd.job))) == (0, "", "")
    code, out, err = await llorch.run(orcd, *words, "99999")
    assert (code, out) == (2, "")
    assert f"between 0 and {len(orcd.job)}" in err
    orcd.job = failed(ErrorCode.TIMEOUT, "It took too long.")
    code, out, err = await llorch.run(orcd, *words, str(len(orcd.job)))
    assert (code, out) == (1, "")
    assert "[TIMEOUT]" in err


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (("embed",), b"", "nothing came from stdin"),
        (("embed",), b"a\n\nb\n", "line 2 of 3 is empty"),
        (("rerank", "--query", "q"), b"a\x0bb\r\n \r\n", "line 2 of 2 is empty"),
        (("embed", "a", ""), b"", "TEXT 2 of 2 is empty"),
        (("rerank", "--query", "", "a"), b"", "`--query` takes a text of at least 1 character"),
        (("jobs", "submit", "--prompt", "x", "--stop", ""), b"", "`--stop` takes a text of at least 1 character"),
        (("jobs", "submit", "--prompt", "x", *("--stop", "y") * 33), b"", "`--stop` takes at most 32 values"),
    ],
)
async def test_a_slip_is_told_in_the_words_of_the_command_line(
    orcd: ShakyOrcd, llorch: Llorch, words: tuple[str, ...], stdin: bytes, said: str
) -> None:
    code, out, err = await llorch.run(orcd, *words, "--model", "m", stdin=stdin)
    assert (code, out) == (2, ""), err
    assert said in err
    assert not orcd.bodies


async def test_the_lines_of_a_pipe_keep_their_numbers(orcd: ShakyOrcd, llorch: Llorch) -> None:
    await llorch.run(orcd, "embed", "--model", "m", stdin="a\x0bb\r\n c\u2028d\n".encode())
    assert orcd.bodies[0]["embed"]["input"] == ["a\x0bb", " c\u2028d"]


async def until_shown(process: asyncio.subprocess.Process, text: str) -> bytes:
    assert process.stdout is not None
    seen = b""
    while text.encode() not in seen:
        piece = await process.stdout.read(64)
        assert piece, f"it ended after {seen!r}"
        seen += piece
    return seen


async def test_ctrl_c_cancels_the_job(orcd: ShakyOrcd, llorch: Llorch) -> None:
    orcd.holds_after = 4
    process = await llorch.start(orcd, "jobs", "submit", *PROMPT)
    await until_shown(process, "quiet")
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert orcd.cancelled.is_set()
    assert b"Traceback" not in err


async def test_a_second_ctrl_c_does_not_wait_for_the_first(orcd: ShakyOrcd, llorch: Llorch) -> None:
    orcd.holds_after = 4
    orcd.cancelled = NeverSet()
    process = await llorch.start(orcd, "jobs", "submit", *PROMPT)
    await until_shown(process, "quiet")
    process.send_signal(signal.SIGINT)
    await until_said(process, b"cancelling")
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"may still run" not in err, "that is said when the patience for the first one is over"
    assert b"Traceback" not in err


async def test_ctrl_c_before_the_job_is_accepted_cancels_it_as_soon_as_it_is(orcd: ShakyOrcd, llorch: Llorch) -> None:
    orcd.answering.clear()
    orcd.holds_after = 1
    process = await llorch.start(orcd, "jobs", "submit", *PROMPT)
    await orcd.asked.wait()
    process.send_signal(signal.SIGINT)
    await until_said(process, b"as soon as the orchestrator answers")
    orcd.answering.set()
    out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert orcd.cancelled.is_set()
    assert b"Traceback" not in err


async def test_ctrl_c_does_not_wait_for_an_orcd_that_never_answers(orcd: ShakyOrcd, llorch: Llorch) -> None:
    orcd.answering.clear()
    process = await llorch.start(orcd, "jobs", "submit", *PROMPT)
    await orcd.asked.wait()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"may have the job all the same" in err
    assert b"Traceback" not in err


class NeverSet(asyncio.Event):
    """A cancellation that takes no effect."""

    def set(self) -> None:
        """Stay as it is."""


async def until_said(process: asyncio.subprocess.Process, text: bytes) -> None:
    assert process.stderr is not None
    while text not in (line := await process.stderr.readline()):
        assert line, "it ended"


async def test_a_run_has_the_answer_alone_on_stdout_over_breaks(orcd: ShakyOrcd, llorch: Llorch) -> None:
    orcd.cuts = [3]
    done = await llorch.run(orcd, "run", "m", "sum", "up", "--system", "be brief", "--top-k", "3", stdin=b"the page\n")
    assert done[:2] == (0, "".join(WORDS) + "\n")
    (body,) = orcd.bodies
    said = [(message["role"], message["content"]) for message in body["messages"]]
    assert said == [("system", "be brief"), ("user", "sum up\n\nthe page\n")]
    assert body["top_k"] == 3


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        ((), "page\n", "page\n"),
        (("-",), "page\n", "page\n"),
        (("ask",), "", "ask"),
        (("ask",), " \n", "ask"),
        (("--", "--x", "y"), "", "--x y"),
    ],
)
async def test_a_run_is_asked_in_words_or_through_a_pipe(
    orcd: ShakyOrcd, llorch: Llorch, words: tuple[str, ...], stdin: str, said: str
) -> None:
    code, _, err = await llorch.run(orcd, "run", "m", *words, stdin=stdin.encode())
    assert code == 0, err
    assert [message["content"] for message in orcd.bodies[0]["messages"]] == [said]


async def test_a_run_that_cannot_be_is_refused_at_once(orcd: ShakyOrcd, llorch: Llorch, tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("{")
    (tmp_path / "list").write_text("[]")
    for words, stdin, said in (
        ((), b" \n", "prompt is empty"),
        (("",), b"", "prompt is empty"),
        (("x",), b"\xff", "not valid UTF-8"),
        (("x", "--schema", str(tmp_path / "none")), b"", "does not exist"),
        (("x", "--schema", str(tmp_path / "broken")), b"", "not valid JSON"),
        (("x", "--schema", str(tmp_path / "list")), b"", "a schema is a JSON object"),
    ):
        code, out, err = await llorch.run(orcd, "run", "m", *words, stdin=stdin)
        assert (code, out) == (2, ""), err
        assert said in err
    assert not orcd.bodies


@pytest.mark.parametrize(
    ("option", "content"), [("--schema", "{}"), ("--json-schema", "{}"), ("--grammar", 'start: "a"'), ("--regex", None)]
)
async def test_what_is_wrong_with_a_form_is_said_of_its_option(
    orcd: ShakyOrcd, llorch: Llorch, tmp_path: Path, option: str, content: str | None
) -> None:
    orcd.job = failed(ErrorCode.INVALID_REQUEST, "No answer can satisfy `response_format`; its parts contradict each other.")
    (tmp_path / "form").write_text(content or "")
    asked = str(tmp_path / "form") if content is not None else "a"
    for words in (("run", "m", "x"), ("jobs", "submit", *PROMPT)):
        code, _, err = await llorch.run(orcd, *words, option, asked)
        assert code == 2
        assert f"No answer can satisfy `{option.replace('json-', '')}`; its parts contradict" in err


async def test_a_form_that_was_cut_fails(orcd: ShakyOrcd, llorch: Llorch, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("{}")
    (end,) = (event for event in orcd.job if isinstance(event, End))
    orcd.job[-1] = msgspec.structs.replace(end, choices=(ChoiceEnd(finish_reason="length"),))
    code, out, err = await llorch.run(orcd, "run", "m", "x", "--schema", str(tmp_path / "schema.json"))
    assert (code, out) == (1, "".join(WORDS) + "\n")
    assert "the answer was cut" in err
    assert orcd.bodies[0]["response_format"] == {"type": "json_schema", "schema": {}}
    assert (await llorch.run(orcd, "run", "m", "x"))[0] == 0, "text may be cut"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_whatever_ends_a_run_cancels_its_job(orcd: ShakyOrcd, llorch: Llorch, number: signal.Signals, code: int) -> None:
    orcd.holds_after = 4
    process = await llorch.start(orcd, "run", "m", "x")
    assert process.stdin is not None
    process.stdin.close()
    await until_shown(process, "quiet")
    process.send_signal(number)
    _, err = await process.communicate()
    assert process.returncode == code
    assert orcd.cancelled.is_set()
    assert b"Traceback" not in err


async def test_a_run_says_what_it_waits_for_where_a_pipe_stays_open(orcd: ShakyOrcd, llorch: Llorch) -> None:
    process = await llorch.start(orcd, "run", "m", "x")
    await until_said(process, b"waiting for the end of standard input")
    out, _ = await process.communicate(b"the page")
    assert (process.returncode, out.decode()) == (0, "".join(WORDS) + "\n")
    assert orcd.bodies[0]["messages"][-1]["content"] == "x\n\nthe page"


async def test_a_run_whose_reader_leaves_ends_its_job_without_a_word(orcd: ShakyOrcd, llorch: Llorch) -> None:
    orcd.job = finished(("word ",) * 20_000)
    process = await llorch.start(orcd, "run", "m", "x")
    assert process.stdin is not None
    process.stdin.close()
    await until_shown(process, "word")
    assert process.stdout is not None
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert process.stderr is not None
    said = await process.stderr.read()
    assert (await process.wait(), said) == (141, b"")
    assert orcd.cancelled.is_set()


async def test_ctrl_c_ends_watching_and_not_the_job(orcd: ShakyOrcd, llorch: Llorch) -> None:
    orcd.holds_after = 4
    process = await llorch.start(orcd, "jobs", "watch", JOB_ID)
    await until_shown(process, "quiet")
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert not orcd.cancelled.is_set()
    assert err.decode().rstrip().endswith(f"the job goes on; watch it again with `llorch jobs watch {JOB_ID}`")


async def test_a_reader_that_leaves_does_not_end_the_job(orcd: ShakyOrcd, llorch: Llorch) -> None:
    orcd.job = [*orcd.job[:2], *[orcd.job[2]] * 2000, orcd.job[-1]]
    process = await llorch.start(orcd, "jobs", "submit", *PROMPT)
    await until_shown(process, "the")
    assert process.stdout is not None
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert process.stderr is not None
    err = await process.stderr.read()
    assert await process.wait() == 141, "as a shell reports SIGPIPE"
    assert b"Traceback" not in err
    assert b"BrokenPipe" not in err
    assert f"llorch jobs watch {JOB_ID}".encode() in err
    assert not orcd.cancelled.is_set()


async def test_an_orcd_that_is_not_there_is_unavailable(llorch: Llorch, orcd: ShakyOrcd) -> None:
    gone = ShakyOrcd(url="http://127.0.0.1:1")
    for words in (("jobs", "list"), ("jobs", "submit", *PROMPT), ("jobs", "watch", JOB_ID), ("pool", "list"), ("models", "list")):
        code, out, err = await llorch.run(gone, *words)
        assert (code, out) == (69, ""), err
        assert "rbees up" in err


async def test_a_pool_is_registered_by_its_name_in_the_settings(orcd: ShakyOrcd, llorch: Llorch) -> None:
    (Path(llorch.environ["RBEES_HOME"]) / "config.toml").write_text('[hosts.attic]\nurl = "https://10.0.0.7:9200"\n')
    for word in ("attic", "cellar"):
        code, _, err = await llorch.run(orcd, "pool", "register", word)
        assert code == 0, err
    assert orcd.named == ["https://10.0.0.7:9200", "http://cellar.home.arpa:9200"]


async def test_a_key_that_no_header_can_hold_is_refused(orcd: ShakyOrcd, llorch: Llorch) -> None:
    code, _, err = await llorch.run(orcd, "jobs", "submit", *PROMPT, "--idempotency-key", "a\nb")
    assert (code, orcd.bodies) == (2, [])
    assert "Idempotency-Key" in err
    assert "Traceback" not in err
