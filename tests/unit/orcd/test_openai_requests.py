"""What OpenAI's clients ask for, as jobs: every field of the reference, and the extras of llama.cpp's and vLLM's clients."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params

from rbees.orcd.door.foreign import Foreign, described, read_foreign
from rbees.orcd.openai.chat import ChatRequest, chat_job, unmet_of_chat
from rbees.orcd.openai.completions import DEFAULT_MAX_TOKENS, CompletionRequest, completion_jobs, unmet_of_completion
from rbees.orcd.openai.schema_formats import enforceable
from rbees.orcd.openai.shared import TextRequest, unmet
from rbees.orcd.openai.vectors import EmbeddingsRequest, RankRequest, embeddings_job, rank_job, unmet_of_vectors
from rbees.protocol.chat import NamedTool, TextPart, Tool, ToolCall
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job
from rbees.protocol.response_format import GrammarFormat, JsonObjectFormat, JsonSchemaFormat, RegexFormat
from rbees.protocol.sampling import LEAST_TOP_P, MAX_SEED

HUM: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hum"}]}
COUNT: dict[str, Any] = {"type": "function", "function": {"name": "count", "parameters": {"type": "object"}, "strict": True}}
NAMED: dict[str, Any] = {"type": "function", "function": {"name": "count"}}


def chat(**fields: Any) -> JobRequest:
    reading = read_foreign(encode({**HUM, **fields}), ChatRequest)
    job = chat_job(reading.request)
    check_job(job)
    assert not reading.passed_over
    return job


def complete(**fields: Any) -> list[JobRequest]:
    return completion_jobs(read_foreign(encode({"model": "m", "prompt": "p", **fields}), CompletionRequest).request)


def refused(**fields: Any) -> RbeesError:
    with pytest.raises(RbeesError) as caught:
        chat(**fields)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    return caught.value


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ChatRequest, chat_create_params.CompletionCreateParamsStreaming),
        (CompletionRequest, completion_create_params.CompletionCreateParamsStreaming),
        (EmbeddingsRequest, embedding_create_params.EmbeddingCreateParams),
    ],
)
def test_every_field_of_the_reference_is_honoured_or_refused_by_name(ours: type[Foreign], theirs: Any) -> None:
    named = {*theirs.__required_keys__, *theirs.__optional_keys__}
    assert len(named) > 4
    assert named == {*ours.__struct_fields__, *ours.refused} - ours.extras


@pytest.mark.parametrize("type_", [ChatRequest, CompletionRequest, EmbeddingsRequest, RankRequest])
def test_every_field_says_what_becomes_of_it(type_: type[Foreign]) -> None:
    assert not [name for name, about in described(type_) if not about]
    assert not set(type_.__struct_fields__) & set(type_.refused)


def test_a_chat_with_nothing_said_leaves_everything_to_the_defaults() -> None:
    plain = JobRequest(model="m", messages=chat().messages, cancel_on_disconnect=True)
    assert chat() == plain
    nulls = {name: None for name in ChatRequest.__struct_fields__ if name not in HUM}
    assert chat(**nulls) == plain


def test_sampling_goes_over_under_its_own_or_another_name() -> None:
    job = chat(
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        logit_bias={"7": -100},
        temperature=0,
        top_p=0,
        top_k=-1,
        min_p=0.1,
        typical_p=0.9,
        repeat_penalty=1.1,
        repeat_last_n=32,
        dry_multiplier=0.8,
        xtc_probability=0.5,
        ignore_eos=True,
        n=3,
        stop="x",
        logprobs=True,
        top_logprobs=5,
        deterministic=True,
        timeout_ms=5,
        deadline_ms=6,
    )
    assert (job.frequency_penalty, job.presence_penalty, job.logit_bias, job.temperature) == (0.5, -0.5, {7: -100}, 0)
    assert (job.top_p, job.top_k, job.min_p, job.typical_p) == (LEAST_TOP_P, 0, 0.1, 0.9)
    assert (job.repetition_penalty, job.penalty_last_n, job.dry_multiplier, job.xtc_probability) == (1.1, 32, 0.8, 0.5)
    assert (job.ignore_eos, job.n, job.stop, job.logprobs, job.top_logprobs) == (True, 3, ("x",), True, 5)
    assert (job.deterministic, job.timeout_ms, job.deadline_ms) == (True, 5, 6)
    assert chat(stop=["a", "b"]).stop == ("a", "b")


@pytest.mark.parametrize(("seed", "taken"), [(3, 3), (-1, MAX_SEED), (1 << 53, 0), (-(1 << 63), 0)])
def test_seeds_of_64_bits_are_taken(seed: int, taken: int) -> None:
    assert chat(seed=seed).seed == taken


@pytest.mark.parametrize(
    ("fields", "taken"),
    [({}, None), ({"max_tokens": 5}, 5), ({"max_completion_tokens": 6}, 6), ({"n_predict": 7}, 7), ({"n_predict": -1}, None)],
)
def test_the_most_tokens_have_three_names(fields: dict[str, int], taken: int | None) -> None:
    assert chat(**fields).max_tokens == taken
    assert chat(max_tokens=5, max_completion_tokens=5).max_tokens == 5
    assert refused(max_tokens=5, max_completion_tokens=6).details["field"] == "max_completion_tokens"


def test_who_asks_and_how_urgently() -> None:
    assert chat(user="ada", safety_identifier="x").session_id == "ada"
    assert chat(safety_identifier="x", prompt_cache_key="y").session_id == "x"
    assert chat(prompt_cache_key="y").session_id == "y"
    assert chat(session_id="s", user="ada").session_id == "s"
    assert [chat(service_tier=tier).priority for tier in ("flex", "auto", "default", "priority")] == [
        "batch",
        "interactive",
        "interactive",
        "interactive",
    ]
    assert chat(cancel_on_disconnect=False).cancel_on_disconnect is False


def test_messages_of_every_role() -> None:
    messages = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "name": "ada", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "count", "arguments": '{"x": 1}'}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            {"role": "assistant", "refusal": "no"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "never"}], "reasoning": "why"},
        ]
    ).messages
    assert messages is not None
    assert [message.role for message in messages] == ["system", "user", "assistant", "tool", "assistant", "assistant"]
    assert (messages[1].name, messages[1].content) == ("ada", (TextPart(text="a"), TextPart(text="b")))
    assert messages[2].tool_calls == (ToolCall(id="c1", name="count", arguments={"x": 1}),)
    assert (messages[2].reasoning, messages[5].reasoning) == ("hm", "why")
    assert (messages[3].tool_call_id, messages[4].content, messages[5].text) == ("c1", "no", "never")


@pytest.mark.parametrize(
    ("message", "place", "said"),
    [
        ({"role": "function", "name": "f", "content": "x"}, "messages[0]", "`tool_call_id`"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0]", "is audio"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[0].content[0]", "is a file"),
        ({"role": "assistant", "function_call": {"name": "f"}, "content": "x"}, "messages[0].function_call", "`tool_calls`"),
        ({"role": "assistant"}, "messages[0]", "no `content`"),
        (
            {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "[1"}}]},
            "messages[0].tool_calls[0].function.arguments",
            "no JSON object",
        ),
    ],
)
def test_messages_that_cannot_be_read_are_refused_by_their_place(message: dict[str, Any], place: str, said: str) -> None:
    error = refused(messages=[message])
    assert error.details["field"] == place
    assert said in error.message


def test_tools_and_choices() -> None:
    other = {"type": "function", "function": {"name": "other", "description": "d", "parameters": None}}
    job = chat(tools=[COUNT, other], tool_choice={"type": "function", "function": {"name": "other"}})
    assert job.tools == (Tool(name="count", parameters={"type": "object"}), Tool(name="other", description="d"))
    assert job.tool_choice == NamedTool(name="other")
    assert [chat(tools=[COUNT], tool_choice=choice).tool_choice for choice in ("auto", "none", "required", None)] == [
        "auto",
        "none",
        "required",
        "auto",
    ]
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "other"}}]}
    some = chat(tools=[COUNT, other], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert ([tool.name for tool in some.tools], some.tool_choice) == (["other"], "required")
    unknown = refused(tools=[COUNT], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert unknown.details["field"] == "tool_choice.allowed_tools.tools[0]"
    assert refused(tools=[COUNT], tool_choice={"type": "custom", "custom": {"name": "x"}}).details["field"] == "tool_choice.type"


SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, JsonObjectFormat()),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, JsonSchemaFormat(schema=SCHEMA)),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}},
            JsonSchemaFormat(schema=SCHEMA),
        ),
        ({"guided_json": SCHEMA}, JsonSchemaFormat(schema=SCHEMA)),
        ({"guided_json": encode(SCHEMA).decode()}, JsonSchemaFormat(schema=SCHEMA)),
        ({"json_schema": SCHEMA}, JsonSchemaFormat(schema=SCHEMA)),
        ({"guided_regex": "a+"}, RegexFormat(pattern="a+")),
        ({"guided_choice": ["yes", "n.o", "c d"]}, RegexFormat(pattern=r"yes|n\.o|c d")),
        ({"guided_grammar": "start: /a/"}, GrammarFormat(syntax="lark", grammar="start: /a/")),
        ({"grammar": 'root ::= "a"'}, GrammarFormat(syntax="gbnf", grammar='root ::= "a"')),
        ({"structured_outputs": {"regex": "b"}}, RegexFormat(pattern="b")),
    ],
)
def test_forms_under_all_their_names(fields: dict[str, Any], form: Any) -> None:
    assert chat(**fields).response_format == form


def test_one_form_at_a_time() -> None:
    assert refused(guided_regex="a", grammar="start: /a/").details["field"] == "grammar"
    assert refused(guided_regex="a", response_format={"type": "json_object"}).details["field"] == "response_format"
    assert refused(guided_json="[1]").details["field"] == "guided_json"
    missing = refused(response_format={"type": "json_schema", "json_schema": {"name": "n"}})
    assert missing.details["field"] == "response_format.json_schema.schema"


def test_effort_is_told_to_the_template() -> None:
    assert chat(reasoning_effort="none").template_options == {"enable_thinking": False}
    assert chat(reasoning_effort="low").template_options == {"reasoning_effort": "low"}
    assert chat(reasoning_effort="low", chat_template_kwargs={"reasoning_effort": "high", "x": 1}).template_options == {
        "reasoning_effort": "high",
        "x": 1,
    }


@pytest.mark.parametrize("name", ChatRequest.refused)
def test_what_is_refused_says_what_to_do_and_neutral_values_pass(name: str) -> None:
    error = refused(**{name: {"some": "thing"}})
    assert error.details["field"] == name
    assert error.message.startswith(f"`{name}` is not supported: ")
    for value in ChatRequest.refused[name].unless:
        chat(**{name: value})


def test_what_nobody_does_is_named_by_its_value() -> None:
    for value, names in ((True, ()), (False, ("cache_prompt",)), (None, ())):
        assert unmet(read_foreign(encode({**HUM, "cache_prompt": value}), ChatRequest).request) == names


@pytest.mark.parametrize(
    ("fields", "priority"),
    [
        ({}, "interactive"),
        ({"service_tier": "flex"}, "batch"),
        ({"service_tier": "priority"}, "interactive"),
        ({"priority": "batch"}, "batch"),
        ({"priority": "interactive", "service_tier": "flex"}, "interactive"),
        ({"priority": 0}, "interactive"),
        ({"priority": 5, "service_tier": "flex"}, "batch"),
    ],
)
def test_every_route_takes_a_priority_by_either_name(fields: dict[str, Any], priority: str) -> None:
    named = ("priority",) if isinstance(fields.get("priority"), int) else ()
    asked = read_foreign(encode({**HUM, **fields}), ChatRequest).request
    assert (chat_job(asked).priority, unmet_of_chat(asked)) == (priority, named)
    completion = read_foreign(encode({"model": "m", "prompt": "p", **fields}), CompletionRequest).request
    assert (completion_jobs(completion)[0].priority, unmet_of_completion(completion)) == (priority, named)
    inputs = read_foreign(encode({"model": "m", "input": "a", **fields}), EmbeddingsRequest).request
    assert (embeddings_job(inputs).priority, unmet_of_vectors(inputs)) == (priority, named)
    documents = read_foreign(encode({"model": "m", "query": "q", "documents": ["a"], **fields}), RankRequest).request
    assert (rank_job(documents).priority, unmet_of_vectors(documents)) == (priority, named)


def test_job_fields_are_honoured_by_their_own_names() -> None:
    assert chat(penalty_last_n=7).penalty_last_n == complete(penalty_last_n=7)[0].penalty_last_n == 7
    assert refused(penalty_last_n=7, repeat_last_n=8).details["field"] == "penalty_last_n"
    assert chat(template_options={"a": True}).template_options == {"a": True}
    assert refused(template_options={"a": True}, chat_template_kwargs={}).details["field"] == "chat_template_kwargs"


def test_a_completion_takes_the_forms_of_a_chat() -> None:
    schema = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    assert complete(response_format=schema)[0].response_format == JsonSchemaFormat(schema={"type": "object"})
    with pytest.raises(RbeesError, match="each ask for a form"):
        complete(response_format=schema, guided_regex="a")


@pytest.mark.parametrize("name", ["max_tokens", "n_predict"])
def test_as_many_tokens_as_fit_are_minus_one(name: str) -> None:
    assert chat(**{name: -1}).max_tokens is complete(**{name: -1})[0].max_tokens is None
    assert refused(**{name: 0}).details["field"] == name


SECRET: dict[str, Any] = {
    "type": "object",
    "properties": {
        "format": {"type": "string", "format": "password"},
        "when": {"type": "string", "format": "date"},
        "size": {"type": "integer", "format": "int64"},
        "kind": {"enum": [{"format": "password"}], "default": {"format": "password"}},
        "either": {"anyOf": [{"type": ["string", "null"], "format": "byte"}, {"$ref": "#/$defs/x"}]},
        "many": {"type": "array", "items": {"format": "binary"}},
    },
    "$defs": {"x": {"type": "string", "format": "uuid"}},
}
UNENFORCED = ("properties.format.format", "properties.either.anyOf[0].format", "properties.many.items.format")


def test_formats_that_no_text_is_kept_to_are_left_out_and_named_unless_somebody_insists() -> None:
    kept = enforceable(SECRET)
    assert kept["properties"]["format"] == {"type": "string"}
    assert kept["properties"]["either"]["anyOf"] == [{"type": ["string", "null"]}, {"$ref": "#/$defs/x"}]
    assert kept["properties"]["many"] == {"type": "array", "items": {}}
    assert [kept["properties"][name] for name in ("when", "size", "kind")] == [
        SECRET["properties"][name] for name in ("when", "size", "kind")
    ]
    for strict in (None, False, True):
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SECRET, "strict": strict}}
        asked = read_foreign(encode({**HUM, "response_format": form}), ChatRequest).request
        assert chat_job(asked).response_format == JsonSchemaFormat(schema=SECRET if strict else kept)
        named = () if strict else tuple(f"response_format.json_schema.schema.{place}" for place in UNENFORCED)
        assert unmet_of_chat(asked) == named
    extra = read_foreign(encode({"model": "m", "prompt": "p", "guided_json": SECRET}), CompletionRequest).request
    assert completion_jobs(extra)[0].response_format == JsonSchemaFormat(schema=kept)
    assert unmet_of_completion(extra) == tuple(f"guided_json.{place}" for place in UNENFORCED)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ("tools[0].function.strict",)),
        ("auto", ("tools[0].function.strict",)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}, ("tools[0].function.strict",)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}, ()),
        ("required", ()),
        (NAMED, ()),
        ("none", ()),
    ],
)
def test_strict_tools_are_named_where_no_call_is_forced(choice: Any, names: tuple[str, ...]) -> None:
    loose = {"type": "function", "function": {"name": "other"}}
    asked = read_foreign(encode({**HUM, "tools": [COUNT, loose], "tool_choice": choice}), ChatRequest).request
    assert unmet_of_chat(asked) == names


def test_stream_options_go_with_streams() -> None:
    def options(**fields: Any) -> TextRequest:
        request = read_foreign(encode({**HUM, **fields}), ChatRequest).request
        chat_job(request)
        return request

    assert options(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}).includes_usage
    assert not options(stream=True).includes_usage
    assert refused(stream_options={"include_usage": True}).details["field"] == "stream_options"
    with pytest.raises(RbeesError, match="not padded"):
        options(stream=True, stream_options={"include_obfuscation": True})


def test_an_answer_of_no_tokens_is_refused_by_either_name() -> None:
    """What a worker and a later orcd would not read as a job must not become one."""
    assert refused(n_predict=0).details["field"] == "n_predict"
    with pytest.raises(RbeesError, match="at least 1, or -1"):
        complete(n_predict=0)


def test_prompts_of_every_kind_are_jobs_each() -> None:
    assert [(job.prompt, job.token_ids) for job in complete()] == [("p", None)]
    assert [job.prompt for job in complete(prompt=["a", "b"])] == ["a", "b"]
    assert [job.token_ids for job in complete(prompt=[1, 2])] == [(1, 2)]
    assert [job.token_ids for job in complete(prompt=[[1, 2], [3]])] == [(1, 2), (3,)]
    mixed = complete(prompt=["a", [1]])
    assert [(job.prompt, job.token_ids) for job in mixed] == [("a", None), (None, (1,))]
    for job in mixed:
        check_job(job)


def test_a_completion_has_the_lengths_and_probabilities_of_the_reference() -> None:
    (job,) = complete(logprobs=3)
    assert (job.max_tokens, job.logprobs, job.top_logprobs) == (DEFAULT_MAX_TOKENS, True, 3)
    assert [complete(**fields)[0].max_tokens for fields in ({"max_tokens": 5}, {"n_predict": -1})] == [5, None]


def test_embeddings_and_ranks_are_jobs_of_their_kind() -> None:
    def embeddings(**fields: Any) -> JobRequest:
        job = embeddings_job(read_foreign(encode({"model": "m", **fields}), EmbeddingsRequest).request)
        check_job(job)
        return job

    job = embeddings(input="a", dimensions=4, encoding_format="base64", user="ada", truncate=True, normalize=False)
    assert job.embed is not None
    assert (job.kind, job.session_id, job.cancel_on_disconnect) == ("embed", "ada", True)
    assert (job.embed.input, job.embed.dimensions, job.embed.encoding) == (("a",), 4, "base64")
    assert (job.embed.truncate, job.embed.normalize) == (True, False)
    inputs = [embeddings(input=given).embed for given in (["a", "b"], [1, 2], [[1, 2], [3]])]
    assert [one.input for one in inputs if one is not None] == [("a", "b"), ((1, 2),), ((1, 2), (3,))]
    body = {"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}
    ranked = rank_job(read_foreign(encode(body), RankRequest).request)
    check_job(ranked)
    assert ranked.rerank is not None
    assert (ranked.rerank.query, ranked.rerank.documents, ranked.rerank.top_n) == ("q", ("a", "b"), 1)


def test_nothing_of_a_conversation_shows_in_a_log() -> None:
    fields = {
        "messages": [{"role": "user", "content": "sekret"}, {"role": "tool", "tool_call_id": "c", "content": "sekret"}],
        "tools": [{"type": "function", "function": {"name": "sekret", "description": "sekret"}}],
        "stop": "sekret",
        "guided_json": {"title": "sekret"},
        "metadata": {"sekret": "sekret"},
        "chat_template_kwargs": {"sekret": "sekret"},
    }
    assert "sekret" not in repr(read_foreign(encode({"model": "m", **fields}), ChatRequest).request)
    assert "sekret" not in repr(read_foreign(encode({"model": "m", "prompt": ["sekret"]}), CompletionRequest).request)
    assert "sekret" not in repr(read_foreign(encode({"model": "m", "input": "sekret"}), EmbeddingsRequest).request)


def test_whatever_names_a_user_names_a_session() -> None:
    long, longer = "ü" * 129, "ü" * 130
    assert chat(user="").session_id is None
    assert chat(user="", safety_identifier="ada").session_id == "ada"
    assert chat(user="u" * 128, prompt_cache_key=long).session_id == "u" * 128
    assert chat(user=long).session_id == chat(safety_identifier=long).session_id == chat(prompt_cache_key=long).session_id
    assert chat(user=long).session_id != chat(user=longer).session_id
    assert complete(user=long)[0].session_id == chat(user=long).session_id
    assert refused(session_id=long).details["field"] == "session_id"


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        *((name, "an image") for name in ("image_url", "image", "input_image")),
        *((name, "audio") for name in ("input_audio", "audio_url")),
        ("video_url", "a video"),
        ("file", "a file"),
    ],
)
def test_what_is_no_text_is_refused_by_its_place(type_: str, said: str) -> None:
    error = refused(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": type_}]}])
    assert error.details["field"] == "messages[0].content[1]"
    assert error.message == f"`messages[0].content[1]` is {said}, and models here read text only; send text."


def test_a_part_of_an_unknown_type_is_told_what_is_taken() -> None:
    error = refused(messages=[{"role": "user", "content": [{"type": "smell"}]}])
    assert error.details["field"] == "messages[0].content[0].type"
    assert error.message.endswith("write one of `text`, `refusal`.")


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"messages": HUM["messages"] * 1_100}, "it has 1100 entries, send at most 1024."),
        ({"stop": ["a"] * 33}, "it has 33 entries, send at most 32."),
        ({"metadata": {"k": "x" * 513}}, "send at most 512 characters."),
        ({"metadata": {str(number): "" for number in range(17)}}, "it has 17 entries, send at most 16."),
        ({"messages": [{**HUM["messages"][0], "name": "n" * 257}]}, "it has 257 characters, send at most 256."),
        (
            {"tools": [{"type": "function", "function": {"name": "get weather/ü"}}]},
            "write 1 to 128 letters, digits, `_`, `-`, `.` or `:`.",
        ),
    ],
)
def test_what_is_too_much_or_oddly_named_is_told_what_to_send(fields: dict[str, Any], advice: str) -> None:
    assert refused(**fields).message.endswith(f"; {advice}")


def test_empty_texts_stop_nothing_and_no_functions_ask_for_nothing() -> None:
    assert chat(stop="") == chat(stop=[]) == chat(stop=[""]) == chat(functions=[]) == chat()
    assert chat(stop=["", "x"]).stop == ("x",)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"continue_final_message": True}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"messages": [*HUM["messages"], {"role": "assistant", "content": "It", "prefix": True}]}, "messages[1].prefix"),
    ],
)
def test_what_would_go_on_with_an_answer_is_refused_with_the_way_that_does(fields: dict[str, Any], place: str) -> None:
    error = refused(**fields)
    assert error.details["field"] == place
    assert "raw `prompt`" in error.message
    assert chat(continue_final_message=False, add_generation_prompt=True) == chat()
