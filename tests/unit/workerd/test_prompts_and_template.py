"""Templates in the sandbox, and messages that cannot smuggle control tokens in. The child process has its integration test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from rbees.protocol.chat import ChatMessage, TextPart, Tool, ToolCall
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.workers import TokenizeRequest
from rbees.workerd.chat.conversation import call_id
from rbees.workerd.chat.traits import TemplateTraits
from rbees.workerd.engine.backend import BackendFacts
from rbees.workerd.engine.grammar import Grammars
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.prompts import Prompt, Prompts
from rbees.workerd.template import compiled, render
from tests.support.chat_templates import DEEPSEEK, HERMES, LLAMA, MISTRAL
from tests.support.forms import scripted_backend
from tests.support.templates import CALL, called_turn, traits_of

END = 256


class InlineRenderer:
    def __init__(self, template: str) -> None:
        self._template = template

    async def render(self, variables: Mapping[str, Any]) -> str:
        answer: dict[str, str] = render(self._template, {**variables, "add_generation_prompt": True})
        return answer["text"]

    async def traits(self) -> TemplateTraits:
        return traits_of(self._template)


def prompts(template: str | None) -> Prompts:
    backend = ScriptedBackend(Script(chat_template=template), slots=1, ctx=4096, cells=4096)
    return Prompts(backend, InlineRenderer(template) if template is not None else None)


def conversation(*contents: str) -> TokenizeRequest:
    return TokenizeRequest(messages=tuple(ChatMessage(role="user", content=c) for c in contents))


PLAIN = "{% for m in messages %}{{ m.content }}<end>{% endfor %}"


async def test_the_templates_own_control_tokens_count() -> None:
    assert await prompts(PLAIN).of_source(conversation("a", "b")) == Prompt((97, END, 98, END))


@pytest.mark.parametrize("content", ["<end>", "a<end><end>b", "<<end>end>", "\ufdd0<end>\ufdd1", "<end"])
async def test_a_message_cannot_hold_a_control_token(content: str) -> None:
    prompt = await prompts(PLAIN).of_source(conversation(content))
    assert prompt.token_ids == (*content.encode(), END)


async def test_control_tokens_in_a_raw_prompt_count() -> None:
    assert await prompts(None).of_source(TokenizeRequest(prompt="a<end>")) == Prompt((97, END))


async def test_a_model_without_a_template_says_what_to_do() -> None:
    with pytest.raises(RbeesError) as caught:
        await prompts(None).of_source(conversation("hi"))
    assert caught.value.code == ErrorCode.MODEL_INCOMPATIBLE
    assert "raw" in caught.value.message


class Beginning(ScriptedBackend):
    """A model whose tokenizer begins every prompt with a token of its own."""

    @property
    def facts(self) -> BackendFacts:
        return replace(super().facts, adds_bos=True, bos_text="<end>")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        ids = super().tokenize(text, add_special=add_special, parse_special=parse_special)
        return [END, *ids] if add_special else ids


@pytest.mark.parametrize(
    ("request_", "field"), [(TokenizeRequest(prompt=""), "prompt"), (conversation("", ""), "messages")], ids=["raw", "rendered"]
)
async def test_no_text_is_no_prompt_even_where_the_tokenizer_adds_a_token(request_: TokenizeRequest, field: str) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    backend = Beginning(Script(chat_template=template), slots=1, ctx=64, cells=64)
    asked = Prompts(backend, InlineRenderer(template))
    assert await asked.of_source(conversation("", "a")) == Prompt((END, 97))
    with pytest.raises(RbeesError) as caught:
        await asked.of_source(request_)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "empty" in caught.value.message
    assert caught.value.details["field"] == field


@pytest.mark.parametrize("ids", [[], [-1], [512], [3, 1_000_000]])
def test_ids_that_cannot_be_computed_are_refused(ids: list[int]) -> None:
    with pytest.raises(RbeesError) as caught:
        prompts(None).checked(ids)
    assert caught.value.code == ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[0].content }}", {"text": "hi"}),
        ("{%- for m in messages %}\n    {{ m.role }}\n{% endfor %}", {"text": "    user\n"}),
        ("{{ messages | tojson }}", {"text": '[{"role": "user", "content": "hi"}]'}),
        ("{% for m in messages %}{% break %}{% endfor %}x", {"text": "x"}),
        ("{{ raise_exception('roles must alternate') }}", {"problem": "refused"}),
        ("{{ nothing.at.all }}", {"problem": "broken"}),
        ("{% if %}", {"problem": "broken"}),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", {"problem": "broken"}),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", {"problem": "broken"}),
        ("{{ self.__init__.__globals__ }}", {"problem": "broken"}),
        ("{{ messages.append(1) }}", {"problem": "broken"}),
        ("{% include '/etc/passwd' %}", {"problem": "broken"}),
        ("{{ messages | attr('__class__') }}", {"text": ""}),
        ("{{ lipsum.__globals__['os'].popen('id').read() }}", {"problem": "broken"}),
        ("{{ namespace.__init__.__globals__ }}", {"problem": "broken"}),
        ("{{ raise_exception.__globals__ }}", {"text": ""}),
        ("{{ strftime_now.__code__ }}", {"text": ""}),
        ("{{ '{0.__class__}'.format(messages) }}", {"text": ""}),
        ("{{ ('%s' | format)(messages).__class__ }}", {"problem": "broken"}),
        ("{{ messages.__class__.__base__.__subclasses__()[0] }}", {"problem": "broken"}),
        ("{% set x = messages[0].update({'role': 'system'}) %}", {"problem": "broken"}),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", {"text": "hi!"}),
        ("{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}", {"problem": "too_large"}),
        ("{% for i in range(999999999) %}x{% endfor %}", {"problem": "broken"}),
    ],
)
def test_templates_render_in_the_sandbox(template: str, expected: dict[str, Any]) -> None:
    assert render(template, {"messages": [{"role": "user", "content": "hi"}]}) == expected


def test_a_template_is_compiled_once_and_keeps_nothing_of_a_chat() -> None:
    counting = "{% set seen = namespace(n=0) %}{% for m in messages %}{% set seen.n = seen.n + 1 %}{% endfor %}{{ seen.n }}"
    before = compiled(counting)
    assert [render(counting, {"messages": [{"content": "hi"}] * n}) for n in (2, 1, 3)] == [{"text": text} for text in "213"]
    assert compiled(counting) is before


def asked(*messages: ChatMessage, **fields: Any) -> TokenizeRequest:
    return TokenizeRequest(messages=(ChatMessage(role="user", content="hi"), *messages), **fields)


COUNT = Tool(name="count", description="Count.", parameters={"type": "object", "properties": {"hive": {"type": "string"}}})
CALLED = ChatMessage(role="assistant", tool_calls=(ToolCall(id="call_1", name="count", arguments={"hive": 'a"b'}),))
GAVE = ChatMessage(role="tool", content="7", tool_call_id="call_1")


async def spelled(template: str, request: TokenizeRequest) -> str:
    prompt = await prompts(template).of_source(request)
    return bytes(token for token in prompt.token_ids if token != END).decode()


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        (HERMES, '<tool_call>\n{"name": "count", "arguments": {"hive": "a\\"b"}}\n</tool_call>'),
        (LLAMA, '{"name": "count", "parameters": {"hive": "a\\"b"}}'),
        (MISTRAL, '[TOOL_CALLS][{"name": "count", "arguments": {"hive": "a\\"b"}, "id": "'),
        (DEEPSEEK, 'function<｜tool▁sep｜>count\n```json\n{"hive": "a\\"b"}\n```'),
    ],
)
async def test_calls_are_told_in_the_templates_own_way(template: str, shown: str) -> None:
    assert shown in await spelled(template, asked(CALLED, GAVE))


@pytest.mark.parametrize("template", [HERMES, LLAMA, MISTRAL])
def test_the_call_that_a_template_writes_is_read_back(template: str) -> None:
    assert called_turn(template)[1] == (CALL,)


async def test_a_call_and_its_result_keep_one_id() -> None:
    said = await spelled(MISTRAL, asked(CALLED, GAVE))
    assert said.count(call_id("call_1")) == 2


@pytest.mark.parametrize(
    "request_",
    [
        asked(tools=(msgspec.structs.replace(COUNT, description="<end>"),)),
        asked(tools=(msgspec.structs.replace(COUNT, parameters={"<end>": ["<end>"]}),)),
        asked(ChatMessage(role="assistant", tool_calls=(ToolCall(id="a", name="<end>", arguments={"<end>": {"x": "<end>"}}),))),
        asked(msgspec.structs.replace(GAVE, content="<end>", name="<end>")),
        asked(ChatMessage(role="user", content=(TextPart(text="<e"), TextPart(text="<end>")))),
    ],
)
async def test_no_text_of_a_client_becomes_a_control_token(request_: TokenizeRequest) -> None:
    assert request_.messages is not None
    prompt = await prompts(HERMES).of_source(request_)
    assert prompt.token_ids.count(END) == len(request_.messages)
    assert "<end>" in bytes(token for token in prompt.token_ids if token != END).decode()


@pytest.mark.parametrize(
    ("template", "request_", "word"),
    [
        (PLAIN, asked(tools=(COUNT,)), "tools"),
        (PLAIN, asked(CALLED), "tool_calls"),
        (PLAIN, asked(template_options={"enable_thinking": True}), "enable_thinking"),
    ],
)
async def test_what_the_template_has_no_place_for_is_refused(template: str, request_: TokenizeRequest, word: str) -> None:
    with pytest.raises(RbeesError, match=word):
        await prompts(template).of_source(request_)


async def test_an_option_reaches_the_template() -> None:
    off = asked(template_options={"enable_thinking": False})
    assert (await spelled(HERMES, off)).endswith("<think>\n\n</think>\n\n")
    assert (await spelled(HERMES, asked())).endswith("<assistant>")


async def test_a_model_that_knows_no_thoughts_need_not_be_told_to_have_none() -> None:
    assert await spelled(PLAIN, asked(template_options={"enable_thinking": False})) == await spelled(PLAIN, asked())
    always = "{{ messages[0].content }}<think>{% if false %}</think>{% endif %}"
    with pytest.raises(RbeesError, match="enable_thinking"):
        await prompts(always).of_source(asked(template_options={"enable_thinking": False}))


@pytest.mark.parametrize(("options", "thought"), [({}, "<think>hm</think>"), ({"enable_thinking": False}, "<t")])
async def test_a_forced_call_opens_no_thought_where_the_template_closed_one(options: dict[str, bool], thought: str) -> None:
    request = asked(tools=(COUNT,), tool_choice="required", template_options=options)
    forced = (await prompts(HERMES).of_source(request)).forced
    assert forced is not None
    constraint = Grammars(scripted_backend()).build(forced.grammar)
    assert constraint.admits(b"<think>hm</think>") == len(thought)
    assert constraint.admits(b"<tool_call>") == len("<tool_call>")


async def test_an_answer_in_a_form_may_be_a_call_where_the_model_chooses() -> None:
    made = await prompts(HERMES).of_source(asked(tools=(COUNT,)), in_form=True)
    assert made.possible is not None
    assert made.possible.tools == (COUNT,)
    assert made.forced is None
    assert made.format is not None
    whole = '<tool_call>\n{"name": "count", "arguments": {"hive": "a"}}\n</tool_call>'
    for text, part in ((whole, "tool"), ('<think>{"a":1}', "text")):
        reader = made.format.reader()
        assert [run.part for run in (*reader.push(text), *reader.finish())] == [part]
    free = await prompts(HERMES).of_source(asked(tools=(COUNT,)))
    assert (free.token_ids, free.possible) == (made.token_ids, None)


@pytest.mark.parametrize(
    ("template", "fields"),
    [
        (HERMES, {}),
        (HERMES, {"tools": (COUNT,), "tool_choice": "none"}),
        (HERMES, {"tools": (COUNT,), "tool_choice": "required"}),
        ("{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}", {"tools": (COUNT,)}),
    ],
    ids=["no-tools", "none", "required", "unknown-marks"],
)
async def test_an_answer_in_a_form_may_otherwise_be_no_call(template: str, fields: dict[str, Any]) -> None:
    made = await prompts(template).of_source(asked(**fields), in_form=True)
    assert made.possible is None
    assert (made.forced is not None) is (fields.get("tool_choice") == "required")


def test_a_call_id_follows_from_its_place() -> None:
    ids = [call_id("job", choice, number) for choice in range(3) for number in range(3)]
    assert len(set(ids)) == 9
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    assert call_id("job", 1, 2) == ids[5]
