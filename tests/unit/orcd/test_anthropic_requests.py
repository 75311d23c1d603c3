"""What Anthropic's clients ask for, as jobs: every field and every block of the reference, honoured or refused by name."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import anthropic.types as theirs
import pytest
from anthropic.types import message_content_param, message_count_tokens_params, message_create_params, tool_result_block_param

from rbees.orcd.anthropic import blocks
from rbees.orcd.anthropic.messages import (
    CountRequest,
    MessagesRequest,
    Metadata,
    OutputConfig,
    PromptRequest,
    counted_prompt,
    message_job,
    unmet,
)
from rbees.orcd.anthropic.thoughts import ThinkingConfig
from rbees.orcd.anthropic.tools import Choice, ToolDefinition
from rbees.orcd.anthropic.turns import FAILED, AnyTurn
from rbees.orcd.door.foreign import Foreign, described, read_foreign
from rbees.protocol.chat import MAX_MESSAGES, MAX_TEXT_PARTS, MAX_TOOL_CALLS, ChatMessage, NamedTool, TextPart, Tool, ToolCall
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job
from rbees.protocol.pools import ModelFacts
from rbees.protocol.response_format import JsonSchemaFormat
from rbees.protocol.sampling import LEAST_TOP_P
from tests.support.host_facts import model

HUM: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hum"}]}
COUNT: dict[str, Any] = {"name": "count", "input_schema": {"type": "object"}}
ABLE = model(template_words=("tools", "enable_thinking", "reasoning_effort", "</think>"))
THINKS = model(template_words=("tools", "[/THINK]"))
PLAIN = model()
HEADERS = {"user_profile_id", "workspace_id"}
"""What the package sends as headers, though it is among a request's parameters."""


def ask(**fields: Any) -> MessagesRequest:
    reading = read_foreign(encode({**HUM, **fields}), MessagesRequest)
    assert not reading.passed_over
    return reading.request


def job(facts: ModelFacts | None = ABLE, **fields: Any) -> JobRequest:
    made = message_job(ask(**fields), facts)
    check_job(made)
    return made


def told(*messages: dict[str, Any], **fields: Any) -> list[ChatMessage]:
    made = job(messages=list(messages), **fields).messages
    assert made is not None
    return list(made)


def refused(**fields: Any) -> RbeesError:
    with pytest.raises(RbeesError) as caught:
        job(**fields)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    return caught.value


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


# ---- nothing is left out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "params", "beside"),
    [
        (MessagesRequest, message_create_params.MessageCreateParamsStreaming, HEADERS),
        (CountRequest, message_count_tokens_params.MessageCountTokensParams, HEADERS),
        (ToolDefinition, theirs.ToolParam, set()),
        (OutputConfig, theirs.OutputConfigParam, set()),
        (Metadata, theirs.MetadataParam, set()),
        (blocks.CacheControl, theirs.CacheControlEphemeralParam, set()),
    ],
)
def test_every_field_of_the_reference_is_honoured_or_refused_by_name(ours: type[Foreign], params: Any, beside: set[str]) -> None:
    assert fields_of(params) - beside == {*ours.__struct_fields__, *ours.refused} - ours.extras


READ = {
    blocks.Text: theirs.TextBlockParam,
    blocks.Document: theirs.DocumentBlockParam,
    blocks.SearchResult: theirs.SearchResultBlockParam,
    blocks.Thinking: theirs.ThinkingBlockParam,
    blocks.RedactedThinking: theirs.RedactedThinkingBlockParam,
    blocks.ToolUse: theirs.ToolUseBlockParam,
    blocks.ToolResult: theirs.ToolResultBlockParam,
}


THEIR_BLOCKS = [
    each
    for each in get_args(get_args(get_args(message_content_param.MessageContentParam)[1])[0])
    if each.__name__.endswith("Param")
]
"""The others are those of answers, which are given back as these."""


@pytest.mark.parametrize(("ours", "params"), READ.items())
def test_every_field_of_a_block_too(ours: type[Foreign], params: Any) -> None:
    assert fields_of(params) == {*ours.__struct_fields__, *ours.refused, "type"}


@pytest.mark.parametrize(
    ("ours", "params"),
    [
        (blocks.Block, THEIR_BLOCKS),
        (blocks.ResultPart, get_args(tool_result_block_param.Content)),
        (ThinkingConfig, get_args(theirs.ThinkingConfigParam)),
        (Choice, get_args(theirs.ToolChoiceParam)),
        (AnyTurn, get_args(theirs.MessageParam)),
    ],
    ids=["block", "result", "thinking", "choice", "turn"],
)
def test_every_kind_of_part_is_known(ours: Any, params: Any) -> None:
    tags = {str(part.__struct_config__.tag) for part in get_args(ours)}
    assert tags == {tag_of(param) for param in params}


def fields_of(params: Any) -> set[str]:
    return {*params.__required_keys__, *params.__optional_keys__}


def tag_of(param: Any) -> str:
    hints = get_type_hints(param)
    (tag,) = get_args(hints.get("type", hints.get("role")))
    return str(tag)


@pytest.mark.parametrize("type_", [MessagesRequest, CountRequest])
def test_every_field_says_what_becomes_of_it(type_: type[Foreign]) -> None:
    assert not [name for name, about in described(type_) if not about]
    assert not set(type_.__struct_fields__) & set(type_.refused)


# ---- fields --------------------------------------------------------------------------------------------------------------


def test_a_request_with_nothing_said_leaves_everything_to_the_defaults() -> None:
    plain = JobRequest(
        model="m",
        messages=(ChatMessage(role="user", content="hum"),),
        max_tokens=9,
        fit_context=True,
        cancel_on_disconnect=True,
    )
    assert job() == plain
    nulls = {name: None for name in MessagesRequest.__struct_fields__ if name not in HUM}
    assert job(**nulls) == plain


def test_what_other_versions_of_the_api_and_rbees_itself_have_goes_over() -> None:
    made = job(
        temperature=0,
        top_p=0,
        top_k=-1,
        min_p=0.1,
        seed=3,
        deterministic=True,
        priority="batch",
        timeout_ms=5,
        deadline_ms=6,
        stop_sequences=["x", "y"],
        cancel_on_disconnect=False,
        chat_template_kwargs={"x": 1},
    )
    assert (made.temperature, made.top_p, made.top_k, made.min_p, made.seed) == (0, LEAST_TOP_P, 0, 0.1, 3)
    assert (made.deterministic, made.priority, made.timeout_ms, made.deadline_ms) == (True, "batch", 5, 6)
    assert (made.stop, made.cancel_on_disconnect, made.template_options) == (("x", "y"), False, {"x": 1})
    assert [job(service_tier=tier).priority for tier in ("auto", "standard_only")] == ["interactive"] * 2


def test_a_prompt_that_is_only_to_be_computed_takes_a_single_token() -> None:
    assert job(max_tokens=0).max_tokens == 1
    assert [ask(max_tokens=number).says_nothing for number in (0, 1)] == [True, False]


def test_who_asks_is_the_session_also_where_the_name_is_long() -> None:
    assert job(metadata={"user_id": "ada"}).session_id == "ada"
    assert job(metadata={"user_id": "ada"}, session_id="s").session_id == "s"
    assert job(metadata={"user_id": ""}).session_id is None
    long, other = (job(metadata={"user_id": letter * 400}).session_id for letter in "ab")
    assert long != other
    assert long == job(metadata={"user_id": "a" * 400}).session_id


ENABLED = {"type": "enabled", "budget_tokens": 1_024}
DISABLED = {"type": "disabled"}


def test_thoughts_and_how_many_are_told_to_a_template_that_knows_of_them() -> None:
    for shown in (ENABLED, {"type": "adaptive"}, {"type": "between_tools"}):
        assert job(thinking=shown).template_options == {"enable_thinking": True}
        assert ask(thinking=shown).shows_thoughts
    assert job(thinking=DISABLED, output_config={"effort": "low"}).template_options == {
        "enable_thinking": False,
        "reasoning_effort": "low",
    }
    assert job(thinking=ENABLED, chat_template_kwargs={"enable_thinking": False}).template_options == {"enable_thinking": False}
    assert not ask(thinking={"type": "adaptive", "display": "omitted"}).shows_thoughts
    assert not ask(thinking=DISABLED).shows_thoughts
    assert not ask().shows_thoughts


@pytest.mark.parametrize(
    ("facts", "thinking", "names"),
    [
        (ABLE, ENABLED, ("thinking.budget_tokens",)),
        (ABLE, DISABLED, ()),
        (THINKS, ENABLED, ("thinking.budget_tokens",)),
        (THINKS, {"type": "adaptive"}, ()),
        (THINKS, DISABLED, ("thinking",)),
        (PLAIN, {"type": "adaptive"}, ("thinking",)),
        (PLAIN, DISABLED, ()),
        (PLAIN, None, ()),
        (None, ENABLED, ("thinking", "thinking.budget_tokens")),
        (None, DISABLED, ()),
    ],
)
def test_what_a_template_cannot_be_told_is_named_where_it_does_otherwise(
    facts: ModelFacts | None, thinking: dict[str, Any] | None, names: tuple[str, ...]
) -> None:
    assert unmet(ask(thinking=thinking), facts) == names
    if facts is not ABLE:
        assert job(facts, thinking=thinking, output_config={"effort": "max"}).template_options == {}
        assert unmet(ask(output_config={"effort": "max"}), facts) == ("output_config.effort",)


def test_forms() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    for asked in ({"output_config": {"format": form}}, {"output_format": form}):
        assert job(**asked).response_format == JsonSchemaFormat(schema={"type": "object"})
    assert refused(output_config={"format": form}, output_format=form).details["field"] == "output_format"


def test_what_nobody_does_is_named_by_its_value() -> None:
    tools = [
        {**COUNT, "input_examples": [{}], "eager_input_streaming": True},
        {**COUNT, "name": "b", "eager_input_streaming": False},
    ]
    asked = ask(thinking={"type": "enabled", "budget_tokens": 5}, tools=tools, diagnostics={"previous_message_id": "x"})
    assert unmet(asked, ABLE) == (
        "tools[0].eager_input_streaming",
        "tools[0].input_examples",
        "thinking.budget_tokens",
        "diagnostics",
    )
    assert unmet(ask(), ABLE) == ()
    for kind, names in (("auto", ("tools[0].strict",)), ("any", ()), ("none", ())):
        assert unmet(ask(tools=[{**COUNT, "strict": True}], tool_choice={"type": kind}), ABLE) == names


@pytest.mark.parametrize("name", MessagesRequest.refused)
def test_what_is_refused_says_what_to_do_and_neutral_values_pass(name: str) -> None:
    error = refused(**{name: {"some": "thing"}})
    assert error.details["field"] == name
    assert error.message.startswith(f"`{name}` is not supported: ")
    for value in MessagesRequest.refused[name].unless:
        job(**{name: value})


def test_tools_of_servers_that_nobody_calls_are_refused_where_they_are_counted_too() -> None:
    servers = [{"type": "url", "name": "hives", "url": "https://hives.test"}]
    assert "run those yourself" in refused(mcp_servers=servers).message
    body = {"model": HUM["model"], "messages": HUM["messages"], "mcp_servers": servers}
    with pytest.raises(RbeesError, match="run those yourself"):
        read_foreign(encode(body), CountRequest)


def test_tools_and_choices() -> None:
    other = {"type": "custom", "name": "other", "description": "d", "input_schema": {"type": "object"}, "strict": True}
    made = job(tools=[COUNT, other], tool_choice={"type": "tool", "name": "other"})
    assert made.tools == (
        Tool(name="count", parameters={"type": "object"}),
        Tool(name="other", description="d", parameters={"type": "object"}),
    )
    assert made.tool_choice == NamedTool(name="other")
    assert [job(tools=[COUNT], tool_choice={"type": kind}).tool_choice for kind in ("auto", "none", "any")] == [
        "auto",
        "none",
        "required",
    ]
    once = {"type": "any", "disable_parallel_tool_use": True}
    assert [ask(tools=[COUNT], tool_choice=choice).calls_once for choice in (once, {"type": "none"}, None)] == [True, False, False]
    foreign: list[dict[str, Any]] = [
        {"type": "web_search_20250305", "name": "web_search"},
        {"type": "mcp_toolset", "mcp_server_name": "x"},
        {"type": "function", "function": {"name": "x"}},
    ]
    for tool in foreign:
        with pytest.raises(RbeesError, match="models here do not know") as caught:
            message_job(read_foreign(encode({**HUM, "tools": [tool]}), MessagesRequest).request, None)
        assert caught.value.details["field"] == "tools[0].type"
    assert refused(tools=[{"input_schema": {}}]).details["field"] == "tools[0].name"
    assert refused(tools=[{"name": "count"}]).details["field"] == "tools[0].input_schema"
    assert refused(tool_choice={"type": "tool", "name": "x"}).details["field"] == "tool_choice"
    for name, value in (("allowed_callers", ["code_execution_20250825"]), ("defer_loading", True)):
        assert refused(tools=[{**COUNT, name: value}]).details["field"] == f"tools[0].{name}"
    job(tools=[{**COUNT, "allowed_callers": ["direct"], "defer_loading": False}])


# ---- conversations -------------------------------------------------------------------------------------------------------


def test_a_system_prompt_is_a_text_or_blocks() -> None:
    hum = {"role": "user", "content": "hum"}
    cached = {"type": "text", "text": "b", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert told(hum, system="be brief")[0] == ChatMessage(role="system", content="be brief")
    assert told(hum, system=[{"type": "text", "text": "a"}, cached])[0].content == (TextPart(text="a"), TextPart(text="b"))
    assert [message.role for message in told(hum, system="")] == ["user"]
    later = told(hum, {"role": "system", "content": "now in verse"}, hum)
    assert [(message.role, message.content) for message in later] == [("user", "hum"), ("system", "now in verse"), ("user", "hum")]


def test_calls_and_what_came_of_them_are_turns_of_their_own() -> None:
    messages = told(
        {"role": "user", "content": "hum"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "wait", "citations": None},
                {"type": "tool_use", "id": "c1", "name": "count", "input": {"x": 1}, "caller": {"type": "direct"}},
                {"type": "tool_use", "id": "c2", "name": "count", "input": {}},
            ],
        },
        user(
            {"type": "tool_result", "tool_use_id": "c1", "content": "3"},
            {"type": "tool_result", "tool_use_id": "c2", "is_error": True, "content": [{"type": "text", "text": "no hive"}]},
            {"type": "text", "text": "and?"},
        ),
    )
    assert messages == [
        ChatMessage(role="user", content="hum"),
        ChatMessage(
            role="assistant",
            content="wait",
            reasoning="hm",
            tool_calls=(ToolCall(id="c1", name="count", arguments={"x": 1}), ToolCall(id="c2", name="count", arguments={})),
        ),
        ChatMessage(role="tool", content="3", tool_call_id="c1"),
        ChatMessage(role="tool", content=f"{FAILED}no hive", tool_call_id="c2"),
        ChatMessage(role="user", content="and?"),
    ]
    silent = told({"role": "user", "content": "x"}, {"role": "assistant", "content": []}, user())
    assert [message.content for message in silent] == ["x", "", ""]
    nothing = {"type": "tool_result", "tool_use_id": "c1"}
    failed = {**nothing, "is_error": True, "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert [message.content for message in told(user(nothing, failed))] == ["", (TextPart(text=f"{FAILED}a"), TextPart(text="b"))]


def test_turns_of_the_same_side_are_one() -> None:
    messages = told(
        {"role": "user", "content": "a"},
        user({"type": "text", "text": "b"}),
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "count", "input": {}}]},
        user({"type": "tool_result", "tool_use_id": "c1", "content": []}),
        {"role": "user", "content": "d"},
    )
    assert [(message.role, message.text) for message in messages] == [
        ("user", "a\nb"),
        ("assistant", "c"),
        ("tool", ""),
        ("user", "d"),
    ]
    assert messages[1].tool_calls == (ToolCall(id="c1", name="count", arguments={}),)


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            {
                "type": "document",
                "title": "Bees",
                "context": "old",
                "source": {"type": "text", "media_type": "text/plain", "data": "hum"},
            },
            "Bees\nold\nhum",
        ),
        ({"type": "document", "citations": {"enabled": False}, "source": {"type": "content", "content": "hum"}}, "hum"),
        ({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}]}}, "a"),
        ({"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "c"}]}, "t\ns\nc"),
    ],
)
def test_documents_of_text_are_text(block: dict[str, Any], text: str) -> None:
    assert [message.text for message in told(user(block))] == [text]
    assert [message.text for message in told(user({"type": "tool_result", "tool_use_id": "c", "content": [block]}))] == [text]


SOURCE = "messages[0].content[0].source"


@pytest.mark.parametrize(
    ("block", "place", "said"),
    [
        ({"type": "image", "source": {"type": "url", "url": "x"}}, "messages[0].content[0]", "is an image"),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}, SOURCE, "no text"),
        ({"type": "document", "source": {"type": "url", "url": "x"}}, SOURCE, "is an address"),
        ({"type": "document", "source": {"type": "file", "file_id": "x"}}, SOURCE, "is a file"),
        (
            {"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": {}}]}},
            f"{SOURCE}.content[0]",
            "is an image",
        ),
        (
            {"type": "document", "citations": {"enabled": True}, "source": {"type": "content", "content": "x"}},
            "messages[0].content[0].citations",
            "not supported",
        ),
        (
            {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "image"}]},
            "messages[0].content[0].content[0]",
            "is an image",
        ),
        (
            {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "tool_reference", "tool_name": "x"}]},
            "messages[0].content[0].content[0]",
            "refers to a tool",
        ),
        ({"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}, "messages[0].content[0]", "Anthropic runs"),
        ({"type": "container_upload", "file_id": "x"}, "messages[0].content[0]", "Anthropic runs"),
        ({"type": "tool_use", "id": "c", "name": "count", "input": {}}, "messages[0].content[0]", "only the assistant"),
        ({"type": "thinking", "thinking": "x", "signature": ""}, "messages[0].content[0]", "only the assistant"),
    ],
)
def test_blocks_that_cannot_be_read_are_refused_by_their_place(block: dict[str, Any], place: str, said: str) -> None:
    with pytest.raises(RbeesError, match=said) as caught:
        message_job(read_foreign(encode({**HUM, "messages": [user(block)]}), MessagesRequest).request, None)
    assert caught.value.details["field"] == place


def test_kinds_that_exist_are_told_once_to_whoever_sends_another() -> None:
    error = refused(messages=[user({"type": "image_url", "image_url": {}})])
    assert error.details["field"] == "messages[0].content[0].type"
    assert error.message.count("`tool_result`") == 1


def test_the_names_of_tools_may_be_as_long_as_agents_make_them() -> None:
    for name, fits in (("a" * 128, True), ("a" * 129, False), ("two words", False)):
        made: dict[str, Any] = {"tools": [{**COUNT, "name": name}], "tool_choice": {"type": "tool", "name": name}}
        assert (job(**made).tools[0].name == name) if fits else refused(**made)


def test_what_the_assistant_never_says_is_refused_and_so_is_its_turn_at_the_end() -> None:
    hum = {"role": "user", "content": "hum"}
    for block in (
        {"type": "tool_result", "tool_use_id": "c"},
        {"type": "search_result", "source": "s", "title": "t", "content": []},
        {"type": "web_search_tool_result"},
    ):
        error = refused(messages=[hum, {"role": "assistant", "content": [block]}, hum])
        assert error.details["field"] == "messages[1].content[0]"
    assert refused(messages=[hum, {"role": "assistant", "content": "It"}]).details["field"] == "messages[1]"


def test_what_becomes_more_than_a_job_holds_is_refused_by_its_place() -> None:
    hum, text = {"role": "user", "content": "hum"}, {"type": "text", "text": "x"}

    def calling(*ids: str) -> list[dict[str, Any]]:
        return [{"type": "tool_use", "id": id_, "name": "count", "input": {}} for id_ in ids]

    def field(*messages: dict[str, Any], **fields: Any) -> Any:
        return refused(messages=list(messages), **fields).details["field"]

    result = {"type": "tool_result", "tool_use_id": "c"}
    many = [str(number) for number in range(MAX_TOOL_CALLS + 1)]
    assert field(hum, {"role": "assistant", "content": calling(*many)}, hum) == f"messages[1].content[{MAX_TOOL_CALLS}]"
    one_by_one = [{"role": "assistant", "content": calling(id_)} for id_ in many]
    assert field(hum, *one_by_one, hum) == f"messages[{MAX_TOOL_CALLS + 1}].content[0]"
    assert field(hum, {"role": "assistant", "content": calling("a", "b", "a")}, hum, system="s") == "messages[1].content[2].id"
    job(messages=[hum, {"role": "assistant", "content": calling("a")}, hum, {"role": "assistant", "content": calling("a")}, hum])
    assert field(user(*[text] * MAX_TEXT_PARTS), user(text)) == "messages[1].content[0]"
    assert len(told(user(*[result] * MAX_MESSAGES))) == MAX_MESSAGES
    assert field(user(*[result] * MAX_MESSAGES), user(result)) == "messages"
    assert field(user(*[result] * MAX_MESSAGES), system="s") == "messages"


def test_what_is_counted_is_what_a_job_would_compute() -> None:
    fields: dict[str, Any] = {"system": "s", "tools": [COUNT], "thinking": {"type": "disabled"}}
    body = {name: value for name, value in HUM.items() if name != "max_tokens"}
    prompt = counted_prompt(read_foreign(encode({**body, **fields}), CountRequest).request, ABLE)
    made = job(**fields)
    assert (prompt.messages, prompt.tools, prompt.tool_choice) == (made.messages, made.tools, made.tool_choice)
    assert prompt.template_options == made.template_options
    assert set(CountRequest.__struct_fields__) == set(PromptRequest.__struct_fields__)


def test_nothing_of_a_conversation_shows_in_a_log() -> None:
    fields = {
        "system": "sekret",
        "messages": [
            user(
                {"type": "text", "text": "sekret"},
                {"type": "document", "title": "sekret", "source": {"type": "text", "data": "sekret"}},
            ),
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "sekret", "input": {"sekret": "sekret"}}]},
            user({"type": "tool_result", "tool_use_id": "c", "content": "sekret"}),
        ],
        "tools": [{"name": "sekret", "description": "sekret", "input_schema": {"title": "sekret"}}],
        "tool_choice": {"type": "tool", "name": "sekret"},
        "stop_sequences": ["sekret"],
        "metadata": {"user_id": "sekret"},
        "output_config": {"format": {"type": "json_schema", "schema": {"title": "sekret"}}},
        "chat_template_kwargs": {"sekret": "sekret"},
    }
    request = read_foreign(encode({**HUM, **fields}), MessagesRequest).request
    assert "sekret" not in repr(request)
    for part in (request.tools, request.tool_choice, request.messages, request.output_config):
        assert "sekret" not in repr(part)
