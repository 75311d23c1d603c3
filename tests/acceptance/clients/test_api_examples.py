"""The examples for clients of other APIs run as they stand, against the cluster of these tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.door import EMBEDDED, Door
from tests.support.examples import example

PROMPT = "write a haiku with the word guitar"


@pytest.mark.parametrize(
    ("name", "asked"),
    [("openai_chat.py", PROMPT), ("openai_responses.py", PROMPT), ("langchain_chat.py", "guitar")],
    ids=["openai", "responses", "langchain"],
)
def test_a_chat_is_streamed(door: Door, name: str, asked: str) -> None:
    done = example(name, door.url, EMBEDDED, asked)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 3
    assert "guitar" in done.stdout.lower()


def test_curl_gets_the_chunks_as_they_come(door: Door) -> None:
    done = example("curl_chat.sh", door.url, EMBEDDED, 'write a haiku with the word "guitar"')
    assert done.returncode == 0, done.stderr
    *chunks, last = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert last == "[DONE]"
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in json.loads(chunk)["choices"])
    assert len(text.splitlines()) == 3
    assert "guitar" in text.lower()


def test_a_model_calls_functions_and_answers(door: Door) -> None:
    done = example("openai_tools.py", door.url, door.caller, "How many bees live here?")
    assert done.returncode == 0, done.stderr
    assert "no hive is called 'é'" in done.stderr
    assert "'bees': 38500" in done.stderr
    assert done.stdout.strip()


def test_an_answer_is_an_object_of_the_programs_own_type(door: Door) -> None:
    done = example("openai_schema.py", door.url, EMBEDDED, "the sea")
    assert done.returncode == 0, done.stderr
    season, *lines = done.stdout.splitlines()
    assert season in {"spring:", "summer:", "autumn:", "winter:"}
    assert len(lines) >= 3


def test_lines_are_found_by_what_they_mean(door: Door, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("\n\n".join(f"line {number}" for number in range(300)))
    done = example("embeddings_search.py", door.url, door.embedder, str(file), "line 289", "--best", "2")
    assert done.returncode == 0, done.stderr
    best, second = done.stdout.splitlines()
    assert best == "1.000  579: line 289"
    assert float(second.split()[0]) <= 1.0


def test_every_line_of_a_file_is_answered_by_a_batch(door: Door, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("the sea\n\nbees\n")
    done = example("openai_batch.py", door.url, EMBEDDED, str(file))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert "completed: 2 of 2 answered" in done.stderr
    again = example("openai_batch.py", door.url, EMBEDDED, str(file), "--batch", done.stderr.split()[1])
    assert again.stdout == done.stdout
    wrong = example("openai_batch.py", door.url, "haikus", str(file))
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "model_not_found" in wrong.stderr


@pytest.mark.parametrize(
    "name", ["openai_chat.py", "openai_responses.py", "langchain_chat.py", "openai_tools.py", "openai_schema.py"]
)
def test_what_is_wrong_is_said(door: Door, name: str) -> None:
    done = example(name, door.url, "haikus", "hello")
    assert done.returncode == 1
    assert "Did you mean `haiku`?" in done.stderr
