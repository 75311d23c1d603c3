"""The chat templates of published models, as llama.cpp collects them: each is looked at, tried and read back.

What a template writes for an assistant's call is what its model was trained to write. So the test has it write a call and reads
that. `make test` fetches the collection.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rbees.workerd.chat.shape import shape_of
from rbees.workerd.chat.style import style_of
from tests.support.answers import form as form_named
from tests.support.answers import parts_of
from tests.support.templates import CALL, called_turn, rendered, said, traits_of

FOLDER = Path(__file__).parents[3] / "build" / "llama-source" / "templates"
FILES = sorted(FOLDER.glob("*.jinja"))

assert FILES, "llama.cpp's collection of chat templates is not here: fetch it with `python -m scripts.llama_source`."

READ_BACK = {
    "hermes": [
        "Bielik-11B-v3.0-Instruct",
        "MiMo-VL",
        "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
        "Qwen-QwQ-32B",
        "Qwen-Qwen2.5-7B-Instruct",
        "Qwen-Qwen3-0.6B",
        "Reka-Edge",
        "ibm-granite-granite-4.0",
        "ibm-granite-granite-4.1",
    ],
    "functools": ["fireworks-ai-llama-3-firefunction-v2"],
    "json": [
        "meetkai-functionary-medium-v3.1",
        "meta-llama-Llama-3.1-8B-Instruct",
        "meta-llama-Llama-3.2-3B-Instruct",
        "meta-llama-Llama-3.3-70B-Instruct",
    ],
    "mistral": [
        "Mistral-Small-3.2-24B-Instruct-2506",
        "mistralai-Ministral-3-14B-Reasoning-2512",
        "mistralai-Mistral-Nemo-Instruct-2407",
        "unsloth-mistral-Devstral-Small-2507",
    ],
    "deepseek": [
        "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
        "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
        "deepseek-ai-DeepSeek-V3.1",
    ],
    "command-r7b": ["CohereForAI-c4ai-command-r7b-12-2024-tool_use", "Cohere2MoE"],
    "nemotron": ["NVIDIA-Nemotron-Nano-v2"],
    "minimax": ["Apriel-1.6-15b-Thinker-fixed", "MiniMax-M1", "unsloth-Apriel-1.5"],
    "kimi": ["moonshotai-Kimi-K2"],
    "qwen-coder": ["NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "Qwen3-Coder", "Qwen3.5-4B", "StepFun3.5-Flash"],
    "glm": ["GLM-4.6", "GLM-4.7-Flash", "Spark2.5", "inclusionai-ling-3.0-flash"],
    "seed": ["ByteDance-Seed-OSS"],
    "minimax-m2": ["MiniMax-M2"],
    "deepseek-v3.2": ["deepseek-ai-DeepSeek-V3.2"],
    "deepseek-v4": ["deepseek-ai-DeepSeek-V4", "deepseek-ai-DeepSeek-V4-Flash-0731"],
}
"""Form of calls, and the templates whose own calls are read back in it."""

THINKING = {
    "Qwen-Qwen3-0.6B": "<think>",
    "Qwen-QwQ-32B": "<think>",
    "GLM-4.6": "<think>",
    "Kimi-K2-Thinking": "<think>",
    "deepseek-ai-DeepSeek-V3.1": "<think>",
    "mistralai-Ministral-3-14B-Reasoning-2512": "[THINK]",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "<|START_THINKING|>",
    "ByteDance-Seed-OSS": "<seed:think>",
    "google-gemma-4-31B-it": "<|channel>thought",
    "Qwen-Qwen2.5-7B-Instruct": None,
    "meta-llama-Llama-3.1-8B-Instruct": None,
    "mistralai-Mistral-Nemo-Instruct-2407": None,
}


def template(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_template_is_looked_at_within_its_limits(path: Path) -> None:
    began = time.process_time()
    text = path.read_text()
    traits = traits_of(text)
    assert traits.calls is None or traits.takes_tools or "tool_calls" in text
    assert "hello bees" in rendered(text, messages=[said("user", "hello bees")])
    assert time.process_time() - began < 10


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, names in READ_BACK.items() for name in names])
def test_the_call_that_a_template_writes_is_read_back(form: str, name: str) -> None:
    text = template(name)
    assert style_of(text, lambda _: None).calls.name == form
    events, calls = called_turn(text)
    assert calls == (CALL,)
    spoken = "".join(part for kind, part in parts_of(events) if kind == "text")
    assert CALL.name not in spoken


@pytest.mark.parametrize(
    "name", [name for form, names in READ_BACK.items() if not any(b.tags for b in form_named(form).blocks) for name in names]
)
def test_a_call_can_be_forced_in_the_templates_own_spelling(name: str) -> None:
    text = template(name)
    turn = traits_of(text).turn
    assert turn is not None
    shape = shape_of(style_of(text, lambda _: None).calls, turn)
    assert shape is not None
    assert shape.filled(CALL.name, json.dumps(CALL.arguments)) in turn


@pytest.mark.parametrize(("name", "opens"), THINKING.items())
def test_marks_of_thoughts_are_recognised(name: str, opens: str | None) -> None:
    marks = style_of(template(name), lambda _: None).reasoning
    assert (marks.opens if marks else None) == opens


@pytest.mark.parametrize(
    ("name", "thinks"),
    [("Qwen-QwQ-32B", True), ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", True), ("Qwen-Qwen3-0.6B", False)],
)
def test_a_prompt_that_opens_a_thought_is_noticed(name: str, thinks: bool) -> None:
    text = template(name)
    prompt = rendered(text, messages=[said("user", "hello")], enable_thinking=True)
    how = style_of(text, lambda _: None).answer(prompt, {})
    assert how is not None
    assert how.thinks is thinks


@pytest.mark.parametrize(
    "name", ["Qwen-Qwen3-0.6B", "GLM-4.7-Flash", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "google-gemma-4-31B-it"]
)
@pytest.mark.parametrize("thinking", [True, False])
def test_a_prompt_that_closed_a_thought_is_noticed(name: str, thinking: bool) -> None:
    text = template(name)
    prompt = rendered(text, messages=[said("user", "hello")], enable_thinking=thinking)
    how = style_of(text, lambda _: None).answer(prompt, {})
    assert how is not None
    assert how.has_thought is not thinking


def test_options_are_those_that_the_template_uses() -> None:
    assert "enable_thinking" in traits_of(template("Qwen-Qwen3-0.6B")).options
    assert "enable_thinking" not in traits_of(template("Qwen-Qwen2.5-7B-Instruct")).options
    assert "date_string" in traits_of(template("meta-llama-Llama-3.1-8B-Instruct")).options
