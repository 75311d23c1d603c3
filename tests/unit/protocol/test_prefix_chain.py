"""Chains of hashes over prompts: alike exactly as far as the prompts are, whatever their length."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from rbees.protocol.chat import ChatMessage, TextPart, Tool, ToolCall
from rbees.protocol.prefix_chain import BLOCK_BYTES, LINK_ENDS, MAX_LINKS, PrefixLink, canonical, chain_of
from rbees.protocol.workers import ExecuteRequest

TOOL = Tool(name="weather", description="The weather at a place. " * 30, parameters={"type": "object", "properties": {}})
SYSTEM = ChatMessage(role="system", content="You are a bee. " * 200)
TALK = (
    SYSTEM,
    ChatMessage(role="user", content="What is in the meadow? " * 40),
    ChatMessage(role="assistant", content="Clover, and a moth. " * 40, reasoning="I flew there."),
    ChatMessage(role="user", content="And in the hive? " * 40),
    ChatMessage(role="assistant", tool_calls=(ToolCall(id="c", name="weather", arguments={"place": "hive"}),)),
    ChatMessage(role="tool", content="warm", tool_call_id="c"),
)


def chat(messages: tuple[ChatMessage, ...] = TALK, **fields: Any) -> tuple[PrefixLink, ...]:
    return chain_of(ExecuteRequest(job_id="j", epoch=1, messages=messages, **fields))


def text(prompt: str) -> tuple[PrefixLink, ...]:
    return chain_of(ExecuteRequest(job_id="j", epoch=1, prompt=prompt))


def hashes(chain: tuple[PrefixLink, ...]) -> list[str]:
    return [link.hash for link in chain]


def common(a: tuple[PrefixLink, ...], b: tuple[PrefixLink, ...]) -> int:
    pairs = zip(hashes(a), hashes(b), strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(a), len(b)))


def test_a_conversation_that_goes_on_begins_with_the_links_of_what_was_said_before() -> None:
    whole = chat(tools=(TOOL,))
    for said in range(1, len(TALK)):
        shorter = chat(TALK[:said], tools=(TOOL,))
        assert len(shorter) > 4
        assert hashes(whole)[: len(shorter)] == hashes(shorter)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": (Tool(name="clock"), TOOL)},
        {"tools": (TOOL,), "template_options": {"enable_thinking": False}},
        {"tools": (TOOL,), "tool_choice": "none"},
    ],
)
def test_other_tools_or_options_stand_in_front_and_change_every_link(fields: dict[str, Any]) -> None:
    assert not set(hashes(chat(tools=(TOOL,)))) & set(hashes(chat(**fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"template_options": {"b": 1, "a": 2}},
        {"messages": (ChatMessage(role="system", content=(TextPart(text=SYSTEM.text),)), *TALK[1:])},
        {"deterministic": True, "max_tokens": 5},
    ],
)
def test_what_changes_no_prompt_changes_no_link(fields: dict[str, Any]) -> None:
    before: dict[str, Any] = {"tools": (TOOL,)}
    if "template_options" in fields:
        before["template_options"] = {"a": 2, "b": 1}
    assert chat(**{**before, **fields}) == chat(**before)


def test_a_message_that_differs_changes_the_links_from_its_block_on() -> None:
    other = (*TALK[:1], ChatMessage(role="user", content="Where is the queen? " * 40), *TALK[2:])
    whole = chat()
    alike = len(canonical(ExecuteRequest(job_id="j", epoch=1, messages=TALK[:1])))
    assert common(whole, chat(other)) == sum(end <= alike for end in LINK_ENDS) > 4


def test_all_that_a_message_says_counts() -> None:
    plain = ChatMessage(role="assistant", content="x")
    others: list[dict[str, Any]] = [{}, {"reasoning": "a"}, {"name": "a"}, {"content": "y"}, {"role": "user"}]
    firsts = [replace(plain, **fields) for fields in others]
    assert len({chat((first, *TALK))[0].hash for first in firsts}) == len(firsts)


def test_raw_text_conversations_and_token_ids_never_meet() -> None:
    ids = chain_of(ExecuteRequest(job_id="j", epoch=1, token_ids=(1, 22, 333) * 400))
    longer = chain_of(ExecuteRequest(job_id="j", epoch=1, token_ids=(1, 22, 333) * 800))
    assert hashes(longer)[: len(ids)] == hashes(ids)
    raw = canonical(ExecuteRequest(job_id="j", epoch=1, messages=TALK)).decode()
    assert not {*hashes(text(raw))} & {*hashes(chat()), *hashes(ids)}


def test_less_than_a_block_has_no_link() -> None:
    assert text("hum") == ()
    assert len(text("x" * BLOCK_BYTES)) == 1


def test_links_are_bounded_and_say_their_share() -> None:
    assert (LINK_ENDS[0], LINK_ENDS[15], LINK_ENDS[16], LINK_ENDS[-1]) == (512, 16 * 512, 18 * 512, 1024 * 512)
    assert all(after - before <= max(BLOCK_BYTES, before / 8) for before, after in pairwise(LINK_ENDS))
    long = text("the sea " * 200_000)
    assert len(long) == MAX_LINKS
    written = len(b"text\n") + 1_600_000
    assert [link.share for link in long] == pytest.approx([end / written for end in LINK_ENDS], abs=1e-6)
    assert text("the sea " * 200)[-1].share == pytest.approx(3 * 512 / 1_605, abs=1e-6)


def test_no_hash_shows_in_a_repr() -> None:
    request = ExecuteRequest(job_id="j", epoch=1, prompt="x" * 600, prefix_chain=text("x" * 600))
    assert text("x" * 600)[0].hash not in repr(request) + repr(request.prefix_chain)


def test_the_links_of_a_known_prompt_stay_what_they_are() -> None:
    """Two orcds of unlike age would otherwise not know each other's prompts at a worker."""
    assert hashes(text("honey " * 200)) == ["65fa6be0345644d5", "bc8510b4016c448a"]
    assert hashes(chat((ChatMessage(role="user", content="honey " * 100),))) == ["dd82e1082f573db7"]
