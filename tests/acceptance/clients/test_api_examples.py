"""The examples for clients of other APIs run as they stand, against the cluster of these tests."""

from __future__ import annotations

import json
import runpy
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.support.door import EMBEDDED, Door
from tests.support.examples import ROOT, example

PROMPT = "write a haiku with the word guitar"
CHATS = ["openai_chat.py", "openai_responses.py", "langchain_chat.py", "anthropic_chat.py", "ollama_chat.py"]
ODD = '"tab"\there \\n, two\nlines\n\n\x01 é 🐝 `x` $HOME %s\n'


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_is_streamed(door: Door, name: str) -> None:
    done = example(name, door.url, EMBEDDED, "guitar" if name == "langchain_chat.py" else PROMPT)
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


class Recorder(BaseHTTPRequestHandler):
    """Takes any job, and has an empty stream for it."""

    bodies: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(b'{"job_id":"job-1"}')

    def do_GET(self) -> None:
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("name", ["curl_chat.sh", "curl_twice.sh"])
def test_curl_sends_what_was_typed_sign_by_sign(name: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            done = example(name, f"http://127.0.0.1:{server.server_port}", 'a "model"', ODD)
        finally:
            server.shutdown()
            thread.join()
    assert done.returncode == 0, done.stderr
    sent = Recorder.bodies.pop()
    assert (sent["model"], sent["messages"]) == ('a "model"', [{"role": "user", "content": ODD}])


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("count", '{"hive": "a"}', "41000"),
        ("count", '{"hive": ["a"]}', "count cannot be called with"),
        ("count", '{"queen": "a"}', "count cannot be called with"),
        ("count", "[1]", "count cannot be called with"),
        ("count", '{"hive', "count cannot be called with"),
        ("cuont", "{}", "there are count"),
    ],
)
def test_a_call_that_cannot_be_made_is_answered(name: str, arguments: str, said: str) -> None:
    called = runpy.run_path(str(ROOT / "examples" / "openai_tools.py"))["called"]
    assert said in json.dumps(called(name, arguments))


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
    cut = example("openai_schema.py", door.url, EMBEDDED, "the sea", "--max-tokens", "3")
    assert (cut.returncode, cut.stderr.count("\n")) == (1, 1), cut.stderr
    assert "was cut" in cut.stderr


def test_lines_are_found_by_what_they_mean(door: Door, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("\n\n".join(f"line {number}" for number in range(300)))
    done = example("embeddings_search.py", door.url, door.embedder, str(file), "line 289", "--best", "2")
    assert done.returncode == 0, done.stderr
    best, second = done.stdout.splitlines()
    assert best == "1.000  579: line 289"
    assert float(second.split()[0]) <= 1.0
    file.write_bytes(b"\xff")
    for unreadable in (file, tmp_path, tmp_path / "none"):
        done = example("embeddings_search.py", door.url, door.embedder, str(unreadable), "x")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "cannot be read" in done.stderr


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


@pytest.mark.parametrize("name", [*CHATS, "openai_tools.py", "openai_schema.py"])
def test_what_is_wrong_is_said(door: Door, name: str) -> None:
    done = example(name, door.url, "haikus", "hello")
    assert done.returncode == 1
    assert "Did you mean `haiku`?" in done.stderr
