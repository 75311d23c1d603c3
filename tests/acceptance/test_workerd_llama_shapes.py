"""Published shapes, real tokenizers: what the deterministic lane answers greedily is llama.cpp's own answer, token for token."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rbees.protocol.device_options import DeviceOptions
from rbees.protocol.errors import RbeesError
from rbees.workerd.engine.backend import Backend, LoadSpec
from rbees.workerd.engine.in_common import WORTH_WAITING_FOR
from rbees.workerd.engine.outputs import Finished, Output
from rbees.workerd.loading import load_backend
from tests.support.plain_llama import PlainLlama, engine_over, greedy, open_model
from tests.support.scripted_models import ending_of, ids_of, run_out
from tests.support.shaped_gguf import GEMMA, GEMMA2, LLAMA, QWEN2, Shape, write_shaped_gguf
from tests.support.tiny_mamba import write_tiny_mamba

CTX = 1_024
TEXTS = [
    "The bees had left the orchard by noon, and nobody in the village could say where they had gone. ",
    "Où sont les abeilles ? Elles dansent sur la bruyère, disait-il, et personne ne riait. ",
    "def swarm(size: int) -> list[Bee]:\n    return [Bee(i) for i in range(size) if i % 7]\n\n",
    "蜂たちは夕方に帰ってきた。巣の中は暖かい。",
    "1 + 1 = 2; 3.14159 * 2 = 6.28318; 0x7f == 127, -42 < 1e-9\n",
    '{"queen": null, "workers": [1, 2, 3], "drones": {"lazy": true}}\n',
    "Ульи стоят на поляне, а мёд уже густой. 🐝🍯 ",
    "\n\n\t  - honey\t- wax   - pollen\n\n",
]
LENGTHS = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 200, 233, 300, 377, 450, 511, 512, 513, 600, 610, 700, 800, 900]
PROMPTS_OF_A_SHAPE = 34
NEAR_TIE = 0.05
"""Standard deviations of the logits; see `PlainLlama.shortfalls`."""


def prompts_of(backend: Backend, count: int) -> list[list[int]]:
    """Texts of all kinds, as the model's own tokenizer reads them, from one token to 900."""
    prompts = []
    for number in range(count):
        rng, length = random.Random(number), LENGTHS[number % len(LENGTHS)]
        text = "".join(rng.choice(TEXTS) for _ in range(1 + length // 8))
        prompts.append(backend.tokenize(text, add_special=True, parse_special=True)[:length])
    return prompts


@contextmanager
def both(path: Path) -> Iterator[tuple[Backend, PlainLlama]]:
    """An engine's backend, and llama.cpp alone."""
    backend, plain = open_model(path, ctx=CTX), PlainLlama(path, CTX)
    yield backend, plain
    plain.close()
    backend.close()


def lone_answers(backend: Backend, prompts: list[list[int]], count: int) -> list[list[int]]:
    """In the deterministic lane, with others before, between and behind, so that it has something to be disturbed by."""
    engine = engine_over(backend)
    for number, prompt in enumerate(prompts):
        if number < 3 or number % 5 == 0:
            engine.submit(greedy(f"other{number}", prompt[::-1], 6, deterministic=False))
        engine.submit(greedy(f"job{number}", prompt, count))
    outputs = run_out(engine)
    return [ids_of(outputs, f"job{number}") for number in range(len(prompts))]


@pytest.mark.parametrize("shape", [LLAMA, QWEN2, GEMMA, GEMMA2], ids=lambda shape: shape.architecture)
def test_a_hundred_prompts_are_answered_as_llama_cpp_alone_answers_them(tmp_path: Path, shape: Shape) -> None:
    with both(write_shaped_gguf(tmp_path / "model.gguf", shape)) as (backend, plain):
        prompts = prompts_of(backend, PROMPTS_OF_A_SHAPE)
        answers = lone_answers(backend, prompts, 12)
        for number, prompt in enumerate(prompts):
            assert answers[number] == plain.greedy(prompt, 12), f"prompt {number} of {len(prompt)} tokens"
    assert sum(len(prompt) > 600 for prompt in prompts) >= 4
    assert len({token for answer in answers for token in answer}) > 100, "answers that say something about their prompts"


def test_a_recurrent_state_answers_as_llama_cpp_alone(tmp_path: Path) -> None:
    with both(write_tiny_mamba(tmp_path / "mamba.gguf")) as (backend, plain):
        prompts = prompts_of(backend, 24)
        answers = lone_answers(backend, prompts, 8)
        assert answers == [plain.greedy(prompt, 8) for prompt in prompts]


# ---- a sliding window --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sliding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shaped_gguf(tmp_path_factory.mktemp("sliding") / "gemma2.gguf", GEMMA2)


def cached(outputs: list[Output], key: str) -> int:
    ending = ending_of(outputs, key)
    assert isinstance(ending, Finished)
    return ending.usage.cached_tokens


def test_a_sliding_window_is_recognised_and_shapes_the_answer(sliding: Path, tmp_path: Path) -> None:
    assert GEMMA2.window is not None
    with both(sliding) as (backend, plain):
        assert (backend.facts.divisible, backend.facts.slots) == (False, 4)
        (prompt,) = prompts_of(backend, 16)[-1:]
        assert len(prompt) > 8 * GEMMA2.window
        wide = Shape(**{**GEMMA2.__dict__, "window": CTX})
        with both(write_shaped_gguf(tmp_path / "wide.gguf", wide)) as (_, other):
            assert plain.greedy(prompt, 12) != other.greedy(prompt, 12)
            assert plain.greedy(prompt[:20], 12) == other.greedy(prompt[:20], 12), "as long as all fits the window"


def test_cells_for_each_slot_are_refused_behind_a_sliding_window(sliding: Path) -> None:
    asked = LoadSpec(str(sliding), "cpu", "cpu", 2, 64, options=DeviceOptions(kv_layout="per_slot"))
    with pytest.raises(RbeesError, match="a sliding window") as caught:
        load_backend(asked, lambda _: True)
    assert caught.value.details == {"field": "kv_layout"}


def test_chats_go_on_behind_a_sliding_window(sliding: Path) -> None:
    with both(sliding) as (backend, plain):
        engine = engine_over(backend)
        history = prompts_of(backend, 13)[-1]
        known = 0
        for turn in range(4):
            engine.submit(greedy(f"turn{turn}", history, 20, deterministic=False))
            engine.submit(greedy(f"other{turn}", history[::-1][: 40 + turn], 20, deterministic=False))
            outputs = run_out(engine)
            answer = ids_of(outputs, f"turn{turn}")
            assert max(plain.shortfalls(history, answer)) < NEAR_TIE
            assert cached(outputs, f"turn{turn}") == known
            known = len(history) + 19
            history = [*history, *answer, *history[5:40]]


def test_nothing_is_shared_behind_a_sliding_window(sliding: Path) -> None:
    with both(sliding) as (backend, plain):
        engine = engine_over(backend)
        common = prompts_of(backend, 13)[-1]
        assert len(common) > 3 * WORTH_WAITING_FOR
        prompts = [[*common, *range(300 + 7 * number, 310 + 7 * number)] for number in range(3)]
        for number, prompt in enumerate(prompts):
            engine.submit(greedy(f"job{number}", prompt, 12, deterministic=False))
        outputs = run_out(engine)
        for number, prompt in enumerate(prompts):
            assert cached(outputs, f"job{number}") == 0
            assert max(plain.shortfalls(prompt, ids_of(outputs, f"job{number}"))) < NEAR_TIE
        engine.submit(greedy("shorter", common, 12, deterministic=False))
        outputs = run_out(engine)
        assert cached(outputs, "shorter") == 0, "what is behind its end cannot be taken away"
        assert max(plain.shortfalls(common, ids_of(outputs, "shorter"))) < NEAR_TIE
