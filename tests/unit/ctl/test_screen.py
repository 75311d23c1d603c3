"""What a followed job looks like to people and to programs."""

from __future__ import annotations

import io
import json

import msgspec
import pytest

from rbees.ctl.screen import UNKNOWN, JsonScreen, PeopleScreen, describe, result_lines
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import (
    ChoiceEnd,
    Embedding,
    End,
    Error,
    Event,
    Metrics,
    Queued,
    Ranked,
    Result,
    Started,
    Timings,
    Token,
    Usage,
)
from rbees.protocol.jobs import JobAccepted
from rbees.protocol.vectors import Embeddings, Ranking
from rbees.terminal.answer import AnswerWriter
from rbees.terminal.notes import PlainNotes

RUNNING: list[Event] = [
    Queued(queue_position=2, created_at_ms=1),
    Metrics(stage="loading", pool_id="mac", progress=0.0),
    Metrics(stage="loading", pool_id="mac", progress=0.1),
    Metrics(stage="loading", pool_id="mac", progress=0.6),
    Started(epoch=1, worker_id="w", model="m", prompt_tokens=3),
    Token(text="one ", index=0),
    Metrics(stage="attempt_failed", epoch=1, pool_id="mac", reason="its worker died"),
    Token(text="two", index=1),
]


def show(events: list[Event], *, shares_terminal: bool = False) -> tuple[str, str]:
    answer, said = io.StringIO(), io.StringIO()
    screen = PeopleScreen(AnswerWriter(answer), PlainNotes(said), shares_terminal=shares_terminal)
    for seq, event in enumerate(events, 1):
        screen.show(seq, event)
    screen.leave()
    return answer.getvalue(), said.getvalue()


def test_the_answer_alone_is_on_stdout() -> None:
    answer, said = show(RUNNING)
    assert answer == "one two\n"
    assert said.splitlines() == [
        "queued, position 2",
        "loading the model on mac 0%",
        "loading the model on mac 60%",
        "attempt 1 failed on mac: its worker died",
    ]


def test_further_answers_follow_the_first_one_whole_and_numbered() -> None:
    end = End(
        choices=(ChoiceEnd(finish_reason="stop"), ChoiceEnd(choice=1, finish_reason="stop")),
        usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=4),
        timings=Timings(prefill_ms=1, decode_ms=1),
    )
    tokens = [Token(choice=choice, text=f"{choice}{i} ", index=i) for i in range(2) for choice in range(2)]
    answer, _ = show([*tokens, end])
    assert answer == "00 01 \n\n[2]\n10 11 \n"


@pytest.mark.parametrize(
    ("max_tokens", "said"),
    [
        (4, "the answer was cut at max_tokens=4"),
        (9, "the answer was cut: the model's context is full"),
        (None, "the answer was cut: the model's context is full"),
        (UNKNOWN, "the answer was cut at max_tokens or at the end of the model's context"),
    ],
)
def test_a_cut_answer_is_told_from_a_complete_one(max_tokens: int | None, said: str) -> None:
    end = End(
        choices=(ChoiceEnd(finish_reason="length"),),
        usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=4),
        timings=Timings(prefill_ms=1, decode_ms=1),
    )
    answer, notes = io.StringIO(), io.StringIO()
    screen = PeopleScreen(AnswerWriter(answer), PlainNotes(notes), shares_terminal=True, max_tokens=max_tokens)
    screen.show(1, Token(text="cut", index=0))
    screen.show(2, end)
    assert answer.getvalue() == "cut\n", "the note is no part of the answer"
    assert notes.getvalue() == f"{said}\n"
    complete = msgspec.structs.replace(end, choices=(ChoiceEnd(finish_reason="stop"),))
    assert "cut" not in show([Token(text="whole", index=0), complete])[1]


def test_nothing_falls_into_an_answer_that_runs_on_the_same_terminal() -> None:
    _, said = show(RUNNING, shares_terminal=True)
    assert "failed" not in said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


THINKING: list[Event] = [
    Token(part="reasoning", text="hm", index=0),
    Token(text="yes", index=1),
    Token(part="tool", text="\n[x]", index=2),
]


@pytest.mark.parametrize(
    ("stream", "reasoning", "shown"),
    [
        (Terminal, True, "\x1b[2mhm\x1b[22m\n\nyes\n[x]\n"),
        (Terminal, False, "yes\n[x]\n"),
        (io.StringIO, True, "yes\n[x]\n"),
    ],
)
def test_thoughts_are_dimmed_on_a_terminal_and_nowhere_else(
    stream: type[io.StringIO], reasoning: bool, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    answer = stream()
    screen = PeopleScreen(AnswerWriter(answer), PlainNotes(io.StringIO()), shares_terminal=False, reasoning=reasoning)
    for seq, event in enumerate(THINKING, 1):
        screen.show(seq, event)
    screen.leave()
    assert answer.getvalue() == shown


def test_a_failed_job_is_its_error_and_ends_the_line() -> None:
    answer = io.StringIO()
    screen = PeopleScreen(AnswerWriter(answer), PlainNotes(io.StringIO()), shares_terminal=False)
    screen.show(1, Token(text="half", index=0))
    with pytest.raises(RbeesError) as raised:
        screen.show(2, Error(error=ErrorBody(code=ErrorCode.TIMEOUT, message="It took too long.")))
    assert raised.value.exit_code == 1
    assert answer.getvalue() == "half\n"


def test_programs_get_every_event_as_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = JsonScreen()
    screen.accepted(JobAccepted(job_id="job-1", status="queued", queue_position=1, events_url="/x", seed=5))
    for seq, event in enumerate(RUNNING, 1):
        screen.show(seq, event)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["type"] == "accepted"
    assert lines[0]["job_id"] == "job-1"
    assert [line["seq"] for line in lines[1:]] == list(range(1, len(RUNNING) + 1))
    assert [line["text"] for line in lines if line["type"] == "token"] == ["one ", "two"]


@pytest.mark.parametrize("stage", ["waiting", "loading", "prefill", "attempt_failed", "attempt_started"])
def test_every_stage_has_words(stage: str) -> None:
    assert describe(Metrics(stage=stage))  # type: ignore[arg-type]


def test_vectors_come_a_line_each_and_ranked_documents_with_their_text() -> None:
    made = Result(embeddings=(Embedding(index=0, embedding=(0.5, -1.0), tokens=1), Embedding(index=1, embedding="AAA=", tokens=1)))
    answer, _ = show([*RUNNING[:5], made])
    assert answer == '[0.5,-1.0]\n"AAA="\n'
    ranked = (Ranked(index=1, relevance_score=1.25, tokens=1), Ranked(index=0, relevance_score=-3.5, tokens=1))
    assert list(result_lines(Result(ranking=ranked), ["a\tb", "bee\n\x1b"])) == ["1.25\t1\tbee \u241b", "-3.5\t0\ta b"]
    assert list(result_lines(Ranking(results=ranked))) == ["1.25\t1", "-3.5\t0"]
    assert list(result_lines(Embeddings(embeddings=made.embeddings))) == ["[0.5,-1.0]", '"AAA="']
