"""What llama.cpp's memory forgets and gets back: the very same numbers, in every kind of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rbees.protocol.device_options import DeviceOptions
from rbees.workerd.engine.backend import Backend, Logits, Rows
from rbees.workerd.engine.outputs import Finished
from tests.support.plain_llama import PlainLlama, engine_over, greedy, open_model
from tests.support.scripted_models import ending_of, ids_of, run_out
from tests.support.shaped_gguf import GEMMA2, LLAMA, QWEN2, write_shaped_gguf
from tests.support.tiny_mamba import write_tiny_mamba

CTX = 512
SLOTS = 2
NEAR_TIE = 0.05
"""Standard deviations of the logits; see `PlainLlama.shortfalls`."""
WIDE_HEADS = replace(LLAMA, heads=2, heads_kv=2, head_width=32)
"""So that keys and values of 8 bits fill whole blocks."""


def unified(path: Path) -> DeviceOptions:
    write_shaped_gguf(path, QWEN2)
    return DeviceOptions(kv_layout="unified")


def per_slot(path: Path) -> DeviceOptions:
    write_shaped_gguf(path, QWEN2)
    return DeviceOptions(kv_layout="per_slot")


def eight_bits(path: Path) -> DeviceOptions:
    write_shaped_gguf(path, WIDE_HEADS)
    return DeviceOptions(kv_layout="unified", kv_type_k="q8_0", kv_type_v="q8_0")


def recurrent(path: Path) -> DeviceOptions:
    write_tiny_mamba(path)
    return DeviceOptions()


def sliding(path: Path) -> DeviceOptions:
    write_shaped_gguf(path, GEMMA2)
    return DeviceOptions()


Kind = Callable[[Path], DeviceOptions]
EXACT: list[Kind] = [unified, per_slot, recurrent, sliding]


@contextmanager
def opened(kind: Kind, folder: Path) -> Iterator[tuple[Backend, Path]]:
    """A model whose memory is of that kind."""
    path = folder / "model.gguf"
    backend = open_model(path, slots=SLOTS, ctx=CTX, options=kind(path))
    yield backend, path
    backend.close()


def text(backend: Backend, number: int, length: int) -> list[int]:
    """Token ids that begin differently for each number."""
    size = backend.facts.vocabulary_size
    return [(7_919 * (number + 1) + 31 * place * place) % size for place in range(length)]


def rows_of(slot: int, start: int, tokens: list[int]) -> Rows:
    wants = np.zeros(len(tokens), dtype=np.bool_)
    wants[-1] = True
    positions = np.arange(start, start + len(tokens), dtype=np.int32)
    return Rows(np.full(len(tokens), slot, dtype=np.int32), positions, np.array(tokens, dtype=np.int32), wants)


def compute(backend: Backend, slot: int, start: int, tokens: list[int]) -> Logits:
    return backend.decode(rows_of(slot, start, tokens)).copy()


@pytest.mark.parametrize("kind", [*EXACT, eight_bits])
def test_a_state_comes_back_to_the_bit_also_in_another_slot(kind: Kind, tmp_path: Path) -> None:
    with opened(kind, tmp_path) as (backend, _):
        prompt = text(backend, 0, 200)
        compute(backend, 0, 0, prompt)
        state = backend.save(0)
        assert state.nbytes == backend.state_bytes(0) > 0
        expected = compute(backend, 0, 200, [5])
        backend.remove(0, 0)
        compute(backend, 0, 0, text(backend, 1, 100))
        assert backend.restore(1, state)
        assert backend.length(1) == 200
        assert (compute(backend, 1, 200, [5]) == expected).all()


def test_a_state_for_which_there_are_no_cells_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    with opened(unified, tmp_path) as (backend, _):
        compute(backend, 0, 0, text(backend, 0, 300))
        state = backend.save(0)
        compute(backend, 1, 0, text(backend, 1, 500))
        expected = compute(backend, 0, 300, [5])
        backend.remove(0, 300)
        assert not backend.restore(2, state)
        assert [backend.length(slot) for slot in range(3)] == [300, 500, 0]
        assert (compute(backend, 0, 300, [5]) == expected).all()


def test_what_a_copy_is_on_its_way_to_or_from_is_left_alone(tmp_path: Path) -> None:
    with opened(per_slot, tmp_path) as (backend, _):
        prompt = text(backend, 0, 100)
        compute(backend, 0, 0, prompt)
        state = backend.save(0)
        backend.share(0, 1, 0, 60)
        assert backend.state_bytes(1) == 0
        backend.remove(0, 0)
        assert not backend.restore(0, state), "the copy would take this with it"
        assert backend.restore(2, state)
        copied = compute(backend, 1, 60, prompt[60:])
        assert backend.state_bytes(1) > 0
        backend.remove(2, 60)
        assert (compute(backend, 2, 60, prompt[60:]) == copied).all()


@pytest.mark.parametrize("kind", EXACT)
def test_chats_that_take_turns_go_on_where_they_were(kind: Kind, tmp_path: Path) -> None:
    """More of them than there are slots and cells: all of one's history but its last token need not be computed."""
    with opened(kind, tmp_path) as (backend, path):
        engine, plain = engine_over(backend, SLOTS, spill_bytes=64 << 20), PlainLlama(path, CTX)
        histories = [text(backend, number, 120) for number in range(9)]
        for turn in range(3):
            for number, history in enumerate(histories):
                engine.submit(greedy("turn", history, 8, deterministic=False))
                outputs = run_out(engine)
                ending, answer = ending_of(outputs, "turn"), ids_of(outputs, "turn")
                assert isinstance(ending, Finished)
                assert ending.usage.cached_tokens == (0, 127, 145)[turn]
                assert max(plain.shortfalls(history, answer)) < NEAR_TIE
                histories[number] = [*history, *answer, *text(backend, 50 + number, 10)]
        plain.close()
