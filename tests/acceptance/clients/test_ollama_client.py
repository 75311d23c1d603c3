"""The real `ollama` package against a running cluster: what it asks for, what it makes of the answers, and how it is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import ollama
import psutil
import pytest
from ollama import Client
from pydantic import BaseModel, ConfigDict

from tests.support.door import EMBEDDED, SAID, THOUGHT, Door
from tests.support.home import wait_until
from tests.support.hub import Hub
from tests.support.jobs import show
from tests.support.raw_http import request
from tests.support.tiny_gguf import write_tiny_gguf

HUM: Final[list[Any]] = [{"role": "user", "content": "hum"}]
COUNT: Final[list[Any]] = [
    {
        "type": "function",
        "function": {"name": "count", "parameters": {"type": "object", "properties": {"hive": {"type": "string"}}}},
    }
]


@pytest.fixture(scope="module")
def client(door: Door) -> Iterator[Client]:
    with Client(host=door.url) as made:
        yield made


def post(door: Door, path: str, body: object) -> Any:
    return request("POST", f"{door.url}/api{path}", body)


def lines(door: Door, path: str, body: object) -> list[dict[str, Any]]:
    answer = post(door, path, body)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson; charset=utf-8")
    return [json.loads(line) for line in answer.body.splitlines()]


# ---- chats ---------------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered_whole_and_says_what_it_took(client: Client, door: Door) -> None:
    options = {"seed": 1, "num_predict": 5, "num_ctx": 4096, "top_k": 20}
    asked: dict[str, Any] = {"model": door.plain, "messages": HUM, "options": options}
    first = client.chat(**asked)
    assert (first.model, first.done, first.done_reason) == (door.plain, True, "length")
    assert first.message.role == "assistant"
    assert first.message.content
    assert (first.eval_count, bool(first.prompt_eval_count)) == (5, True)
    assert first.total_duration is not None
    assert first.total_duration >= (first.load_duration or 0) + (first.eval_duration or 0)
    raw = post(door, "/chat", {**asked, "stream": False})
    assert raw.headers["x-rbees-ignored"] == "options.num_ctx"
    shown = show(door.url, raw.headers["x-rbees-job-id"])
    accepted = datetime.fromtimestamp(shown["created_at_ms"] / 1000, UTC)
    assert datetime.fromisoformat(raw.json["created_at"]) == accepted
    assert raw.json["message"]["content"] == first.message.content == shown["output"][0]["text"]


def test_a_stream_says_the_same_as_the_whole_answer(client: Client, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.plain, "messages": HUM, "options": {"seed": 7}}
    whole = client.chat(**asked)
    parts = list(client.chat(**asked, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].done_reason, parts[-1].eval_count) == (whole.done_reason, whole.eval_count)
    # Who says nothing about it gets a stream.
    told = lines(door, "/chat", asked)
    assert "".join(line["message"]["content"] for line in told) == whole.message.content


def test_the_embedded_model_answers_under_the_name_that_it_is_listed_by(client: Client) -> None:
    listed = {model.model for model in client.list().models}
    assert f"{EMBEDDED}:latest" in listed
    answers = {
        client.generate(name, "about the sea", options={"temperature": 0}).response for name in (EMBEDDED, f"{EMBEDDED}:latest")
    }
    assert len(answers) == 1
    assert all(answers)


def test_thoughts_and_calls_have_their_own_places(client: Client, door: Door) -> None:
    whole = client.chat(door.caller, HUM, tools=COUNT)
    assert (whole.message.thinking, whole.message.content, whole.done_reason) == (THOUGHT, SAID, "stop")
    calls = [(call.function.name, call.function.arguments) for call in whole.message.tool_calls or ()]
    assert calls == [("count", {"hive": "é"}), ("count", {"hive": "b"})]
    parts = list(client.chat(door.caller, HUM, tools=COUNT, stream=True))
    assert "".join(part.message.thinking or "" for part in parts) == THOUGHT
    assert "".join(part.message.content or "" for part in parts) == SAID
    (called,) = (part.message.tool_calls for part in parts if part.message.tool_calls)
    assert [(call.function.name, call.function.arguments) for call in called] == calls
    results = [{"role": "tool", "tool_name": "count", "content": "3"} for _ in calls]
    more = client.chat(door.caller, [*HUM, whole.message, *results], tools=COUNT)
    assert more.message.content == SAID
    made = client.generate(door.caller, "hum")
    assert made.thinking == THOUGHT


def test_a_function_of_python_is_a_tool(client: Client, door: Door) -> None:
    def count(hive: str) -> int:
        """Count the bees.

        Args:
            hive: which one
        """
        return len(hive)

    called = client.chat(door.caller, HUM, tools=[count])
    assert [count(**call.function.arguments) for call in called.message.tool_calls or ()] == [1, 1]


def test_whether_a_model_thinks_is_told_to_its_template(client: Client, door: Door) -> None:
    assert client.chat(door.caller, HUM, think=True).message.content
    quiet = post(door, "/chat", {"model": door.caller, "messages": HUM, "think": False, "stream": False})
    assert (quiet.status, "x-rbees-ignored" in quiet.headers) == (200, False)
    job = show(door.url, quiet.headers["x-rbees-job-id"])
    assert job["status"] == "completed"
    # One that has no such switch and does not think does what is asked anyhow, but cannot be made to think.
    for think, named in ((False, None), (True, "think")):
        answer = post(door, "/chat", {"model": door.plain, "messages": HUM, "think": think, "stream": False})
        assert (answer.status, answer.headers.get("x-rbees-ignored")) == (200, named)


class Hive(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Literal["north", "south"]
    empty: bool


def test_answers_in_a_form(client: Client) -> None:
    asked: dict[str, Any] = {"model": EMBEDDED, "messages": HUM, "options": {"temperature": 0}}
    answer = client.chat(**asked, format=Hive.model_json_schema()).message.content or ""
    assert Hive.model_validate_json(answer).name in {"north", "south"}
    made = client.generate(EMBEDDED, "hum", format="json", options={"temperature": 0, "num_predict": 200})
    assert (made.response or "").lstrip().startswith("{")


def test_log_probabilities_are_those_of_the_text(client: Client, door: Door) -> None:
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "options": {"seed": 3, "num_predict": 4}}
    whole = client.chat(door.plain, HUM, **asked)
    assert len(whole.logprobs or ()) == 4
    assert {len(one.top_logprobs or ()) for one in whole.logprobs or ()} == {2}
    streamed = [one for part in client.chat(door.plain, HUM, stream=True, **asked) for one in part.logprobs or ()]
    assert streamed == whole.logprobs


def test_a_client_that_leaves_takes_its_job_with_it(client: Client, door: Door) -> None:
    stream = client.chat(door.slow, HUM, stream=True)
    next(iter(stream))
    (job,) = request("GET", f"{door.url}/v2/tasks?model={door.slow}&status=running").json["jobs"]
    stream.close()  # type: ignore[attr-defined]  # It is a generator.
    wait_until(lambda: show(door.url, job["job_id"])["status"] == "cancelled", door.cluster.orcd, "cancel the job")


def test_a_worker_that_dies_shows_in_no_line(client: Client, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.slow, "messages": HUM, "options": {"seed": 1, "num_predict": 30}}
    undisturbed = client.chat(**asked).message.content
    parts = []
    for part in client.chat(**asked, stream=True):
        parts.append(part.message.content or "")
        if len(parts) == 5:
            (worker,) = (
                w
                for w in request("GET", f"{door.url}/v2/workers").json["workers"]
                if "slow" in w["model_ref"] and w["state"] == "ready"
            )
            psutil.Process(worker["pid"]).kill()
    assert "".join(parts) == undisturbed


def test_who_would_rather_be_told_than_wait_hears_how_far_the_model_has_loaded(door: Door) -> None:
    door.unload(door.heavy)
    for stream in (True, False):
        asked = {"model": door.heavy, "messages": HUM, "stream": stream}
        told = request("POST", f"{door.url}/api/chat", asked, headers={"Prefer": "wait=1"})
        assert (told.status, told.headers["x-rbees-error"], set(told.json)) == (503, "MODEL_LOADING", {"error"})
        assert int(told.headers["retry-after"]) >= 1
        assert 0 <= float(told.headers["x-rbees-progress"]) < 1
    # It went on loading meanwhile.
    with Client(host=door.url, headers={"Prefer": "wait=60"}) as patient:
        assert patient.chat(door.heavy, HUM).message.content


def test_a_failure_in_the_midst_is_a_line_of_its_own(client: Client, door: Door) -> None:
    stream = iter(client.chat(door.slow, HUM, stream=True))
    next(stream)
    (job,) = request("GET", f"{door.url}/v2/tasks?model={door.slow}&status=running").json["jobs"]
    assert request("DELETE", f"{door.url}/v2/tasks/{job['job_id']}").status == 202
    with pytest.raises(ollama.ResponseError, match="cancelled"):
        list(stream)


# ---- prompts -------------------------------------------------------------------------------------------------------------


def test_prompts_with_and_without_the_template(client: Client, door: Door) -> None:
    options = {"temperature": 0, "seed": 1}
    asked = client.generate(door.plain, "hum", options=options)
    chat = client.chat(door.plain, HUM, options=options)
    assert (asked.response, asked.done_reason) == (chat.message.content, chat.done_reason)
    raw = client.generate(door.plain, "hum", raw=True, options=options)
    assert raw.response
    assert raw.response != asked.response
    assert (raw.prompt_eval_count, raw.done) == (len("hum"), True)
    told = client.generate(door.plain, "hum", system="Be brief.", options=options)
    said: list[Any] = [{"role": "system", "content": "Be brief."}, *HUM]
    assert told.response == client.chat(door.plain, said, options=options).message.content
    parts = list(client.generate(door.plain, "hum", options=options, stream=True))
    assert "".join(part.response or "" for part in parts) == asked.response


def test_a_bare_curl_is_enough(door: Door) -> None:
    body = json.dumps({"model": door.plain, "prompt": "hum", "stream": False}).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = request("POST", f"{door.url}/api/generate", raw=body, headers=form)
    assert (answer.status, answer.json["done"]) == (200, True)
    elsewhere = request("POST", f"{door.url}/api/generate", raw=body, headers={**form, "Origin": "http://elsewhere.example"})
    assert (elsewhere.status, set(elsewhere.json)) == (403, {"error"})


# ---- vectors -------------------------------------------------------------------------------------------------------------


def test_vectors(client: Client, door: Door) -> None:
    both = client.embed(door.embedder, ["a bee", "a bear"])
    assert [len(one) for one in both.embeddings] == [16, 16]
    assert sum(number * number for number in both.embeddings[0]) == pytest.approx(1.0)
    assert both.prompt_eval_count == len("a bee") + len("a bear")
    assert both.total_duration
    assert client.embed(door.embedder, "a bee").embeddings[0] == pytest.approx(both.embeddings[0])
    assert len(client.embed(door.embedder, "a bee", dimensions=4).embeddings[0]) == 4
    older = client.embeddings(door.embedder, "a bee").embedding
    length = sum(number * number for number in older) ** 0.5
    assert [number / length for number in older] == pytest.approx(both.embeddings[0])
    assert client.embed(door.embedder, []).embeddings == []
    assert client.embeddings(door.embedder, "").embedding == []


# ---- models --------------------------------------------------------------------------------------------------------------


def test_models_are_listed_and_shown_by_every_name(client: Client, door: Door) -> None:
    listed = {model.model: model for model in client.list().models}
    steady = listed[f"{door.plain}:latest"]
    assert steady.details is not None
    assert (steady.details.family, steady.details.quantization_level) == ("scripted", "scripted")
    for name in (door.plain, f"{door.plain}:latest", f"{door.plain}:scripted", f"sha256:{steady.digest}"):
        found = client.show(name)
        assert found.modelinfo is not None
        assert found.modelinfo["rbees.sha256"] == steady.digest
    assert request("POST", f"{door.url}/api/show", {"name": door.plain}).status == 200
    able = {name: client.show(name).capabilities for name in (door.plain, door.caller, door.embedder, EMBEDDED)}
    assert able[door.caller] == ["completion", "tools", "thinking"]
    assert able[door.plain] == ["completion"]
    assert able[door.embedder] == ["embedding"]
    assert "completion" in (able[EMBEDDED] or ())
    haiku = client.show(EMBEDDED).modelinfo
    assert haiku is not None
    assert haiku[f"{haiku['general.architecture']}.context_length"] > 0


def test_a_model_is_loaded_kept_and_let_go(client: Client, door: Door) -> None:
    def running() -> dict[str | None, Any]:
        return {model.model: model for model in client.ps().models}

    name = f"{door.kept}:latest"
    loaded = client.generate(door.kept, keep_alive=-1)
    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
    there = running()[name]
    assert there.expires_at.year == 9999
    assert there.context_length
    client.chat(door.kept, HUM, keep_alive="1h30m")

    def left() -> timedelta:
        left: timedelta = running()[name].expires_at - datetime.now(UTC)
        return left

    assert timedelta(hours=1) < left() <= timedelta(hours=1, minutes=30)
    # A request that says nothing leaves the wish as it is.
    client.chat(door.kept, HUM)
    assert left() > timedelta(hours=1)
    let_go = client.chat(door.kept, [], keep_alive=0)
    assert (let_go.done, let_go.done_reason) == (True, "unload")
    wait_until(lambda: name not in running(), door.cluster.orcd, "unload the model")
    # It comes back for whoever asks, and goes again after an answer that was to be the last.
    assert client.chat(door.kept, HUM, keep_alive=0).message.content
    # Who asks while it goes has it loaded anew, for as long as they say and not as the one before did.
    assert client.generate(door.kept, keep_alive="2h").done_reason == "load"
    assert left() > timedelta(hours=1)
    assert client.generate(door.kept, keep_alive=0).done_reason == "unload"
    wait_until(lambda: name not in running(), door.cluster.orcd, "unload the model again")


def test_a_model_is_pulled_and_answers_under_the_name_that_it_was_pulled_by(
    client: Client, door: Door, hub: Hub, tmp_path: Path
) -> None:
    size = len(file := write_tiny_gguf(tmp_path / "tiny.gguf", layers=2, width=64, heads=4, heads_kv=2).read_bytes())
    hub.add("org/tiny-GGUF", {"tiny-UD-Q4_K_XL.gguf": file, "README.md": b"tiny"})
    name = "hf.co/org/tiny-GGUF:UD-Q4_K_XL"
    steps = list(client.pull(name, stream=True))
    assert (steps[0].status, steps[-1].status) == ("pulling manifest", "success")
    fetched = [(step.completed, step.total) for step in steps if step.digest]
    assert (fetched[0], fetched[-1]) == ((0, size), (size, size))
    assert client.generate(name, "hum", options={"num_predict": 3}).eval_count == 3
    assert "hf.co/org/tiny-GGUF:Q4_K_XL" in {model.model for model in client.list().models}
    assert client.pull(name).status == "success", "it is here already"
    with pytest.raises(ollama.ResponseError, match="it has: Q4_K_XL") as missing:
        client.pull("hf.co/org/tiny-GGUF:Q8_0")
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="no repository org/none"):
        list(client.pull("hf.co/org/none", stream=True))


def test_a_model_that_is_here_is_pulled_in_no_time_and_can_be_deleted(client: Client, door: Door) -> None:
    steps = [step.status for step in client.pull(f"{EMBEDDED}:latest", stream=True)]
    assert (steps[0], steps[-1]) == ("pulling manifest", "success")
    assert client.pull(EMBEDDED).status == "success"

    def refused(name: str) -> ollama.ResponseError:
        with pytest.raises(ollama.ResponseError) as caught:
            client.delete(name)
        return caught.value

    client.generate(EMBEDDED)
    assert refused(EMBEDDED).status_code == 409, "a worker serves it"
    client.generate(EMBEDDED, keep_alive=0)
    wait_until(lambda: refused(EMBEDDED).status_code != 409, door.cluster.orcd, "unload the model")
    packaged = refused(EMBEDDED)
    assert (packaged.status_code, "ships with rbees" in packaged.error) == (403, True)
    assert client.delete(door.spare).status == "success"
    wait_until(
        lambda: f"{door.spare}:latest" not in {model.model for model in client.list().models},
        door.cluster.orcd,
        "hear that it is gone",
    )
    gone = refused(door.spare)
    assert (gone.status_code, gone.error[:14]) == (404, "No pool holds ")


def test_what_clients_ask_first(door: Door) -> None:
    assert [request(method, door.url).status for method in ("HEAD", "GET")] == [200, 200]
    version = request("GET", f"{door.url}/api/version").json
    assert [part.isdigit() for part in version["version"].split(".")] == [True] * 3


# ---- what is refused -----------------------------------------------------------------------------------------------------

MANY: Final = [{"role": "user", "content": "x"}] * 1_025


@pytest.mark.parametrize(
    ("path", "fields", "said"),
    [
        ("/chat", {"model": 3}, "Expected `str`"),
        ("/chat", {"model": ""}, "length >= 1"),
        ("/chat", {"messages": [{"role": "root", "content": "x"}]}, "messages[0].role"),
        ("/chat", {"messages": [{"role": "user"}]}, "has no `content`"),
        ("/chat", {"messages": MANY}, "length <= 1024"),
        ("/chat", {"messages": [{"role": "user", "content": "x", "images": ["AA=="]}]}, "`messages[0].images` is not supported"),
        ("/chat", {"options": {"temperature": 2.5}}, "<= 2"),
        ("/chat", {"options": {"temperature": "hot"}}, "options.temperature"),
        ("/chat", {"options": {"num_predict": 0}}, "`options.num_predict` is 0"),
        ("/chat", {"options": {"mirostat": 2}}, "`options.mirostat` is not supported"),
        ("/chat", {"options": {"stop": ["a"] * 33}}, "length <= 32"),
        ("/chat", {"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0].function.name"),
        ("/chat", {"format": "yaml"}, "format"),
        ("/chat", {"format": {"type": "object", "minProperties": "two"}}, "`format` is not a valid schema"),
        ("/chat", {"format": {"type": "object", "properties": {"a": False}, "required": ["a"]}}, "can satisfy `format`"),
        ("/chat", {"think": "hard"}, "think"),
        ("/chat", {"keep_alive": "soon"}, "`keep_alive` is no duration"),
        ("/chat", {"top_logprobs": 3}, "needs `logprobs`"),
        ("/chat", {"truncate": "left"}, "truncate"),
        ("/chat", {"messages": [{"role": "user", "content": "bees " * 2_000}], "truncate": True}, "the context holds 1024"),
        ("/generate", {"prompt": "x", "suffix": "y"}, "`suffix` is not supported"),
        ("/generate", {"prompt": "x", "images": ["AA=="]}, "`images` is not supported"),
        ("/generate", {"prompt": "x", "template": "{{ .Prompt }}"}, "`template` is not supported"),
        ("/generate", {"prompt": "x", "context": [1, 2]}, "`context` is not supported"),
        ("/generate", {"prompt": "x", "raw": True, "system": "y"}, "`raw` leaves the template out"),
        ("/embed", {"input": ["a", 1]}, "input[1]"),
        ("/embed", {"input": "x"}, "makes no embeddings"),
        ("/embed", {"input": ["x"] * 2_049}, "length <= 2048"),
        ("/show", {"model": None}, "`model` is missing"),
        ("/pull", {"insecure": True}, "`insecure` is not supported"),
        ("/create", {}, "`/api/create` is not supported"),
        ("/copy", {"source": "a", "destination": "b"}, "`/api/copy` is not supported"),
        ("/push", {}, "`/api/push` is not supported"),
        ("/blobs/sha256:00", {}, "is not supported"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_what_does_not_fit_is_refused_in_the_shape_of_the_api(door: Door, path: str, fields: dict[str, Any], said: str) -> None:
    base: dict[str, Any] = {"model": EMBEDDED, **({"messages": HUM} if path == "/chat" else {})}
    # The head of a stream waits three seconds for what is wrong, and on a busy machine a form may take longer to be looked at.
    answer = post(door, path, {**base, "stream": False, **fields})
    assert answer.status == 400, answer.body
    assert set(answer.json) == {"error"}
    assert said in answer.json["error"]


def test_refusals_become_the_packages_own_exceptions(client: Client, door: Door) -> None:
    with pytest.raises(ollama.ResponseError, match="Did you mean `steady`") as unknown:
        client.chat("stedy:latest", HUM)
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="Did you mean `steady`"):
        list(client.chat("stedy", HUM, stream=True))
    for nowhere in ("hf.co/no/where:Q4_K_M", "steady:Q8_0"):
        with pytest.raises(ollama.ResponseError, match="No pool holds") as elsewhere:
            client.show(nowhere)
        assert elsewhere.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="makes no text"):
        client.chat(door.embedder, HUM)
    with pytest.raises(ollama.ResponseError, match="No pool holds"):
        client.chat("stedy", [], keep_alive=0)
    with pytest.raises(ollama.ResponseError):
        list(client.pull("no-such-model", stream=True))


def test_a_body_of_twenty_megabytes_and_what_is_no_json_are_refused(door: Door) -> None:
    url = f"{door.url}/api/chat"
    large = request("POST", url, {"model": door.plain, "messages": [{"role": "user", "content": "x" * 20_000_000}]})
    assert (large.status, set(large.json)) == (413, {"error"})
    for raw in (b"", b"{", b"[]", b"null", b"\xff", b'{"model": ' + b"[" * 100):
        answer = request("POST", url, raw=raw)
        assert (answer.status, set(answer.json)) == (400, {"error"})


def test_paths_and_methods_that_do_not_exist_answer_in_the_same_shape(door: Door) -> None:
    for method, path, status in (("GET", "/v1/api/tags", 404), ("GET", "/api/me", 404), ("GET", "/api/chat", 405)):
        answer = request(method, f"{door.url}{path}")
        assert (answer.status, set(answer.json)) == (status, {"error"})
        assert isinstance(answer.json["error"], str)
