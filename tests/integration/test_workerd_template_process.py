"""The template's child process: limits of time and memory, death and restart."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.template_process import TemplateProcess


def said(content: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


HI = said("hi")
SWITCH = "{% if messages[0].content == 'bad' %}{{ BAD }}{% else %}{{ bos_token }}{{ messages[0].content }}{% endif %}"


def process(bad: str) -> TemplateProcess:
    return TemplateProcess(SWITCH.replace("BAD", bad), bos_text="<s>", eos_text="</s>")


async def test_one_child_renders_many() -> None:
    template = process("1")
    assert [await template.render(HI) for _ in range(3)] == ["<s>hi"] * 3
    await template.close()


@pytest.mark.parametrize(
    "bad", ["(messages | length + 8) ** (9 ** 9)", "'x' * 10 ** 10", "range(10**5) | list | string | length * 'y' * 10**6"]
)
async def test_what_takes_too_much_is_stopped_and_the_next_one_is_rendered(bad: str) -> None:
    template = process(bad)
    assert await template.render(HI) == "<s>hi"
    with pytest.raises(RbeesError) as caught:
        await template.render(said("bad"))
    assert caught.value.code == ErrorCode.MODEL_INCOMPATIBLE
    assert await template.render(HI) == "<s>hi"
    await template.close()


async def test_a_killed_child_is_replaced() -> None:
    template = process("1")
    await template.render(HI)
    child = template._child._process
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    assert await template.render(HI) == "<s>hi"
    await template.close()


async def test_a_child_that_died_unnoticed_is_no_fault_of_the_next_conversation() -> None:
    template = process("1")
    await template.render(HI)
    child = template._child._process
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    # Nothing was awaited since, so the loop cannot know yet.
    assert child.returncode is None
    assert await template.render(HI) == "<s>hi"
    await template.close()


async def test_a_child_that_dies_of_a_conversation_is_not_asked_without_end() -> None:
    template = process("1")
    await template.render(HI)
    template._template = "{{ 'x' * 2 ** 24 * 40 }}" * 2
    with pytest.raises(RbeesError) as caught:
        await template.render(HI)
    assert caught.value.code == ErrorCode.MODEL_INCOMPATIBLE
    await template.close()


async def test_a_child_that_gets_no_processor_says_nothing_of_the_conversation() -> None:
    template = process("1")
    await template.render(HI)
    child = template._child._process
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    template._child._timeout_s = 0.1
    with pytest.raises(RbeesError) as caught:
        await template.render(HI)
    assert caught.value.code == ErrorCode.WORKER_UNREACHABLE
    template._child._timeout_s = 60
    assert await template.render(HI) == "<s>hi"
    await template.close()


async def test_a_cancelled_call_leaves_no_answer_behind() -> None:
    template = process("range(10**5) | list | string | length")
    await template.render(HI)
    task = asyncio.create_task(template.render(said("bad")))
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await template.render(HI) == "<s>hi"
    await template.close()


async def test_nothing_is_imported_from_the_folder_the_worker_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("jinja2.py", "json.py", "rbees.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'was_executed')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    template = process("1")
    assert await template.render(HI) == "<s>hi"
    await template.close()
    assert not (tmp_path / "was_executed").exists()


async def test_a_signal_to_the_workers_group_does_not_reach_the_child() -> None:
    template = process("1")
    await template.render(HI)
    child = template._child._process
    assert child is not None
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    assert os.getpgid(child.pid) != os.getpgid(0)
    await template.close()
