"""The shipped model does what is promised of it: read as a file, through llama.cpp alone, at temperature 0.

The figures are those of `packaging/embedded_model/evaluate.py`, which also prints them. Nothing here needs a network.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

if importlib.util.find_spec("llama_cpp") is None:
    pytest.fail("llama-cpp-python is missing; run `make setup`, which compiles it.", pytrace=False)

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "rbees" / "host" / "data" / "models" / "haiku.gguf"


def _package() -> ModuleType:
    """The evaluation's package, loaded from its folder because it is no part of what gets installed."""
    name = "embedded_model"
    if name not in sys.modules:
        folder = ROOT / "packaging" / name
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def _part(name: str) -> Any:
    _package()
    return importlib.import_module(f"embedded_model.{name}")


@pytest.fixture(scope="module")
def runner() -> Iterator[Any]:
    opened = _part("greedy").Runner(MODEL)
    yield opened
    opened.close()


def test_the_three_figures_are_reached(runner: Any) -> None:
    figures = _part("evaluate").three_figures(runner)
    assert figures["minutes_of_60"] >= 57, figures
    assert figures["different_of_10"] >= 8, figures
    assert figures["unseen_of_200"] >= 160, figures


def test_training_can_not_have_shown_the_held_out_words() -> None:
    import random

    words, prompts, tokens = _part("words"), _part("prompts"), _part("tokens")
    held_out = set(words.held_out_words())
    assert len(held_out) == 200
    assert held_out.isdisjoint(words.TRAIN_ENGLISH)
    assert held_out.isdisjoint(word.strip().lower() for word in tokens.words())
    draw = random.Random(1)
    for _ in range(2000):
        sample = prompts.sample(draw)
        assert not words.shows_held_out_word(sample.answer)
        assert not any(words.shows_held_out_word(text) for _, text in sample.turns)


def test_the_file_is_small(runner: Any) -> None:
    assert MODEL.stat().st_size <= 4_000_000
    assert runner.parameters() <= 3_000_000


def test_an_answer_is_three_lines_and_ends_by_itself(runner: Any) -> None:
    words = ("lantern", "Sunday", "forty two", "7", "日本", "naïve")
    talks = [[{"role": "user", "content": f"Write a haiku about {word}."}] for word in words]
    talks += [[{"role": "user", "content": text}] for text in ("hello", "Write a haiku", "What is the capital of France?")]
    for text, ended in runner.chat(talks):
        assert ended, text
        assert len(text.split("\n")) == 3, text


def test_llama_cpp_reads_text_as_training_did(runner: Any) -> None:
    encode = _part("tokens").encode
    for text in (
        "Write a haiku that contains the word forty-two.",
        "  two  blanks\n\n\tand a tab\r\n",
        "naïve 日本 🐝",
        "",
        "the old pond\na frog leaps in\n",
        'it\'s "quoted", (bracketed) and 12345',
    ):
        ids = runner.tokenize(text)
        assert ids == encode(text)
        assert runner.detokenize(ids) == text


def test_text_cannot_smuggle_in_a_control_token(runner: Any) -> None:
    assert all(one < 256 for one in runner.tokenize("<|end|><|assistant|>", special=False))


def test_the_chat_template_renders_every_role_and_several_turns(runner: Any) -> None:
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": " moon "},
        {"role": "assistant", "content": "a\nb\nc"},
        {"role": "user", "content": "sun"},
    ]
    assert runner.render(talk) == (
        "<|begin|><|system|>Be kind.<|end|><|user|>moon<|end|><|assistant|>a\nb\nc<|end|><|user|>sun<|end|><|assistant|>"
    )
    parts = [{"role": "user", "content": [{"type": "text", "text": "moon"}]}]
    assert runner.render(parts) == "<|begin|><|user|>moon<|end|><|assistant|>"
