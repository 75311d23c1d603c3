"""Templates in the sandbox, and messages that cannot smuggle control tokens in. The child process has its integration test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.workers import TokenizeRequest
from rbees.workerd.chat.traits import NEEDLES, TRIALS, TemplateTraits, trial_variables
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.prompts import Prompt, Prompts
from rbees.workerd.template import describe, render

END = 256


class InlineRenderer:
    def __init__(self, template: str) -> None:
        self._template = template

    async def render(self, variables: Mapping[str, Any]) -> str:
        answer: dict[str, str] = render(self._template, dict(variables))
        return answer["text"]

    async def traits(self) -> TemplateTraits:
        found = describe(self._template, [trial_variables(style) for style in TRIALS], list(NEEDLES))
        shown = None if found["shown"] is None else TRIALS[found["shown"]]
        return TemplateTraits(frozenset(found["names"]) - {"messages", "tools"}, "tools" in found["names"], shown)


def prompts(template: str | None) -> Prompts:
    backend = ScriptedBackend(Script(chat_template=template), slots=1, ctx=64, cells=64)
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
        ("{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}", {"problem": "too_large"}),
        ("{% for i in range(999999999) %}x{% endfor %}", {"problem": "broken"}),
    ],
)
def test_templates_render_in_the_sandbox(template: str, expected: dict[str, Any]) -> None:
    assert render(template, {"messages": [{"role": "user", "content": "hi"}]}) == expected
