"""What Ollama's clients ask for, as jobs: every field of their own package, and what becomes of the others."""

from __future__ import annotations

from typing import Any

import ollama
import pytest
from ollama import _types as theirs

from rbees.orcd.door.foreign import Foreign, described, read_foreign
from rbees.orcd.door.model_names import Found
from rbees.orcd.ollama.models import NamedRequest, ShowRequest
from rbees.orcd.ollama.options import ModelRequest, Options, thinking
from rbees.orcd.ollama.pull import PullRequest, download_of
from rbees.orcd.ollama.text import ChatRequest, GenerateRequest, chat_asked, generate_asked, loading_job
from rbees.orcd.ollama.vectors import EmbedPrompt, EmbedTexts, embed_job, prompt_job
from rbees.protocol.chat import ChatMessage, Tool, ToolCall
from rbees.protocol.codec import encode
from rbees.protocol.downloads import DownloadRequest
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job
from rbees.protocol.response_format import JsonObjectFormat, JsonSchemaFormat
from rbees.protocol.sampling import MAX_SEED
from tests.support.host_facts import model

HUM: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hum"}]}
ABLE = ("generate", "chat")
FOUND = Found("m", model(capabilities=ABLE))
THINKS = Found("m", model(capabilities=ABLE, template_words=("tools", "enable_thinking", "</think>")))


def chat(found: Found = FOUND, **fields: Any) -> JobRequest:
    asked = chat_asked(read_foreign(encode({**HUM, **fields}), ChatRequest).request, found)
    check_job(asked.job)
    return asked.job


def generate(found: Found = FOUND, **fields: Any) -> JobRequest:
    job = generate_asked(read_foreign(encode({"model": "m", "prompt": "hum", **fields}), GenerateRequest).request, found).job
    check_job(job)
    return job


def refused(**fields: Any) -> RbeesError:
    with pytest.raises(RbeesError) as caught:
        chat(**fields)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    return caught.value


@pytest.mark.parametrize(
    ("ours", "package"),
    [
        (ChatRequest, theirs.ChatRequest),
        (GenerateRequest, theirs.GenerateRequest),
        (Options, ollama.Options),
        (EmbedTexts, theirs.EmbedRequest),
        (EmbedPrompt, theirs.EmbeddingsRequest),
        (PullRequest, theirs.PullRequest),
        (ShowRequest, theirs.ShowRequest),
        (NamedRequest, theirs.DeleteRequest),
    ],
)
def test_every_field_of_the_package_is_honoured_refused_or_ignored_by_name(ours: type[Foreign], package: Any) -> None:
    assert set(package.model_fields) <= {*ours.__struct_fields__, *ours.refused, *ours.passed_over}


@pytest.mark.parametrize("type_", [ChatRequest, GenerateRequest, Options, EmbedTexts, EmbedPrompt, PullRequest, ShowRequest])
def test_every_field_says_what_becomes_of_it(type_: type[Foreign]) -> None:
    assert not [name for name, about in described(type_) if not about]
    assert not set(type_.__struct_fields__) & (set(type_.refused) | set(type_.passed_over))


def test_with_nothing_said_everything_is_left_to_the_defaults() -> None:
    plain = JobRequest(model="m", messages=(ChatMessage(role="user", content="hum"),), cancel_on_disconnect=True)
    assert chat() == generate() == plain
    nulls: dict[str, Any] = {name: None for name in ChatRequest.__struct_fields__ if name not in HUM}
    assert chat(**nulls) == plain
    # What the package sends for a prompt, though nobody asked for it.
    assert generate(suffix="", system="", template="", images=[], raw=False, options={}) == plain


def test_options_go_over_under_their_own_or_another_name() -> None:
    options = {"temperature": 0, "top_p": 0.0, "top_k": -1, "min_p": 0.1, "typical_p": 0.9, "repeat_penalty": 1.1, "stop": "x"}
    more = {"repeat_last_n": -1, "frequency_penalty": 0.5, "presence_penalty": -0.5, "seed": -2, "num_predict": 7}
    job = chat(options={**options, **more}, logprobs=True, top_logprobs=2)
    assert (job.temperature, job.top_k, job.min_p, job.typical_p) == (0, 0, 0.1, 0.9)
    assert 0 < job.top_p < 0.001
    assert (job.repetition_penalty, job.penalty_last_n, job.stop, job.max_tokens) == (1.1, -1, ("x",), 7)
    assert (job.frequency_penalty, job.presence_penalty, job.seed) == (0.5, -0.5, -2 & MAX_SEED)
    assert (job.logprobs, job.top_logprobs) == (True, 2)
    assert chat(options={"stop": ["a", "b"]}).stop == ("a", "b")
    assert chat(options={"stop": ""}) == chat(options={"stop": [""]}) == chat()
    assert chat(options={"seed": -1, "num_predict": -1}) == chat(options={"num_predict": -2}) == chat()


def test_options_that_nobody_reads_are_named_and_what_would_draw_otherwise_is_refused() -> None:
    options = {**dict.fromkeys(Options.passed_over, 1), "mirostat": 0, "tfs_z": 1.0, "sparkle": 2}
    reading = read_foreign(encode({**HUM, "options": options, "glitter": 1}), ChatRequest)
    assert set(reading.passed_over) == {"glitter", "options.sparkle", *(f"options.{name}" for name in Options.passed_over)}
    assert refused(options={"mirostat": 1}).details["field"] == "options.mirostat"
    assert refused(options={"num_predict": 0}).details["field"] == "options.num_predict"
    assert chat(truncate=False, shift=False) == chat(truncate=True, shift=True) == generate(truncate=True, shift=True) == chat()
    assert refused(truncate="left").details["field"] == "truncate"


def test_the_most_tokens_are_a_bound_that_the_context_may_cut() -> None:
    assert (chat(options={"num_predict": 4096}).fit_context, chat().fit_context) == (True, False)


def test_forms() -> None:
    assert chat(format="").response_format is None
    assert chat(format="json").response_format == JsonObjectFormat()
    assert chat(format={"type": "object"}).response_format == JsonSchemaFormat(schema={"type": "object"})


@pytest.mark.parametrize(
    ("think", "words", "options", "unmet"),
    [
        (None, ("enable_thinking",), {}, ()),
        (True, ("tools", "enable_thinking"), {"enable_thinking": True}, ()),
        (False, ("enable_thinking",), {"enable_thinking": False}, ()),
        ("high", ("reasoning_effort",), {"reasoning_effort": "high"}, ()),
        ("low", ("enable_thinking",), {"enable_thinking": True}, ("think",)),
        (False, ("reasoning_effort",), {}, ("think",)),
        # One that always thinks, and one that never does.
        (True, ("</think>",), {}, ()),
        (False, ("</think>",), {}, ("think",)),
        (True, ("tools",), {}, ("think",)),
        (False, (), {}, ()),
        ("max", (), {}, ("think",)),
    ],
)
def test_thinking_is_told_to_templates_that_can_be_told(
    think: bool | str | None, words: tuple[str, ...], options: dict[str, Any], unmet: tuple[str, ...]
) -> None:
    found = Found("m", model(capabilities=ABLE, template_words=words))
    assert thinking(think, found.facts) == (options, unmet)
    asked = chat_asked(read_foreign(encode({**HUM, "think": think}), ChatRequest).request, found)
    assert (asked.job.template_options, asked.unmet) == (options, unmet)


def test_of_a_model_that_nobody_knows_yet_nothing_can_be_told() -> None:
    assert thinking(False, None) == ({}, ("think",))


def test_a_conversation_with_tools() -> None:
    parameters = {"type": "object", "properties": {"hive": {"type": "string"}}}
    calls = [
        {"function": {"name": "count", "arguments": {"hive": "a"}}},
        {"id": "own", "type": "function", "function": {"index": 1, "name": "weigh"}},
    ]
    job = chat(
        messages=[
            {"role": "system", "content": "Be brief."},
            *HUM["messages"],
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": calls},
            {"role": "tool", "tool_name": "weigh", "content": "5"},
            {"role": "tool", "content": "3"},
            {"role": "tool", "tool_call_id": "other", "content": "?"},
            {"role": "assistant", "content": "", "thinking": ""},
            *HUM["messages"],
        ],
        tools=[
            {"type": "function", "function": {"name": "count", "description": "Count.", "parameters": parameters}},
            {"function": {"name": "weigh"}},
        ],
    )
    assert job.tools == (Tool(name="count", description="Count.", parameters=parameters), Tool(name="weigh"))
    assert job.messages is not None
    called, weighed, counted, other, said, _ = job.messages[2:]
    made = ToolCall(id="call_2_0", name="count", arguments={"hive": "a"})
    assert called == ChatMessage(
        role="assistant", reasoning="hm", tool_calls=(made, ToolCall(id="own", name="weigh", arguments={}))
    )
    assert (weighed.tool_call_id, weighed.name, counted.tool_call_id, other.tool_call_id) == ("own", "weigh", "call_2_0", "other")
    assert said == ChatMessage(role="assistant", content="")


def test_prompts_go_through_the_template_where_there_is_one() -> None:
    told = generate(system="Be brief.")
    assert told.messages == (ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="hum"))
    assert generate(raw=True) == JobRequest(model="m", prompt="hum", cancel_on_disconnect=True)
    plain = Found("m", model(capabilities=("generate",)))
    request = read_foreign(encode({"model": "m", "prompt": "hum", "system": "x", "think": True}), GenerateRequest).request
    asked = generate_asked(request, plain)
    assert (asked.job, asked.unmet) == (generate(raw=True), ("system", "think"))
    # Of a model that is not known yet it is the more likely.
    assert generate(Found("m", None)) == generate()
    with pytest.raises(RbeesError, match="`raw` leaves the template out"):
        generate(raw=True, system="x")


@pytest.mark.parametrize(
    "fields", [{"suffix": "x"}, {"template": "x"}, {"context": [1]}, {"images": ["AA=="]}, {"width": 64}, {"steps": 1}]
)
def test_what_no_model_here_can_do_with_a_prompt_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RbeesError, match="is not supported") as caught:
        generate(**fields)
    assert caught.value.details["field"] == next(iter(fields))


def test_pictures_are_refused_by_their_place() -> None:
    error = refused(messages=[{"role": "user", "content": "x", "images": []}, {"role": "user", "content": "x", "images": ["AA=="]}])
    assert error.details["field"] == "messages[1].images"


def test_requests_without_content_only_load() -> None:
    cases: list[tuple[type[ModelRequest], list[dict[str, object]]]] = [
        (ChatRequest, [{}, {"messages": []}, {"messages": None}]),
        (GenerateRequest, [{}, {"prompt": ""}]),
        (EmbedPrompt, [{}, {"prompt": ""}]),
        (EmbedTexts, [{}, {"input": ""}, {"input": []}]),
    ]
    for type_, bodies in cases:
        assert all(read_foreign(encode({"model": "m", **body}), type_).request.is_empty for body in bodies)
    for found in (FOUND, Found("m", None), Found("m", model(capabilities=("embed",)))):
        check_job(loading_job(found))
    assert loading_job(FOUND).max_tokens == 1
    assert loading_job(Found("m", model(capabilities=("embed",)))).kind == "embed"


def test_vectors() -> None:
    one = embed_job(read_foreign(encode({"model": "m", "input": "x", "dimensions": 4}), EmbedTexts).request, FOUND)
    check_job(one)
    assert one.embed is not None
    assert (one.embed.input, one.embed.dimensions, one.embed.truncate, one.embed.normalize) == (("x",), 4, True, True)
    several = embed_job(read_foreign(encode({"model": "m", "input": ["x", "y"], "truncate": False}), EmbedTexts).request, FOUND)
    assert several.embed is not None
    assert (several.embed.input, several.embed.truncate) == (("x", "y"), False)
    older = prompt_job(read_foreign(encode({"model": "m", "prompt": "x"}), EmbedPrompt).request, FOUND)
    check_job(older)
    assert older.embed is not None
    assert (older.embed.input, older.embed.normalize) == (("x",), False)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("haiku", DownloadRequest(model_ref="haiku")),
        ("haiku:latest", DownloadRequest(model_ref="haiku")),
        ("qwen:q8_0", DownloadRequest(model_ref="qwen", quantization="Q8_0")),
        ("qwen:fp16", DownloadRequest(model_ref="qwen", quantization="F16")),
        ("llama3.2:1b", DownloadRequest(model_ref="llama3.2:1b")),
        ("hf.co/org/repo:Q4_K_M", DownloadRequest(model_ref="hf:org/repo", quantization="Q4_K_M")),
        ("hf.co/org/repo:UD-Q4_K_XL", DownloadRequest(model_ref="hf:org/repo", quantization="Q4_K_XL")),
        ("hf.co/org/repo:1b-q8_0", DownloadRequest(model_ref="hf:org/repo::file=*1b-q8_0*")),
        ("hf.co/org/repo", DownloadRequest(model_ref="hf:org/repo")),
        ("hf:org/repo::file=x.gguf", DownloadRequest(model_ref="hf:org/repo::file=x.gguf")),
    ],
)
def test_what_a_pool_is_asked_to_fetch(name: str, asked: DownloadRequest) -> None:
    assert download_of(name) == asked


def test_a_request_about_a_model_names_it_in_one_of_two_ways() -> None:
    assert NamedRequest(model="a", name="b").wanted == "a"
    assert NamedRequest(name="b").wanted == "b"
    for empty in (NamedRequest(), NamedRequest(model="", name="")):
        with pytest.raises(RbeesError, match="`model` is missing"):
            _ = empty.wanted


def test_a_turn_of_the_assistants_at_the_end_is_refused_for_none_is_gone_on_with() -> None:
    error = refused(messages=[*HUM["messages"], {"role": "assistant", "content": "It"}])
    assert error.details["field"] == "messages[1]"
    assert "`raw` prompt" in error.message
