"""`llorch chat` on terminals and through pipes, and `llorch run`, with the embedded model and scripted ones in one home."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbees.terminal.line_editor import entries
from tests.support.chat_templates import HERMES
from tests.support.home import Finished, Home, entry_point, wait_until
from tests.support.raw_http import request
from tests.support.screens import OnScreen
from tests.support.scripted_models import write_script

PROMPT = ">>> "
ANSWER = "Seven bees."
PROSE = "A hive in summer holds some forty thousand workers, a few hundred drones and only one queen, 蜂の女王、 who stays."
CODE = "for bee in hive: " + "print(bee.name, bee.age_days, bee.task) or " * 2 + "rest()"


@pytest.fixture(scope="module")
def up() -> Iterator[Home]:
    with Home() as home:
        models = home.folder / "models"
        write_script(models, "thinker", chat_template=HERMES, answer=f"<think>\nhm hm\n</think>\n\n{ANSWER}")
        write_script(models, "endless", tokens_per_second=20, answer_tokens=5_000)
        write_script(models, "steady", tokens_per_second=20, answer_tokens=40)
        write_script(models, "teller", answer=f"{PROSE}\n```\n{CODE}\n```")
        home.up("--model-dir", str(models))
        yield home


def on_screen(home: Home, *words: str, term: str = "xterm", columns: int = 80, **environ: str) -> OnScreen:
    return OnScreen([*entry_point("llorch"), *words], home.environ(RBEES_CTL_ORCD_URL=home.url, TERM=term, **environ), columns)


def piped(home: Home, *words: str, stdin: str = "") -> Finished:
    done = subprocess.run(
        [*entry_point("llorch"), *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env=home.environ(RBEES_CTL_ORCD_URL=home.url),
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def until_asked(shown: OnScreen, number: int) -> str:
    """What stands there once the chat asks for the `number`th time."""
    wait_until(lambda: shown.process.poll() is not None or shown.shown.count(PROMPT) >= number, what=f"ask {number} times")
    assert shown.process.poll() is None, shown.shown
    return shown.shown


def jobs(home: Home) -> list[dict[str, Any]]:
    """Newest first."""
    listed: list[dict[str, Any]] = request("GET", f"{home.url}/v2/tasks?limit=100").json["jobs"]
    return listed


def test_a_chat_is_one_conversation_with_editing_history_and_commands(up: Home, tmp_path: Path) -> None:
    with on_screen(up, "chat", "--model", "thinker") as shown:
        assert "chat with thinker" in until_asked(shown, 1)
        shown.press("how many?\r")
        first = until_asked(shown, 2)
        assert first.index("hm") < first.index(ANSWER), "thoughts come before the answer"
        assert "2" in shown.picture.colours, "and are dimmed"
        assert "tokens/s, first after" in first
        shown.press("\x1b[A\x01So, \r")
        assert "prompt tokens cached" in until_asked(shown, 3)[len(first) :]
        shown.press('"""one\r')
        shown.wait_for("... ")
        shown.press('two"""\r')
        until_asked(shown, 4)
        shown.press("/nope\r")
        assert "There is no command `/nope`; /help lists them." in until_asked(shown, 5)
        shown.press("/sa\t")
        shown.wait_for("/save")
        shown.press(f" {tmp_path}/kept.json\r")
        assert f"saved in {tmp_path}/kept.json" in until_asked(shown, 6)
        shown.press("\x03")
        until_asked(shown, 7)
        shown.press("\x03")
        assert shown.end() == 130
        assert shown.attributes == shown.before, "the terminal is as it was"
    turns = [(turn["role"], turn["content"]) for turn in json.loads((tmp_path / "kept.json").read_text())["messages"]]
    asked = ["how many?", "So, how many?", "one\ntwo"]
    assert turns == [turn for text in asked for turn in (("user", text), ("assistant", ANSWER))]
    three = jobs(up)[:3]
    assert len({job["session_id"] for job in three}) == 1
    assert three[0]["session_id"].startswith("chat-")

    with on_screen(up, "chat", "--load", f"{tmp_path}/kept.json") as shown:
        assert "3 questions were answered in it" in until_asked(shown, 1)
        shown.press("\x1b[A\x1b[A\x1b[A\x1b[A")
        shown.wait_for("So, how many?")
        shown.press("\x15/retry\r")
        assert shown.wait_for("prompt tokens cached").count(ANSWER) == 1
        until_asked(shown, 2)
        assert shown.end(signal.SIGTERM) == 143
        assert shown.attributes == shown.before, "also where it is ended from elsewhere"


def test_ctrl_c_stops_the_answer_and_not_the_chat(up: Home) -> None:
    with on_screen(up, "run", "endless") as shown:
        until_asked(shown, 1)
        shown.press("talk\r")
        wait_until(lambda: any(job["model"] == "endless" and job["last_seq"] > 9 for job in jobs(up)[:1]), what="stream")
        shown.press("\x03")
        assert "stopped; what came is kept" in until_asked(shown, 2)
        wait_until(lambda: jobs(up)[0]["status"] == "cancelled", what="be cancelled")
        shown.press("/model haikoo\r")
        assert "Did you mean `haiku`?" in until_asked(shown, 3)
        shown.press("/model haiku\r")
        until_asked(shown, 4)
        shown.press("/clear\rmoon\r")
        assert "tokens/s" in until_asked(shown, 6)
        shown.press("\x04")
        assert shown.end() == 0
    assert (jobs(up)[0]["model"], jobs(up)[0]["status"]) == ("haiku", "completed")


def test_a_dumb_terminal_gets_lines_and_no_sequences(up: Home) -> None:
    with on_screen(up, "chat", "--model", "thinker", term="dumb") as shown:
        until_asked(shown, 1)
        shown.press("how many?\r")
        assert ANSWER in until_asked(shown, 2)
        shown.press("\x04")
        assert shown.end() == 0
        assert not shown.picture.colours


def test_an_answer_is_broken_between_words_on_the_screen_alone(up: Home, tmp_path: Path) -> None:
    with on_screen(up, "chat", "--model", "teller") as shown:
        until_asked(shown, 1)
        shown.press("talk\r")
        first = until_asked(shown, 2)
        assert "drones and\r\nonly one" in first, "80 columns end within that word"
        assert f"```\r\n{CODE}\r\n```" in first
        shown.press(f"/save {tmp_path}/kept.json\r")
        until_asked(shown, 3)
        shown.press("/show\r")
        assert PROSE in until_asked(shown, 5)[len(first) :], "to be copied, it is there as it was said"
        shown.press("\x04")
        assert shown.end() == 0
    said = json.loads((tmp_path / "kept.json").read_text())["messages"][1]["content"]
    assert said == f"{PROSE}\n```\n{CODE}\n```"
    assert piped(up, "chat", "--model", "teller", stdin="talk").stdout == f"{said}\n"


def test_what_was_typed_comes_back_also_where_the_locale_has_ascii_alone(up: Home, tmp_path: Path) -> None:
    # A home of its own, so that nothing but these chats is in its history.
    home = str(tmp_path)
    for locale, keys in (("C.UTF-8", "schön?\r"), ("C", "\x1b[A\r"), ("C", "größer?\r"), ("C", "\x1b[A\x1b[A\r")):
        with on_screen(up, "chat", "--model", "thinker", LC_ALL=locale, RBEES_HOME=home) as shown:
            until_asked(shown, 1)
            shown.press(keys)
            wait_until(lambda: PROMPT in shown.wait_for(ANSWER).partition(ANSWER)[2], what="ask again")
            shown.press("\x04")
            assert shown.end() == 0
    (history,) = tmp_path.rglob("chat_history.jsonl")
    assert entries(history) == ["schön?", "schön?", "größer?", "schön?"]


def test_through_a_pipe_the_answers_alone_are_on_stdout(up: Home) -> None:
    done = piped(up, "chat", "--model", "thinker", stdin='one\n/set top_k 3\n"""two\nthree')
    assert (done.returncode, done.stdout) == (0, f"{ANSWER}\n{ANSWER}\n"), done.said
    assert "top_k 3" in done.stderr
    failed = piped(up, "chat", "--model", "thinker", stdin="/retry\nmore\n")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "Nothing was asked yet" in failed.stderr


def test_a_conversation_whose_model_is_not_there_goes_on_with_another(up: Home, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    assert piped(up, "chat", "--model", "thinker", stdin=f"one\n/save {path}\n").returncode == 0
    path.write_text(path.read_text().replace('"thinker"', '"thinkr"'))
    done = piped(up, "chat", "--model", "thinker", stdin=f"/load {path}\n/show\n/retry\n")
    assert (done.returncode, done.stdout) == (0, f"{ANSWER}\n"), done.said
    assert "The one that answers now goes on with it." in done.stderr
    assert "1 question was answered in it" in done.stderr
    refused = piped(up, "chat", "--load", str(path))
    assert refused.returncode == 1
    assert "With `--model NAME` another one goes on" in refused.stderr


def test_a_schema_gives_json(up: Home, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"mood": {"enum": ["calm", "wild"]}}, "required": ["mood"]}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({**schema, "additionalProperties": False}))
    done = piped(up, "run", "haiku", "What is the sea like?", "--schema", str(path), stdin="the sea")
    assert done.returncode == 0, done.said
    assert done.json["mood"] in {"calm", "wild"}
    cut = piped(up, "chat", "--model", "haiku", "--schema", str(path), "--max-tokens", "2", stdin="the sea\nthe moon\n")
    assert (cut.returncode, cut.stdout.count("\n")) == (1, 1), "half a form is none, and nothing more is asked"


def test_a_conversation_that_has_outgrown_the_context_says_what_can_be_done(up: Home, tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    turns = [{"role": "user", "content": "word " * 3_000}, {"role": "assistant", "content": "ah"}]
    path.write_text(
        json.dumps({"rbees_chat": 1, "model": "haiku", "system": "be brief", "messages": turns, "options": {"top_k": 3}})
    )
    with on_screen(up, "chat", "--load", str(path)) as shown:
        until_asked(shown, 1)
        shown.press("more?\r")
        said = until_asked(shown, 2)
        assert re.search(r"[0-9]{4,} .*1024|1024.* [0-9]{4,}", said), said
        assert "[CONTEXT_EXCEEDED]" in said
        assert "/clear forgets the conversation" in said
        shown.press(f"/save {tmp_path}/again.json\r")
        until_asked(shown, 3)
        shown.press("/clear\r")
        until_asked(shown, 4)
        shown.press("the sea\r")
        assert "tokens/s" in until_asked(shown, 5)
        shown.press("\x04")
        assert shown.end() == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert (again["model"], again["system"], again["options"]) == ("haiku", "be brief", {"top_k": 3})
    assert [turn["content"] for turn in again["messages"]] == [turn["content"] for turn in turns], "what failed was not said"


def test_a_prompt_beyond_the_context_and_an_unknown_model_are_told_with_what_helps(up: Home) -> None:
    long = piped(up, "run", "haiku", stdin="word " * 3_000)
    assert (long.returncode, long.stdout) == (1, ""), long.said
    assert "1024" in long.stderr
    assert "CONTEXT_EXCEEDED" in long.stderr
    unknown = piped(up, "chat", "--model", "thinkr")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "Did you mean `thinker`" in unknown.stderr


def test_an_answer_goes_on_where_it_was_when_the_orchestrator_was_killed(up: Home) -> None:
    words = ("run", "steady", "talk", "--seed", "1")
    undisturbed = piped(up, *words)
    assert undisturbed.returncode == 0, undisturbed.said
    running = up.start(*words, program="llorch", environ={"RBEES_CTL_ORCD_URL": up.url})
    wait_until(lambda: len(running.stdout) > 20, running, "answer")
    up.of_role("orcd").kill()
    assert running.wait() == 0, running.said
    assert running.stdout == undisturbed.stdout
