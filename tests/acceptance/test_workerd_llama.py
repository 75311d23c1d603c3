"""The engine on real llama.cpp: equal to llama.cpp alone where that is promised, several sequences in one call, bad files."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from itertools import pairwise
from pathlib import Path

import llama_cpp as ll
import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from rbees.protocol import codec
from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ErrorCode, ErrorEnvelope, RbeesError
from rbees.protocol.events import End, Started, Token
from rbees.protocol.response_format import JsonSchemaFormat
from rbees.protocol.sampling import Sampling
from rbees.protocol.workers import ExecuteRequest
from rbees.workerd.engine.backend import Interrupted, LoadAbandoned, LoadSpec, Rows
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.grammar import Grammars, compile_form
from rbees.workerd.engine.in_common import WORTH_WAITING_FOR
from rbees.workerd.engine.outputs import Failed, Finished, Output
from rbees.workerd.engine.sequence import Work
from rbees.workerd.engine_thread import EngineThread
from rbees.workerd.loading import load_backend
from tests.support.plain_llama import THREADS, PlainLlama, engine_over, greedy, open_model
from tests.support.scripted_models import Ticks, ending_of, ids_of, run_out, text_of
from tests.support.tiny_gguf import BOS, USER, write_tiny_gguf
from tests.support.tiny_mamba import write_tiny_mamba
from tests.support.worker_process import running_worker

HAIKU = Path(__file__).parents[2] / "rbees" / "host" / "data" / "models" / "haiku.gguf"
PROMPTS = [
    "a moth",
    "the sea is wide and we are small, said the crab",
    "é" * 40,
    "Write about honey.\n" * 8,
    "x" * 600,
    "the rain fell on the tin roof; " * 24,
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "tiny": write_tiny_gguf(folder / "tiny.gguf", seed=1),
        "deep": write_tiny_gguf(folder / "deep.gguf", seed=2, layers=5, width=96, heads=6, heads_kv=6),
        "embedded": HAIKU,
    }


@pytest.mark.parametrize("name", ["tiny", "deep", "embedded"])
def test_greedy_in_the_deterministic_lane_equals_llama_cpp_alone(models: dict[str, Path], name: str) -> None:
    backend = open_model(models[name])
    plain = PlainLlama(models[name], 1_024)
    texts = [*PROMPTS, *(f"{i}: the crab said, " + PROMPTS[i % 3] * (1 + i % 9 * 4) for i in range(28))]
    prompts = [backend.tokenize(text, add_special=True, parse_special=True)[:900] for text in texts]
    counts = [48 if i < len(PROMPTS) else 8 for i in range(len(prompts))]
    engine = engine_over(backend)
    # Others before, between and behind, so that the lane has something to be disturbed by.
    for i, prompt in enumerate(prompts):
        if i < 3 or i % 7 == 0:
            engine.submit(greedy(f"other{i}", prompt[::-1], 10, deterministic=False))
        engine.submit(greedy(f"job{i}", prompt, counts[i]))
    outputs = run_out(engine)
    assert max(map(len, prompts)) > 600
    for i, prompt in enumerate(prompts):
        assert ids_of(outputs, f"job{i}") == plain.greedy(prompt, counts[i]), f"prompt {i} of {len(prompt)} tokens"
    plain.close()
    backend.close()


def test_an_answer_in_a_form_is_spelled_as_the_tokenizer_spells_it_and_goes_on_exactly(models: dict[str, Path]) -> None:
    backend = open_model(models["embedded"])
    schema = {
        "type": "object",
        "properties": {"kind": {"const": "the honey of the bees"}, "said": {"type": "string", "maxLength": 30}},
        "required": ["kind", "said"],
        "additionalProperties": False,
    }
    built = Grammars(backend).build(compile_form(JsonSchemaFormat(schema=schema)))
    prompt = tuple(backend.tokenize("a moth", add_special=True, parse_special=True))
    engine = engine_over(backend)
    for seed in range(4):
        engine.submit(Work(f"job{seed}", prompt, (), 200, Sampling(seed=seed), True, constraint=built))
    outputs = run_out(engine)
    of, the = backend.tokenize(" of the", add_special=False, parse_special=False)
    for seed in range(4):
        assert json.loads(text_of(outputs, f"job{seed}")).keys() == {"kind", "said"}
        ids = ids_of(outputs, f"job{seed}")
        assert (of, the) in pairwise(ids), "bytes would do too, but the model knows words"
        engine.submit(Work(f"again{seed}", prompt, tuple(ids[:9]), 200, Sampling(seed=seed), True, constraint=built))
    outputs += run_out(engine)
    assert all(ids_of(outputs, f"again{seed}") == ids_of(outputs, f"job{seed}")[9:] for seed in range(4))
    backend.close()


def test_a_continued_answer_in_the_deterministic_lane_is_bit_equal(models: dict[str, Path]) -> None:
    backend = open_model(models["deep"])
    prompt = backend.tokenize(PROMPTS[4], add_special=True, parse_special=True)
    engine = engine_over(backend)
    engine.submit(greedy("whole", prompt, 40))
    whole = ids_of(run_out(engine), "whole")
    for k in range(0, 41, 5):
        engine.submit(greedy(f"from{k}", prompt, 40, generated=tuple(whole[:k])))
        assert ids_of(run_out(engine), f"from{k}") == whole[k:]
    backend.close()


def test_several_sequences_share_one_decode_call(models: dict[str, Path]) -> None:
    backend = open_model(models["tiny"])
    seen: list[int] = []
    decode = backend.decode

    def counting(rows: Rows):  # type: ignore[no-untyped-def]
        seen.append(len(set(rows.slots.tolist())))
        return decode(rows)

    backend.decode = counting  # type: ignore[method-assign]
    engine = engine_over(backend)
    alone: dict[str, list[int]] = {}
    prompts = [backend.tokenize(text, add_special=True, parse_special=True) for text in PROMPTS[:4]]
    for i, prompt in enumerate(prompts):
        engine.submit(greedy(f"job{i}", prompt, 24, deterministic=False))
        alone[f"job{i}"] = ids_of(run_out(engine), f"job{i}")
    seen.clear()
    for i, prompt in enumerate(prompts):
        engine.submit(greedy(f"job{i}", prompt, 24, deterministic=False))
    together = run_out(engine)
    assert max(seen) == 4
    equal = sum(ids_of(together, key) == ids for key, ids in alone.items())
    assert equal >= 3, "near-ties may flip in a shared batch, but not everywhere"
    backend.close()


def test_what_was_said_before_is_said_again_in_fewer_calls(models: dict[str, Path]) -> None:
    """The embedded model gives a word one poem. Asked again in the same chat, it repeats what stands in its prompt."""
    answers: dict[bool, dict[str, list[int]]] = {}
    calls: dict[bool, int] = {}
    for speculates in (False, True):
        backend = open_model(models["embedded"], slots=1)
        # A clock of its own: on a busy machine a guess may look dearer than it is.
        engine = Engine(backend, slots=1, now=Ticks(), speculates=speculates)
        answers[speculates], calls[speculates] = {}, 0
        for word in ("honey", "thunderstorms", "moth", "counterrevolution"):
            question = f"<|user|>Write a haiku that contains the word {word}.<|end|><|assistant|>"
            chat = f"<|begin|>{question}"
            for turn in range(2):
                prompt = tuple(backend.tokenize(chat, add_special=False, parse_special=True))
                engine.submit(Work(f"{word}{turn}", prompt, (), 64, Sampling(temperature=0)))
                outputs: list[Output] = []
                while engine.step():
                    engine.check_integrity()
                    calls[speculates] += turn
                    outputs += engine.take_outputs()
                outputs += engine.take_outputs()
                answers[speculates][f"{word}{turn}"] = ids_of(outputs, f"{word}{turn}")
                chat += text_of(outputs, f"{word}{turn}") + "<|end|>" + question
        assert (engine.load().accepted_tokens_total > 40) == speculates
        backend.close()
    equal = sum(answers[True][key] == answers[False][key] for key in answers[False])
    assert equal >= 7, "near-ties may flip in a shared batch, but not everywhere"
    assert calls[True] < calls[False] * 2 / 3


def test_shared_cells_give_the_answers_of_cells_of_their_own(models: dict[str, Path]) -> None:
    """A pool that holds all only if what is shared is stored once: the library would refuse a row for which there is no cell."""
    backend = open_model(models["embedded"], slots=4, ctx=256, cells=256)
    system = backend.tokenize("Write about honey, and then of the rain. " * 6, add_special=True, parse_special=True)
    prompts = [system + backend.tokenize(text, add_special=False, parse_special=True) for text in ("bee", "moth", "crab", "hum")]
    assert 4 * len(system) > 256
    alone: list[list[int]] = []
    for i, prompt in enumerate(prompts):
        backend.clear()
        engine = engine_over(backend)
        engine.submit(greedy(f"alone{i}", prompt, 16, deterministic=False))
        alone.append(ids_of(run_out(engine), f"alone{i}"))
    backend.clear()
    engine = engine_over(backend)
    for turn in range(3):
        for i, prompt in enumerate(prompts):
            engine.submit(greedy(f"job{turn}{i}", prompt, 16, deterministic=False))
        outputs = run_out(engine)
        equal = 0
        for i, prompt in enumerate(prompts):
            ending = ending_of(outputs, f"job{turn}{i}")
            assert isinstance(ending, Finished)
            equal += ids_of(outputs, f"job{turn}{i}") == alone[i]
            expected = len(prompt) - 1 if turn else len(system) - WORTH_WAITING_FOR if i else 0
            assert ending.usage.cached_tokens >= expected
        assert equal >= 3, "near-ties may flip in a shared batch, but not everywhere"
    backend.close()


def test_a_recurrent_state_is_gone_on_with_as_a_whole_and_survives_interruptions(tmp_path: Path) -> None:
    path = write_tiny_mamba(tmp_path / "mamba.gguf")
    backend = open_model(path)
    assert (backend.facts.divisible, backend.facts.slots) == (False, 4)
    plain = PlainLlama(path, 1_024)
    engine = engine_over(backend)
    history = backend.tokenize("tell me of bees, for I know nothing of them", add_special=True, parse_special=True)
    known = 0
    for turn in range(3):
        engine.submit(greedy(f"turn{turn}", history, 12, deterministic=False))
        engine.submit(greedy(f"other{turn}", history[::-1], 12, deterministic=False))
        engine.step()
        backend.interrupt()
        engine.step()
        backend.rearm()
        outputs = run_out(engine)
        answer = ids_of(outputs, f"turn{turn}")
        assert answer == plain.greedy(history, 12)
        ending = ending_of(outputs, f"turn{turn}")
        assert isinstance(ending, Finished)
        assert ending.usage.cached_tokens == known
        known = len(history) + 11
        history = [*history, *answer, *b"<and then?>"]
    plain.close()
    backend.close()


def test_cells_that_run_out_preempt_and_lose_nothing(models: dict[str, Path]) -> None:
    backend = open_model(models["tiny"], ctx=256, cells=512)
    engine = engine_over(backend)
    prompt = backend.tokenize("z" * 100, add_special=True, parse_special=True)
    for i in range(4):
        engine.submit(greedy(f"job{i}", [*prompt, i], 120, deterministic=False))
    outputs: list[Output] = run_out(engine)
    for i in range(4):
        ending = ending_of(outputs, f"job{i}")
        assert isinstance(ending, Finished)
        assert len(ids_of(outputs, f"job{i}")) == 120
    backend.close()


def test_a_long_prefill_is_broken_off_at_once_and_shows_progress(tmp_path: Path) -> None:
    slow = write_tiny_gguf(tmp_path / "slow.gguf", layers=10, width=512, heads=8, heads_kv=8)
    backend = open_model(slow, slots=1, ctx=1_024)
    count = backend.facts.max_rows
    rows = Rows(
        np.zeros(count, np.int32),
        np.arange(count, dtype=np.int32),
        np.full(count, 65, np.int32),
        np.arange(count) == count - 1,
    )
    began, before = time.monotonic(), backend.progress()
    backend.decode(rows)
    whole_s, whole = time.monotonic() - began, backend.progress() - before
    backend.clear()
    seen: list[int] = []
    stopped_at, over = 0, threading.Event()

    def stop() -> None:
        nonlocal stopped_at
        while len(set(seen)) < 4 and not over.wait(whole_s / 100):
            seen.append(backend.progress())
        backend.interrupt()
        stopped_at = backend.progress()

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        with pytest.raises(Interrupted):
            backend.decode(rows)
    finally:
        over.set()
        stopper.join()
    assert backend.progress() - stopped_at < whole / 10, "hardly anything is computed after it"
    assert len(set(seen)) == 4, "the counter moves within one call"
    assert seen == sorted(seen)
    backend.rearm()
    backend.remove(0, 0)
    assert backend.decode(rows).shape == (1, backend.facts.vocabulary_size)
    backend.close()


async def test_cancelling_breaks_the_prefill_off_and_the_next_has_its_slot(tmp_path: Path) -> None:
    """The call that computes the prompt when the cancellation comes is the last one for it, and it does not run to its end."""
    slow = write_tiny_gguf(tmp_path / "slow.gguf", layers=10, width=512, heads=8, heads_kv=8)
    backend = open_model(slow, slots=1, ctx=1_024)
    calls: list[tuple[str, int]] = []
    computing, ended = threading.Event(), asyncio.Event()
    decode, outputs = backend.decode, list[Output]()

    def recording(rows: Rows):  # type: ignore[no-untyped-def]
        computing.set()
        calls.append(("begun", len(rows)))
        logits = decode(rows)
        calls[-1] = ("done", len(rows))
        return logits

    def deliver(new: list[Output]) -> None:
        outputs.extend(new)
        if any(isinstance(o, Finished) and o.key == "next" for o in new):
            ended.set()

    backend.decode = recording  # type: ignore[method-assign]
    thread = EngineThread(engine_over(backend, 1), backend)
    thread.start(deliver)
    thread.submit(greedy("long", [65] * 1_000, 4))
    thread.submit(greedy("next", [66, 67], 1))
    await asyncio.to_thread(computing.wait)
    await asyncio.sleep(0.02)
    thread.cancel("long")
    await asyncio.wait_for(ended.wait(), 30)
    await thread.stop()
    assert calls == [("begun", 512), ("done", 2)]
    ending = ending_of(outputs, "long")
    assert isinstance(ending, Failed)
    assert ending.error.code == ErrorCode.CANCELLED
    backend.close()


def test_the_tokenizer_and_facts_of_the_file_are_read(models: dict[str, Path]) -> None:
    backend = open_model(models["tiny"], ctx=4_096)
    facts = backend.facts
    assert facts.tokenizer == "gpt2"
    assert (facts.architecture, facts.quantization, facts.vocabulary_size, facts.ctx) == ("llama", "F16", 264, 2_048)
    assert facts.adds_bos
    assert (facts.bos_text, facts.eos_text) == ("<|bos|>", "<|eos|>")
    assert "<|user|>" in facts.control_texts
    assert backend.tokenize("a<|user|>b", add_special=True, parse_special=True) == [BOS, 97, USER, 98]
    assert USER not in backend.tokenize("a<|user|>b", add_special=False, parse_special=False)
    assert (
        b"".join(backend.piece(t) for t in backend.tokenize("héllo 🐝", add_special=True, parse_special=True))
        == "héllo 🐝".encode()
    )
    assert backend.memory_bytes() > 0
    backend.close()


def test_safe_mode_loads_and_computes(models: dict[str, Path]) -> None:
    backend = load_backend(LoadSpec(str(HAIKU), "cpu", "cpu", 2, 256, None, THREADS, True), lambda _: True)
    engine = engine_over(backend, 2)
    engine.submit(greedy("a", backend.tokenize("hi", add_special=True, parse_special=True), 8))
    assert len(ids_of(run_out(engine), "a")) == 8
    backend.close()


def test_progress_is_told_and_can_give_the_load_up(models: dict[str, Path]) -> None:
    shares: list[float] = []

    def note(share: float) -> bool:
        shares.append(share)
        return True

    load_backend(LoadSpec(str(HAIKU), "cpu", "cpu", 1, 64, None, THREADS), note).close()
    assert shares[-1] == pytest.approx(1.0)
    assert shares == sorted(shares)
    with pytest.raises(LoadAbandoned):
        load_backend(LoadSpec(str(HAIKU), "cpu", "cpu", 1, 64, None, THREADS), lambda _: False)


@pytest.fixture
def bad_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    good = write_tiny_gguf(tmp_path / "good.gguf").read_bytes()
    path = tmp_path / "bad.gguf"
    match request.param:
        case "cut in the weights":
            path.write_bytes(good[: len(good) * 2 // 3])
        case "cut in the header":
            path.write_bytes(good[:300])
        case "only the magic":
            path.write_bytes(good[:4])
        case "not gguf":
            path.write_bytes(b"PK\x03\x04" + good[4:])
        case "empty":
            path.write_bytes(b"")
        case "unknown architecture":
            write_tiny_gguf(path, architecture="beehive")
        case "no tokenizer":
            write_tiny_gguf(path, tokenizer=False)
        case "no context":
            write_tiny_gguf(path, context_length=1)
    return path


@pytest.mark.parametrize(
    "bad_file",
    [
        "cut in the weights",
        "cut in the header",
        "only the magic",
        "not gguf",
        "empty",
        "unknown architecture",
        "no tokenizer",
        "no context",
    ],
    indirect=True,
)
def test_bad_files_are_refused_with_a_code(bad_file: Path) -> None:
    with pytest.raises(RbeesError) as caught:
        open_model(bad_file)
    assert caught.value.code == ErrorCode.MODEL_INCOMPATIBLE
    assert str(bad_file) not in caught.value.message


@pytest.mark.parametrize("status", [-2, -3])
def test_a_model_that_cannot_compute_is_refused_and_a_failing_call_ends_its_job(
    models: dict[str, Path], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_model(models["tiny"])
    monkeypatch.setattr(ll, "llama_decode", lambda *_: status)
    engine = engine_over(backend)
    engine.submit(greedy("a", [1, 2, 3], 4))
    ending = ending_of(run_out(engine), "a")
    assert isinstance(ending, Failed)
    assert ending.error.code == ErrorCode.INTERNAL
    with pytest.raises(RbeesError) as caught:
        open_model(models["tiny"])
    assert caught.value.code == ErrorCode.MODEL_INCOMPATIBLE
    monkeypatch.undo()
    engine.submit(greedy("b", [1, 2, 3], 4))
    assert len(ids_of(run_out(engine), "b")) == 4, "the context is as good as before"
    backend.close()


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(RbeesError) as caught:
        open_model(tmp_path / "nowhere.gguf")
    assert caught.value.code == ErrorCode.MODEL_NOT_FOUND


def test_a_library_without_gpu_support_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that a library which has it, where these tests run beside a GPU, is asked for nothing less.
    monkeypatch.setattr(ll, "llama_supports_gpu_offload", lambda: False)
    with pytest.raises(RbeesError) as caught:
        load_backend(LoadSpec(str(HAIKU), "cuda", "cuda:0", 1, 64), lambda _: True)
    assert caught.value.code == ErrorCode.BACKEND_UNAVAILABLE
    assert "GGML_CUDA" in caught.value.message


async def test_a_worker_process_answers_and_another_continues_it(tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    message = ChatMessage(role="user", content="write a haiku with the word honey")
    request = ExecuteRequest(
        job_id="job", epoch=1, messages=(message,), sampling=Sampling(seed=5), deterministic=True, max_tokens=60
    )
    async with (
        running_worker(HAIKU, tmp_path, backend="cpu") as one,
        running_worker(HAIKU, tmp_path / "2", "--slots=2", backend="cpu") as two,
    ):
        await one.ready()
        await two.ready()
        async with one.client() as client, client.execute(request) as stream:
            whole = [event async for _, event in stream]
        tokens = [event for event in whole if isinstance(event, Token)]
        assert isinstance(whole[0], Started)
        assert isinstance(whole[-1], End)
        assert len(tokens) > 5
        for k in (1, len(tokens) // 2, len(tokens)):
            sent = tuple(i for token in tokens[:k] for i in token.token_ids)
            again = msgspec.structs.replace(request, job_id=f"job-{k}", epoch=2, generated_token_ids=sent)
            async with two.client() as client, client.execute(again) as stream:
                rest = [event async for _, event in stream]
            assert [event for event in rest if isinstance(event, Token)] == tokens[k:]
            assert isinstance(rest[-1], End)
            assert rest[-1].usage == whole[-1].usage


@pytest.mark.parametrize(("flags", "layout", "cells"), [((), "per_slot", 64 * 3), (("--kv-layout=unified",), "unified", 64 * 2)])
async def test_health_tells_how_kv_cells_are_divided(tmp_path: Path, flags: tuple[str, ...], layout: str, cells: int) -> None:
    async with running_worker(HAIKU, tmp_path, "--slots=2", "--ctx=64", "--threads=1", *flags, backend="cpu") as worker:
        await worker.ready()
        async with worker.client() as client:
            health = await client.health()
    assert (health.kv_layout, health.kv_cells_total) == (layout, cells)


async def test_a_layout_that_the_model_cannot_have_ends_the_process_with_65_and_what_to_do(tmp_path: Path) -> None:
    mamba = write_tiny_mamba(tmp_path / "mamba.gguf")
    async with running_worker(mamba, tmp_path, "--kv-layout=per_slot", backend="cpu") as worker:
        assert await worker.ended() == 65
        reason = codec.decode(worker.log.splitlines()[-1], ErrorEnvelope).error
    assert (reason.code, reason.details) == (ErrorCode.MODEL_INCOMPATIBLE, {"field": "kv_layout"})


async def test_a_damaged_file_ends_the_process_with_65_and_its_reason(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(HAIKU.read_bytes()[:100_000])
    async with running_worker(damaged, tmp_path, backend="cpu") as worker:
        assert await worker.ended() == 65
        assert codec.decode(worker.log.splitlines()[-1], ErrorEnvelope).error.code == ErrorCode.MODEL_INCOMPATIBLE


def test_a_cache_larger_than_the_model_was_trained_for_is_no_warning() -> None:
    with capture_logs() as lines:
        facts = open_model(HAIKU, slots=4).facts
    assert facts.cells > facts.ctx, "several sequences share it, none of which is longer than the model knows"
    assert not [line for line in lines if line["log_level"] == "warning" and "> n_ctx_train" in line["event"]]


@pytest.mark.parametrize(
    ("slots", "cells", "layout", "held"), [(3, None, "per_slot", 4), (3, 200, "unified", 19), (256, None, "unified", 256)]
)
def test_slots_have_cells_of_their_own_where_one_is_left_to_move_others_about(
    slots: int, cells: int | None, layout: str, held: int
) -> None:
    backend = load_backend(LoadSpec(str(HAIKU), "cpu", "cpu", slots, 64, cells, THREADS), lambda _: True)
    assert (backend.facts.layout, backend.facts.slots) == (layout, held)
    assert backend.facts.cells == cells or backend.facts.cells == 64 * (held if layout == "per_slot" else slots)
    backend.close()
