"""What clients of OpenAI's Responses API ask for, as jobs: every field of the reference, items, tools and forms."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from openai.types.responses import ResponseItem, input_token_count_params, response_create_params
from openai.types.responses import Tool as TheirTool
from pydantic import TypeAdapter

from rbees.orcd.door.foreign import Foreign, described, read_foreign
from rbees.orcd.openai.places import as_sent
from rbees.orcd.responses import errors
from rbees.orcd.responses.items import MAX_CHARACTERS, Item, Reference, named, read_items, turns_of
from rbees.orcd.responses.pages import item_page
from rbees.orcd.responses.requests import (
    CountRequest,
    Record,
    ResponseRequest,
    conversation_of,
    counted_prompt,
    record_of,
    response_job,
    unmet,
)
from rbees.protocol.chat import MAX_MESSAGES, ChatMessage, NamedTool, TextPart, Tool, ToolCall
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job
from rbees.protocol.pools import ModelFacts
from rbees.protocol.response_format import JsonObjectFormat, JsonSchemaFormat
from tests.support.host_facts import model

CRM: dict[str, Any] = {
    "type": "namespace",
    "name": "crm",
    "description": "Customers.",
    "tools": [
        {"type": "function", "name": "find", "description": "Find one.", "parameters": {"type": "object"}},
        {"type": "function", "name": "count", "strict": True},
    ],
}
COUNT: dict[str, Any] = {"type": "function", "name": "count", "parameters": {"type": "object"}, "strict": True}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "c", "name": "find", "arguments": "{}"}
WEIGH: dict[str, Any] = {"type": "function", "name": "weigh", "description": "Weigh a hive."}
ABLE = model(template_words=("tools", "enable_thinking", "reasoning_effort", "</think>"))
SWITCHED = model(template_words=("tools", "enable_thinking", "</think>"))
THINKS = model(template_words=("tools", "[/THINK]"))
PLAIN = model()
JOB_ID = "job-0123456789abcdefghjkmnpqrs"


def items_of(request: ResponseRequest | CountRequest) -> tuple[Item, ...]:
    items = read_items(request.input, request.model)
    return tuple(item for item in items if not isinstance(item, Reference))


def read(**fields: Any) -> ResponseRequest:
    reading = read_foreign(encode({"model": "m", "input": "hum", **fields}), ResponseRequest)
    assert not reading.passed_over
    return reading.request


def job_of(earlier: tuple[ChatMessage, ...] = (), **fields: Any) -> JobRequest:
    request = read(**fields)
    job = response_job(request, earlier, items_of(request), ABLE)
    check_job(job)
    return job


def record(**fields: Any) -> Record:
    request = read(**fields)
    return record_of(request, response_job(request, (), items_of(request), ABLE), items_of(request))


def refused(**fields: Any) -> RbeesError:
    def ask() -> None:
        request = read_foreign(encode({"model": "m", "input": "hum", **fields}), ResponseRequest).request
        check_job(response_job(request, (), items_of(request), ABLE))

    with pytest.raises(RbeesError) as caught:
        ask()
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    return caught.value


def param(**fields: Any) -> str | None:
    return errors.body_of(refused(**fields)).error.param


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ResponseRequest, response_create_params.ResponseCreateParamsStreaming),
        (CountRequest, input_token_count_params.InputTokenCountParams),
    ],
)
def test_every_field_of_the_reference_is_honoured_or_refused_by_name(ours: type[Foreign], theirs: Any) -> None:
    named = {*theirs.__required_keys__, *theirs.__optional_keys__}
    assert len(named) > 4
    assert named == {*ours.__struct_fields__, *ours.refused} - ours.extras


@pytest.mark.parametrize("type_", [ResponseRequest, CountRequest])
def test_every_field_says_what_becomes_of_it(type_: type[Foreign]) -> None:
    assert not [name for name, about in described(type_) if not about]
    assert not set(type_.__struct_fields__) & set(type_.refused)


def test_a_response_with_nothing_said_leaves_everything_to_the_defaults() -> None:
    plain = JobRequest(model="m", messages=(ChatMessage(role="user", content="hum"),), cancel_on_disconnect=True)
    assert job_of() == plain
    nulls: dict[str, Any] = {name: None for name in ResponseRequest.__struct_fields__ if name not in {"model", "input"}}
    assert job_of(**nulls) == plain


def test_settings_go_over_under_their_own_or_another_name() -> None:
    job = job_of(
        instructions="Be brief.",
        max_output_tokens=7,
        temperature=0,
        top_p=0,
        top_k=3,
        seed=-1,
        stop="x",
        frequency_penalty=0.5,
        reasoning={"effort": "low"},
        service_tier="flex",
        safety_identifier="somebody",
        chat_template_kwargs={"lang": "de"},
        top_logprobs=2,
    )
    assert job.messages == (ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="hum"))
    assert (job.max_tokens, job.temperature, job.top_k, job.stop, job.priority) == (7, 0, 3, ("x",), "batch")
    assert (job.session_id, job.logprobs, job.top_logprobs) == ("somebody", True, 2)
    assert job.template_options == {"reasoning_effort": "low", "lang": "de"}
    assert job_of(reasoning={"effort": "none"}).template_options == {"enable_thinking": False}
    assert job_of(include=["message.output_text.logprobs"]).logprobs
    assert job_of(prompt_cache_key="k").session_id == "k"
    assert job_of(user="u", prompt_cache_key="k").session_id == "u"
    assert job_of(max_tokens=9).max_tokens == job_of(n_predict=9).max_tokens == 9


@pytest.mark.parametrize(
    ("facts", "effort", "told", "named_as_ignored"),
    [
        (ABLE, "medium", {"reasoning_effort": "medium"}, False),
        (ABLE, "none", {"enable_thinking": False}, False),
        (SWITCHED, "medium", {"enable_thinking": True}, True),
        (SWITCHED, "none", {"enable_thinking": False}, False),
        (THINKS, "high", {}, True),
        (THINKS, "none", {}, True),
        (PLAIN, "medium", {}, True),
        (PLAIN, "none", {}, False),
        (None, "medium", {}, True),
        (ABLE, None, {}, False),
    ],
)
def test_an_effort_that_a_template_cannot_be_told_is_passed_over_and_named(
    facts: ModelFacts | None, effort: str | None, told: dict[str, Any], named_as_ignored: bool
) -> None:
    request = read(reasoning={"effort": effort, "summary": "auto"})
    assert response_job(request, (), items_of(request), facts).template_options == told
    names = ("reasoning.effort", "reasoning.summary") if named_as_ignored else ("reasoning.summary",)
    assert unmet(request, facts) == names
    counting = read_foreign(encode({"model": "m", "input": "hum", "reasoning": {"effort": effort}}), CountRequest).request
    assert counted_prompt(counting, (), items_of(counting), facts).template_options == told


def test_in_the_background_nobody_has_to_stay() -> None:
    assert not job_of(background=True).cancel_on_disconnect
    assert not job_of(background=True, cancel_on_disconnect=True).cancel_on_disconnect
    assert not job_of(cancel_on_disconnect=False).cancel_on_disconnect
    assert "store" in refused(background=True, store=False).message


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ({}, None),
        ({"format": {"type": "text"}}, None),
        ({"format": {"type": "json_object"}}, JsonObjectFormat()),
        (
            {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
            JsonSchemaFormat(schema={"type": "object"}),
        ),
        ({"verbosity": "medium"}, None),
    ],
)
def test_forms(text: dict[str, Any], form: Any) -> None:
    assert job_of(text=text).response_format == form


@pytest.mark.parametrize("strict", [None, False, True])
def test_a_format_that_no_text_is_kept_to_is_passed_over_and_named_unless_it_is_strict(strict: bool | None) -> None:
    schema = {"type": "object", "properties": {"key": {"type": "string", "format": "password"}}}
    text = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": strict}}
    kept = {"type": "object", "properties": {"key": {"type": "string"}}}
    assert job_of(text=text).response_format == JsonSchemaFormat(schema=schema if strict else kept)
    names = () if strict else ("text.format.schema.properties.key.format",)
    assert unmet(read(text=text), ABLE) == names


def test_a_priority_is_stronger_than_a_tier() -> None:
    assert job_of(priority="batch").priority == "batch"
    assert job_of(priority="interactive", service_tier="flex").priority == "interactive"
    assert job_of(priority=3, service_tier="flex").priority == "batch"


def test_a_form_is_asked_for_once() -> None:
    assert param(text={"format": {"type": "json_object"}}, guided_regex="a") == "text.format"
    assert param(text={"verbosity": "high"}) == "text.verbosity"


@pytest.mark.parametrize(
    ("choice", "names", "made"),
    [
        (None, ["count", "weigh"], "auto"),
        ("auto", ["count", "weigh"], "auto"),
        ("none", ["count", "weigh"], "none"),
        ("required", ["count", "weigh"], "required"),
        ({"type": "function", "name": "weigh"}, ["count", "weigh"], NamedTool(name="weigh")),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weigh"}]},
            ["weigh"],
            "required",
        ),
    ],
)
def test_tools_and_which_of_them_may_be_called(choice: Any, names: list[str], made: Any) -> None:
    job = job_of(tools=[COUNT, WEIGH], tool_choice=choice)
    assert [tool.name for tool in job.tools] == names
    assert job.tool_choice == made
    told = record(tools=[COUNT, WEIGH], tool_choice=choice).asked.tool_choice
    assert told == (choice or "auto")


def test_a_tool_is_its_name_what_it_does_and_its_parameters() -> None:
    assert job_of(tools=[WEIGH, COUNT]).tools == (
        Tool(name="weigh", description="Weigh a hive."),
        Tool(name="count", parameters={"type": "object"}),
    )


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"tools": [COUNT, {"type": "mcp", "server_label": "s"}]}, "tools[1].type"),
        ({"tools": [{"type": "custom", "name": "c"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [COUNT], "tool_choice": {"type": "function", "name": "weigh"}}, "tool_choice"),
        ({"tools": [COUNT], "tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tools": [{"type": "smell"}]}, "tools[0].type"),
        ({"tools": [COUNT, COUNT]}, "tools[1].name"),
        ({"tools": [{**CRM, "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{**CRM, "tools": None}]}, "tools[0].tools"),
        ({"tools": [{**CRM, "tools": [WEIGH, CRM]}]}, "tools[0].tools[1].type"),
        ({"tools": [{**CRM, "tools": [WEIGH, {"type": "custom", "name": "c"}]}]}, "tools[0].tools[1].type"),
        ({"tools": [{**CRM, "tools": [{"type": "web_search"}]}]}, "tools[0].tools[0].type"),
        ({"tools": [{**CRM, "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
        ({"tools": [{**CRM, "tools": [{"type": "function", "name": "n" * 124}]}]}, "tools[0].tools[0].name"),
        ({"tools": [{**CRM, "tools": [WEIGH, WEIGH]}]}, "tools[0].tools[1].name"),
        ({"tools": [CRM, CRM]}, "tools[1].tools[0].name"),
        ({"tools": [CRM, {**WEIGH, "name": "crm__find"}]}, "tools[1].name"),
        ({"tools": [CRM], "tool_choice": {"type": "function", "name": "crm__find"}}, "tool_choice"),
        ({"tools": [CRM], "tool_choice": {"type": "function", "name": "find", "namespace": "c"}}, "tool_choice"),
        ({"tools": [CRM, {**CRM, "name": "c"}], "tool_choice": {"type": "function", "name": "find"}}, "tool_choice"),
        ({"tools": [CRM], "tool_choice": {"type": "namespace", "name": "crm"}}, "tool_choice.type"),
        ({"tools": [COUNT, {"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        (
            {"tools": [COUNT], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "web_search_preview"}]}},
            "tool_choice.tools[0].type",
        ),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"input": [{**CALL, "name": "n" * 253, "namespace": "ns"}]}, "input[0].name"),
        ({"tools": [COUNT], "tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice.tools"),
        (
            {"tools": [COUNT], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]}},
            "tool_choice.tools[0]",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"n": 2}, "n"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "bee", "content": "hum"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "smell"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "web_search_call", "id": "w"}]}, "input[0]"),
        ({"input": [{"type": "Ä"}]}, "input[0]"),
        ({"input": [{}]}, "input[0]"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "["}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_place(fields: dict[str, Any], place: str) -> None:
    assert param(**fields) == place


# ---- namespaces, and tools that nobody here has --------------------------------------------------------------------------


def test_functions_of_a_namespace_are_offered_under_both_names() -> None:
    job = job_of(tools=[CRM, COUNT, {**CRM, "name": "c", "description": ""}])
    assert job.tools == (
        Tool(name="crm__find", description="crm: Customers.\n\nFind one.", parameters={"type": "object"}),
        Tool(name="crm__count"),
        Tool(name="count", parameters={"type": "object"}),
        Tool(name="c__find", description="Find one.", parameters={"type": "object"}),
        Tool(name="c__count"),
    )


def test_what_a_namespace_is_about_stands_with_the_first_function_that_may_be_called() -> None:
    chosen = {"type": "allowed_tools", "tools": [{"type": "function", "name": "count", "namespace": "crm"}]}
    job = job_of(tools=[CRM], tool_choice=chosen)
    assert job.tools == (Tool(name="crm__count", description="crm: Customers."),)
    assert record(tools=[CRM], tool_choice=chosen).asked.tool_choice == {**chosen, "mode": "auto"}


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ({"name": "find"}, "crm__find"),
        ({"name": "find", "namespace": "crm"}, "crm__find"),
        ({"name": "count"}, "count"),
        ({"name": "count", "namespace": "crm"}, "crm__count"),
    ],
)
def test_a_choice_names_a_function_with_its_namespace_or_without(name: dict[str, Any], made: str) -> None:
    chosen = {"type": "function", **name}
    job = job_of(tools=[CRM, COUNT], tool_choice=chosen)
    assert (job.tool_choice, len(job.tools)) == (NamedTool(name=made), 3)
    assert record(tools=[CRM, COUNT], tool_choice=chosen).asked.tool_choice == chosen


def test_what_was_called_in_a_namespace_is_told_by_the_name_that_the_model_called() -> None:
    request = read(input=[{**CALL, "namespace": "crm"}, {"type": "function_call_output", "call_id": "c", "output": "3"}])
    turn, _ = response_job(request, (), items_of(request), ABLE).messages or ()
    assert turn.tool_calls == (ToolCall(id="c", name="crm__find", arguments={}),)
    shown: Any = TypeAdapter(ResponseItem).validate_json(encode(named(record(input=request.input).input, JOB_ID)[0]))
    assert (shown.name, shown.namespace) == ("find", "crm")


def test_a_namespace_holds_no_more_functions_than_a_job() -> None:
    many = {**CRM, "tools": [{"type": "function", "name": f"f{number}"} for number in range(128)]}
    assert len(job_of(tools=[many]).tools) == 128
    assert "129 functions" in refused(tools=[many, COUNT]).message


@pytest.mark.parametrize("type_", ["web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"])
def test_a_search_that_the_model_merely_may_make_is_passed_over_and_named(type_: str) -> None:
    search = {"type": type_, "external_web_access": True, "user_location": {"type": "approximate", "city": "Delft"}}
    request = read(tools=[COUNT, search])
    assert unmet(request, ABLE) == ("tools[0].strict", "tools[1]")
    assert [tool.name for tool in job_of(tools=[COUNT, search]).tools] == ["count"]
    assert job_of(tools=[search]).tools == ()
    assert json.loads(encode(record(tools=[search]).asked.tools)) == [search]


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        *((type_, "define a function with a parameter") for type_ in ("custom", "local_shell", "shell", "apply_patch")),
        *((type_, "looks at a screen") for type_ in ("computer", "computer_use", "computer_use_preview")),
        *((type_, "no code is run") for type_ in ("code_interpreter", "programmatic_tool_calling")),
        ("file_search", "no files are searched"),
        ("image_generation", "no model here draws"),
        ("mcp", "calls no MCP servers"),
        ("tool_search", "no tools are searched for"),
    ],
)
def test_each_tool_that_nobody_here_has_is_refused_by_its_type(type_: str, said: str) -> None:
    message = refused(tools=[{"type": type_}]).message
    assert message.startswith(f"`tools[0]` is of the type `{type_}`, ")
    assert said in message


def test_every_kind_of_tool_of_the_reference_is_known() -> None:
    kinds = {kind for tool in get_args(get_args(TheirTool)[0]) for kind in get_args(tool.model_fields["type"].annotation)}
    assert len(kinds) > 16
    unknown = [kind for kind in kinds if "not known here" in _said_of(kind)]
    assert unknown == []


def _said_of(kind: str) -> str:
    try:
        job_of(tools=[{"type": kind, "name": "n", "tools": []}])
    except RbeesError as error:
        return error.message
    return ""


def test_what_says_nothing_about_a_tool_of_its_kind_is_named() -> None:
    fields: dict[str, Any] = {"filters": {}, "search_context_size": "low"}
    assert unmet(read(tools=[{**WEIGH, "tools": [], **fields}]), ABLE) == (
        "tools[0].tools",
        "tools[0].filters",
        "tools[0].search_context_size",
    )
    assert unmet(read(tools=[{**CRM, "parameters": {}, "strict": True}]), ABLE) == (
        "tools[0].parameters",
        "tools[0].strict",
        "tools[0].tools[1].strict",
    )
    assert unmet(read(tools=[CRM], tool_choice="required"), ABLE) == ()


def test_the_longest_name_of_a_tool_is_told_as_it_is() -> None:
    assert job_of(tools=[{"type": "function", "name": "n" * 128}]).tools[0].name == "n" * 128
    assert "at most 128" in refused(tools=[{"type": "function", "name": "n" * 129}]).message


def test_fields_of_a_job_have_their_names_here() -> None:
    def told(field: str) -> str | None:
        return errors.body_of(RbeesError(ErrorCode.INVALID_REQUEST, "no", field=field)).error.param

    assert told("response_format.schema") == "text.format"
    assert told("response_format") == "text.format"
    assert told("messages[3]") == "input"
    assert told("tools") == "tools"


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}}, "text.format"),
        ({"guided_json": {}}, "guided_json"),
    ],
)
def test_a_form_goes_by_the_field_that_asked_for_it(fields: dict[str, Any], sent: str) -> None:
    for field in ("response_format", "response_format.schema"):
        error = RbeesError(ErrorCode.INVALID_REQUEST, f"`{field}` is not a valid schema.", field=field)
        told = errors.body_of(as_sent(error, read(**fields))).error
        assert (told.param, told.message) == (sent, f"`{sent}` is not a valid schema.")


def test_what_nobody_does_and_what_is_harmless_is_passed_over_and_named() -> None:
    request = read(include=["reasoning.encrypted_content", "message.output_text.logprobs"], reasoning={"summary": "auto"})
    assert unmet(request, ABLE) == ("reasoning.summary", "include[0]")
    assert unmet(read(cache_prompt=False), ABLE) == ("cache_prompt",)
    assert unmet(read(priority=3), ABLE) == ("priority",)
    for choice, names in (
        (None, ("tools[0].strict",)),
        ("required", ()),
        ("none", ()),
        ({"type": "function", "name": "count"}, ()),
    ):
        assert unmet(read(tools=[COUNT, WEIGH], tool_choice=choice), ABLE) == names
    allowed = [{"type": "function", "name": "count"}]
    for mode, names in (("auto", ("tools[0].strict",)), ("required", ())):
        chosen = {"type": "allowed_tools", "mode": mode, "tools": allowed}
        assert unmet(read(tools=[COUNT], tool_choice=chosen), ABLE) == names
    counting = read_foreign(encode({"model": "m", "input": "hum", "tools": [COUNT]}), CountRequest).request
    assert unmet(counting, ABLE) == ("tools[0].strict",)
    fields = {"model": "m", "input": "hum", "truncation": "disabled", "moderation": None, "personality": None}
    assert read_foreign(encode(fields), CountRequest).passed_over == ()


# ---- items ---------------------------------------------------------------------------------------------------------------

SPOKEN: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
    {"type": "reasoning", "id": "rs_x", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
    {
        "type": "message",
        "id": "msg_x",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "One moment.", "annotations": [], "logprobs": []}],
    },
    {"type": "function_call", "call_id": "c1", "name": "count", "arguments": '{"x":1}', "id": "fc_x", "status": "completed"},
    {"type": "function_call", "call_id": "c2", "name": "count", "arguments": ""},
    {"type": "function_call_output", "call_id": "c1", "output": "3"},
    {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "4"}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "sum"}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "why"},
]


def test_items_become_turns_as_templates_know_them() -> None:
    assert job_of(input=SPOKEN).messages == (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content=(TextPart(text="a"), TextPart(text="b"))),
        ChatMessage(
            role="assistant",
            content="One moment.",
            reasoning="hm",
            tool_calls=(ToolCall(id="c1", name="count", arguments={"x": 1}), ToolCall(id="c2", name="count", arguments={})),
        ),
        ChatMessage(role="tool", content="3", tool_call_id="c1"),
        ChatMessage(role="tool", content="4", tool_call_id="c2"),
        ChatMessage(role="assistant", content="No.", reasoning="sum"),
        ChatMessage(role="assistant", content="Yes."),
        ChatMessage(role="user", content="why"),
    )


def test_two_calls_under_one_id_are_two_turns() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "count", "arguments": "{}"}
    assert [len(turn.tool_calls) for turn in job_of(input=[call, call]).messages or ()] == [1, 1]


def test_thoughts_alone_are_a_turn_without_words() -> None:
    for content in ("hm", [{"type": "reasoning_text", "text": "hm"}]):
        (turn,) = job_of(input=[{"type": "reasoning", "content": content}]).messages or ()
        assert turn == ChatMessage(role="assistant", content="", reasoning="hm")


def test_items_are_kept_with_names_and_shown_as_the_reference_has_them() -> None:
    kept = named(record(input=SPOKEN).input, JOB_ID)
    shown = [TypeAdapter(ResponseItem).validate_json(encode(item)) for item in kept]
    assert [item.id for item in shown][:4] == [f"msg_{JOB_ID}_in0", f"msg_{JOB_ID}_in1", "rs_x", "msg_x"]
    assert turns_of(kept) == job_of(input=SPOKEN).messages


def test_a_reference_is_an_id_with_or_without_its_type() -> None:
    request = read(input=[{"type": "item_reference", "id": "msg_1"}, {"id": "msg_2"}])
    assert read_items(request.input, "m") == (Reference(id="msg_1"), Reference(id="msg_2"))


def test_a_conversation_goes_on_without_the_instructions_of_before() -> None:
    first = read(instructions="Be brief.")
    job = response_job(first, (), items_of(first), ABLE)
    output = items_of(read(input=SPOKEN[2:6]))
    earlier = conversation_of(job, record_of(first, job, items_of(first)).asked, output)
    assert [turn.role for turn in earlier] == ["user", "assistant"]
    following = job_of(earlier, input=SPOKEN[6:8], instructions="Sing.")
    assert [turn.role for turn in following.messages or ()] == ["system", "user", "assistant", "tool", "tool"]
    assert (following.messages or ())[0].content == "Sing."
    assert conversation_of(job_of(), record().asked, ()) == job_of().messages


def test_a_conversation_may_not_grow_without_end() -> None:
    hum = ChatMessage(role="user", content="hum")
    with pytest.raises(RbeesError, match=str(MAX_MESSAGES)):
        job_of((hum,) * MAX_MESSAGES)
    with pytest.raises(RbeesError, match=str(MAX_CHARACTERS)):
        job_of((ChatMessage(role="user", content="x" * MAX_CHARACTERS),))


def test_the_prompt_that_is_counted_is_that_of_the_job() -> None:
    fields: dict[str, Any] = {"input": SPOKEN, "instructions": "Sing.", "tools": [COUNT], "reasoning": {"effort": "low"}}
    request = read_foreign(encode({"model": "m", **fields}), CountRequest).request
    counted = counted_prompt(request, (), items_of(request), ABLE)
    job = job_of(**fields)
    assert (counted.messages, counted.tools, counted.tool_choice) == (job.messages, job.tools, job.tool_choice)
    assert counted.template_options == job.template_options


# ---- pages ---------------------------------------------------------------------------------------------------------------


def test_items_come_in_pages_from_either_end() -> None:
    items = named(items_of(read(input=[{"role": "user", "content": text} for text in "abcde"])), JOB_ID)
    ids = [item.id for item in items]
    newest = item_page(items, limit=2)
    assert ([item.id for item in newest.data], newest.has_more) == ([ids[4], ids[3]], True)
    assert (newest.first_id, newest.last_id) == (ids[4], ids[3])
    rest = item_page(items, limit=3, after=newest.last_id)
    assert ([item.id for item in rest.data], rest.has_more) == ([ids[2], ids[1], ids[0]], False)
    upwards = item_page(items, limit=2, order="asc", before=ids[4])
    assert ([item.id for item in upwards.data], upwards.has_more) == ([ids[2], ids[3]], True)
    nothing = item_page(items, order="asc", after=ids[4])
    assert (nothing.data, nothing.first_id, nothing.has_more) == ((), "", False)
    with pytest.raises(RbeesError) as caught:
        item_page(items, after="msg_x")
    assert caught.value.details["field"] == "after"
