"""What comes of jobs, pools and downloads, as Ollama's clients read it: whole, in lines, and as errors."""

from __future__ import annotations

import json
from typing import Any

import ollama
import pytest
from pydantic import BaseModel

from rbees.orcd.door.collected import Collected
from rbees.orcd.ollama import errors
from rbees.orcd.ollama.models import Loaded, loaded_models, model_list, running, shown_model
from rbees.orcd.ollama.pull import PullLines
from rbees.orcd.ollama.text_answers import (
    Spell,
    Stamp,
    TextLines,
    chat_line,
    generate_line,
    loaded,
    unloaded,
    waiting,
    whole_answer,
)
from rbees.orcd.ollama.vectors import EmbedPrompt, EmbedTexts, embed_answer, embedding_answer
from rbees.protocol.chat import ToolCall
from rbees.protocol.codec import encode
from rbees.protocol.downloads import (
    DownloadDone,
    DownloadEvent,
    DownloadFailed,
    DownloadPlanned,
    DownloadProgress,
    PoolChosen,
    SourceDropped,
)
from rbees.protocol.errors import ERROR_TABLE, ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import (
    ChoiceEnd,
    Embedding,
    End,
    Event,
    Metrics,
    Queued,
    Result,
    Started,
    Timings,
    Token,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from rbees.protocol.pools import ModelView
from tests.simulation import facts
from tests.support.host_facts import model

STAMP = Stamp("bees:latest", "2026-01-02T03:04:05.678Z")
CALLS = (ToolCall(id="c1", name="count", arguments={"x": 1}), ToolCall(id="c2", name="weigh", arguments={}))
LOGPROBS = (
    TokenLogprob(token_id=1, text="On", logprob=-0.5, top=(TopLogprob(token_id=1, text="On", logprob=-0.5),)),
    TokenLogprob(token_id=2, text="�", bytes=(195,), logprob=-1.0),
)
COUNTS = {
    "total_duration": 9_500_000,
    "load_duration": 2_000_000,
    "prompt_eval_count": 10,
    "prompt_eval_duration": 1_250_000,
    "eval_count": 6,
    "eval_duration": 3_000_000,
}


def end(*calls: ToolCall, **timings: Any) -> End:
    return End(
        choices=(ChoiceEnd(finish_reason="tool_calls" if calls else "stop", tool_calls=calls),),
        usage=Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=6),
        timings=Timings(prefill_ms=1.25, decode_ms=3.0, **(timings or {"queued_ms": 2.0, "total_ms": 9.5})),
    )


EVENTS: tuple[Event, ...] = (
    Queued(queue_position=1, created_at_ms=1),
    Metrics(stage="loading", progress=0.5),
    Started(epoch=1, worker_id="w", model="file:/m", prompt_tokens=10),
    Token(text="hm", index=0, part="reasoning"),
    Token(text="On", index=1, logprobs=LOGPROBS),
    Token(text="ce", index=3),
    Token(text="<call>{}</call>", index=4, part="tool"),
    Metrics(stage="attempt_failed"),
    end(*CALLS),
)


def collected(*events: Event) -> Collected:
    made = Collected(1)
    for event in events:
        made.take(event)
    return made


def plain(answer: Any, package: type[BaseModel]) -> dict[str, Any]:
    """An answer as JSON, which the package's own type reads."""
    package.model_validate_json(encode(answer))
    read: dict[str, Any] = json.loads(encode(answer))
    return read


def lines(spell: Spell, package: type[BaseModel], *events: Event) -> list[dict[str, Any]]:
    translation = TextLines(spell, STAMP)
    data = b"".join(translation.take(0, event) for event in events) + translation.ended()
    told = data.splitlines()
    for line in told:
        package.model_validate_json(line)
    return [json.loads(line) for line in told]


def test_a_whole_chat_with_thoughts_and_calls() -> None:
    answer = plain(whole_answer(chat_line, STAMP, collected(*EVENTS)), ollama.ChatResponse)
    assert answer.pop("logprobs") == [
        {
            "token": "On",
            "bytes": [79, 110],
            "logprob": -0.5,
            "top_logprobs": [{"token": "On", "bytes": [79, 110], "logprob": -0.5}],
        },
        {"token": "�", "bytes": [195], "logprob": -1.0},
    ]
    calls = [
        {"id": "c1", "function": {"index": 0, "name": "count", "arguments": {"x": 1}}},
        {"id": "c2", "function": {"index": 1, "name": "weigh", "arguments": {}}},
    ]
    assert answer == {
        "model": "bees:latest",
        "created_at": "2026-01-02T03:04:05.678Z",
        "message": {"role": "assistant", "content": "Once", "thinking": "hm", "tool_calls": calls},
        "done": True,
        "done_reason": "stop",
        **COUNTS,
    }


def test_the_lines_of_a_chat() -> None:
    first, *middle, last = lines(chat_line, ollama.ChatResponse, *EVENTS)
    assert first["message"] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert [line["message"]["content"] for line in middle] == ["On", "ce", ""]
    assert [len(line.get("logprobs", ())) for line in middle] == [2, 0, 0]
    assert [call["function"]["name"] for call in middle[-1]["message"]["tool_calls"]] == ["count", "weigh"]
    assert not any(line["done"] or "done_reason" in line or "eval_count" in line for line in (first, *middle))
    assert last["message"] == {"role": "assistant", "content": ""}
    assert {name: last[name] for name in ("done", "done_reason", *COUNTS)} == {"done": True, "done_reason": "stop", **COUNTS}


def test_prompts_have_their_text_beside_them() -> None:
    events = (*EVENTS[:-1], end())
    answer = plain(whole_answer(generate_line, STAMP, collected(*events)), ollama.GenerateResponse)
    assert (answer["response"], answer["thinking"], answer["done_reason"]) == ("Once", "hm", "stop")
    assert "message" not in answer
    told = lines(generate_line, ollama.GenerateResponse, *events)
    assert [(line["response"], line.get("thinking")) for line in told] == [("", "hm"), ("On", None), ("ce", None), ("", None)]
    cut = End(choices=(ChoiceEnd(finish_reason="length"),), usage=end().usage, timings=end().timings)
    assert lines(generate_line, ollama.GenerateResponse, cut)[-1]["done_reason"] == "length"


def test_where_nobody_measured_the_whole_it_is_the_sum() -> None:
    (last,) = lines(chat_line, ollama.ChatResponse, end(queued_ms=None))
    assert (last["total_duration"], last["load_duration"]) == (4_250_000, 0)


def test_models_that_come_and_go() -> None:
    answer = plain(loaded(generate_line, STAMP, collected(*EVENTS)), ollama.GenerateResponse)
    assert (answer["response"], answer["done"], answer["done_reason"], answer["load_duration"]) == ("", True, "load", 2_000_000)
    assert "eval_count" not in answer
    gone = plain(unloaded(chat_line, STAMP), ollama.ChatResponse)
    assert (gone["message"]["content"], gone["done"], gone["done_reason"]) == ("", True, "unload")


def test_what_is_sent_while_a_model_loads_adds_nothing() -> None:
    for spell, package in ((chat_line, ollama.ChatResponse), (generate_line, ollama.GenerateResponse)):
        data = waiting(spell, STAMP)
        assert data.endswith(b"\n")
        read: Any = package.model_validate_json(data)
        assert (read.done, read.get("response") or read.get("message", {}).get("content", "")) == (False, "")


@pytest.mark.parametrize("code", ERROR_TABLE)
def test_every_failure_is_one_sentence_and_names_its_code(code: ErrorCode) -> None:
    error = RbeesError(code, "Do it otherwise.")
    assert json.loads(encode(errors.body_of(error))) == {"error": "Do it otherwise."}
    assert errors.headers_of(error) == {"X-Rbees-Error": code}
    loading = RbeesError(code, "Ask again.", progress=0.25)
    assert errors.headers_of(loading) == {"X-Rbees-Error": code, "X-Rbees-Progress": "0.25"}
    expected = 400 if code in {ErrorCode.CONTEXT_EXCEEDED, ErrorCode.MODEL_INCOMPATIBLE} else ERROR_TABLE[code].http_status
    assert errors.status_of(error) == expected


def test_a_refusal_calls_fields_as_this_api_does() -> None:
    for code in (ErrorCode.INVALID_REQUEST, ErrorCode.CONTEXT_EXCEEDED):
        error = RbeesError(code, "Lower `max_tokens`, or leave out `response_format` or `stop`.")
        assert errors.body_of(error).error == "Lower `options.num_predict`, or leave out `format` or `stop`."
    unknown = RbeesError(ErrorCode.MODEL_NOT_FOUND, "No pool holds the model `reasoning`.")
    assert errors.body_of(unknown).error == unknown.message


def test_a_failed_stream_ends_with_the_failure() -> None:
    assert TextLines(chat_line, STAMP).failed(RbeesError(ErrorCode.TIMEOUT, "Too slow.")) == b'{"error":"Too slow."}\n'


def test_vectors() -> None:
    results = Result(embeddings=tuple(Embedding(index=n, embedding=(0.5, float(n)), tokens=2) for n in (0, 1)))
    ended = End(choices=(), usage=Usage(prompt_tokens=4, cached_tokens=0, completion_tokens=0), timings=end().timings)
    several = plain(embed_answer(EmbedTexts(model="m", input=("a", "b")), collected(results, ended)), ollama.EmbedResponse)
    assert several == {
        "model": "m",
        "embeddings": [[0.5, 0.0], [0.5, 1.0]],
        "total_duration": 9_500_000,
        "load_duration": 2_000_000,
        "prompt_eval_count": 4,
    }
    one = plain(embedding_answer(EmbedPrompt(model="m", prompt="a"), collected(results, ended)), ollama.EmbeddingsResponse)
    assert one == {"embedding": [0.5, 0.0]}
    only_loaded = collected(results, ended)
    assert plain(embed_answer(EmbedTexts(model="m"), only_loaded), ollama.EmbedResponse)["embeddings"] == []
    assert plain(embedding_answer(EmbedPrompt(model="m"), only_loaded), ollama.EmbeddingsResponse) == {"embedding": []}


BEES = model(
    "file:/b.gguf", aliases=("bees",), sha256="b" * 64, capabilities=("generate", "chat"), template_words=("tools", "</think>")
)
WASPS = model("file:/w.gguf", aliases=("wasps",), sha256="a" * 64, parameters=494_030_000, capabilities=("embed",))


def test_models_are_listed_with_those_first_that_are_ready() -> None:
    views = [ModelView(facts=WASPS, pools=("a",), ready_workers=0), ModelView(facts=BEES, pools=("a",), ready_workers=1)]
    by_name = {"bees": BEES, "wasps": WASPS}
    answer = plain(model_list(views, by_name.get), ollama.ListResponse)
    assert [(one["name"], one["details"]["parameter_size"]) for one in answer["models"]] == [
        ("bees:latest", "7.0B"),
        ("wasps:latest", "494.03M"),
    ]
    assert answer["models"][0]["digest"] == "b" * 64


def test_a_model_is_shown_by_what_its_file_says() -> None:
    answer = plain(shown_model(BEES), ollama.ShowResponse)
    assert answer["capabilities"] == ["completion", "tools", "thinking"]
    assert answer["model_info"]["llama.context_length"] == 32_768
    assert answer["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "7.0B",
        "quantization_level": "Q4_K_M",
    }
    assert plain(shown_model(WASPS), ollama.ShowResponse)["capabilities"] == ["embedding"]
    assert shown_model(model(parameters=0, architecture="scripted")).details.parameter_size == "0"


def test_what_is_loaded_is_told_by_model() -> None:
    small = facts.model("small", 1 << 30)
    workers = [
        facts.worker("w1", small),
        facts.worker("w2", small, device_id="cuda:0", ctx=4096),
        facts.worker("w3", facts.model("large", 2 << 30), "loading"),
    ]
    models = [small, facts.model("large", 2 << 30)]
    held = loaded_models(models, workers)
    assert [(one.ref, [worker.worker_id for worker in have]) for one, have in held] == [("small", ["w1", "w2"])]
    answer = running([Loaded(one, have, "9999-12-31T23:59:59Z") for one, have in held], models, {"small": small}.get)
    (told,) = plain(answer, ollama.ProcessResponse)["models"]
    assert (told["size"], told["size_vram"]) == (sum(w.memory_bytes for w in workers[:2]), workers[1].memory_bytes)
    assert (told["expires_at"], told["context_length"]) == ("9999-12-31T23:59:59Z", 4096)


def test_a_download_is_told_step_by_step() -> None:
    steps: list[DownloadEvent] = [
        PoolChosen(pool_id="a", why="It fits."),
        DownloadPlanned(model_ref="hf:o/r@c", files=("x",), total_bytes=9),
        DownloadProgress(done_bytes=4, total_bytes=9),
        SourceDropped(source="http://b:1", why="It lied."),
        DownloadDone(model_ref="hf:o/r@c", sha256="a", paths=(), fetched_bytes=9),
    ]
    translation = PullLines()
    told = [line for step in steps for line in translation.take(step).splitlines()]
    for line in told:
        ollama.ProgressResponse.model_validate_json(line)
    here = {"status": "pulling hf:o/r@c", "digest": "hf:o/r@c", "total": 9}
    assert [json.loads(line) for line in told] == [
        {"status": "pulling manifest"},
        {**here, "completed": 0},
        {**here, "completed": 4},
        {"status": "success"},
    ]
    failed = DownloadFailed(error=ErrorBody(code=ErrorCode.DOWNLOAD_FAILED, message="The hub is away."))
    assert translation.take(failed) == b'{"error":"The hub is away."}\n'
