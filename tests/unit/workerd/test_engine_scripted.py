"""The engine over a backend in which each token is a hash of the whole prefix, so any wrong cell, slot or replay shows."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine import drawing
from rbees.workerd.engine.backend import CellsExhausted, DecodeFailed, Logits, Rows
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Admitted, Failed, Finished, Grown
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from rbees.workerd.engine.shortage import Shortage
from tests.support.scripted_models import Ticks, ending_of, ids_of, run_out, scripted_engine, text_of

PROMPT = tuple(b"tell me of bees")


def work(key: str = "a", prompt: tuple[int, ...] = PROMPT, generated: tuple[int, ...] = (), **fields: Any) -> Work:
    max_tokens = fields.pop("max_tokens", None)
    deterministic = bool(fields.pop("deterministic", False))
    return Work(key, prompt, generated, max_tokens, Sampling(**fields), deterministic)


def undisturbed(**fields: Any) -> tuple[str, list[int], Finished]:
    engine = scripted_engine()
    engine.submit(work(**fields))
    outputs = run_out(engine)
    ending = ending_of(outputs, "a")
    assert isinstance(ending, Finished)
    return text_of(outputs, "a"), ids_of(outputs, "a"), ending


def test_an_answer_ends_where_the_model_ends_it() -> None:
    text, ids, ending = undisturbed(seed=3)
    assert len(ids) == 50
    assert ending.reason == "stop"
    assert ending.usage.prompt_tokens == len(PROMPT)
    assert ending.usage.completion_tokens == 51, "the end token was computed too"
    assert not text.isascii(), "some characters came in several tokens"
    assert "�" not in text


def test_max_tokens_ends_with_length() -> None:
    _, ids, ending = undisturbed(max_tokens=7)
    assert (len(ids), ending.reason, ending.usage.completion_tokens) == (7, "length", 7)


def test_the_context_is_the_limit_where_none_is_given() -> None:
    engine = scripted_engine(ctx=40)
    engine.submit(work(ignore_eos=True))
    ending = ending_of(run_out(engine), "a")
    assert isinstance(ending, Finished)
    assert (ending.reason, ending.usage.completion_tokens) == ("length", 40 - len(PROMPT))


def test_a_stop_string_ends_the_answer_before_it() -> None:
    text, _, _ = undisturbed(seed=3)
    stop = text[30:36]
    stopped, _, ending = undisturbed(seed=3, stop=(stop,))
    assert stopped == text[: text.index(stop)]
    assert (ending.reason, ending.stop_string) == ("stop", stop)
    assert undisturbed(seed=3, stop=("no bee says this",))[2].stop_string is None


def test_the_seed_decides_the_draws_and_greedy_ignores_it() -> None:
    assert undisturbed(seed=1)[0] == undisturbed(seed=1)[0]
    assert undisturbed(seed=1)[0] != undisturbed(seed=2)[0]
    assert undisturbed(seed=1, temperature=0.0)[0] == undisturbed(seed=2, temperature=0.0)[0]


EVERYTHING: dict[str, Any] = {
    "temperature": 1.3,
    "top_k": 0,
    "top_p": 0.99,
    "min_p": 0.01,
    "typical_p": 0.98,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.2,
    "penalty_last_n": -1,
    "dry_multiplier": 0.8,
    "dry_allowed_length": 1,
    "dry_penalty_last_n": -1,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.1,
    "logit_bias": {300: 2.0},
    "logprobs": True,
    "top_logprobs": 2,
}


def test_an_answer_goes_on_as_if_never_interrupted_whatever_shapes_it() -> None:
    engine = scripted_engine()
    engine.submit(work(seed=4, **EVERYTHING))
    whole = [output for output in run_out(engine) if isinstance(output, Grown)]
    ids = [token for grown in whole for token in grown.piece.token_ids]
    for cut in range(len(whole)):
        before = sum(len(grown.piece.token_ids) for grown in whole[:cut])
        engine = scripted_engine(slots=3)
        engine.submit(work(generated=tuple(ids[:before]), seed=4, **EVERYTHING))
        engine.submit(work("mate", seed=5, **EVERYTHING))
        engine.submit(work("other", seed=6))
        assert [output for output in run_out(engine) if isinstance(output, Grown) and output.key == "a"] == whole[cut:]


def test_every_token_that_is_sent_has_its_logprobs() -> None:
    engine = scripted_engine()
    engine.submit(work(seed=3, logprobs=True, top_logprobs=2, stop=("no bee says this",)))
    grown = [output for output in run_out(engine) if isinstance(output, Grown)]
    assert any(len(output.piece.token_ids) > 1 for output in grown), "some characters came in several tokens"
    for output in grown:
        assert output.logprobs is not None
        assert [each.token_id for each in output.logprobs] == list(output.piece.token_ids)
        assert all(len(each.top) == 2 and each.logprob <= each.top[0].logprob <= 0 for each in output.logprobs)


def test_the_stop_string_has_no_logprobs() -> None:
    text, _, _ = undisturbed(seed=3)
    engine = scripted_engine()
    engine.submit(work(seed=3, logprobs=True, stop=(text[30:36],)))
    grown = [output for output in run_out(engine) if isinstance(output, Grown)]
    kept = text[: text.index(text[30:36])]
    spelled = b"".join(bytes(each.bytes or each.text.encode()) for output in grown for each in output.logprobs or ())
    assert spelled.decode().startswith(kept)
    assert len(spelled) < len(kept.encode()) + len(text[30:36].encode())


def test_without_being_asked_nothing_is_said_of_probabilities() -> None:
    engine = scripted_engine()
    engine.submit(work())
    assert {output.logprobs for output in run_out(engine) if isinstance(output, Grown)} == {None}


def test_batch_mates_change_nothing() -> None:
    alone = [undisturbed(seed=i, prompt=PROMPT + (i,) * i)[0] for i in range(8)]
    engine = scripted_engine(slots=4)
    for i in range(8):
        engine.submit(work(f"job{i}", PROMPT + (i,) * i, seed=i))
    outputs = run_out(engine)
    assert [text_of(outputs, f"job{i}") for i in range(8)] == alone


def test_several_sequences_ride_in_one_decode_call() -> None:
    calls = RecordingEngine()
    for i in range(3):
        calls.engine.submit(work(f"job{i}", seed=i, max_tokens=5))
    run_out(calls.engine)
    assert [len(set(rows.slots.tolist())) for rows in calls.rows[1:]] == [3, 3, 3, 3]


@pytest.mark.parametrize("deterministic", [False, True])
def test_continuing_from_any_point_gives_the_undisturbed_answer(deterministic: bool) -> None:
    fields: dict[str, Any] = {"seed": 9, "max_tokens": 40, "deterministic": deterministic}
    text, ids, ending = undisturbed(**fields)
    for k in range(len(ids) + 1):
        engine = scripted_engine()
        engine.submit(work(generated=tuple(ids[:k]), **fields))
        outputs = run_out(engine)
        assert ids_of(outputs, "a") == ids[k:]
        assert text.endswith(text_of(outputs, "a"))
        again = ending_of(outputs, "a")
        assert isinstance(again, Finished)
        assert (again.reason, again.usage) == (ending.reason, ending.usage)


def test_continuing_under_a_stop_string() -> None:
    whole, _, _ = undisturbed(seed=9)
    stop = whole[60:66]
    text, ids, ending = undisturbed(seed=9, stop=(stop,))
    for k in range(len(ids) + 1):
        engine = scripted_engine()
        engine.submit(work(generated=tuple(ids[:k]), seed=9, stop=(stop,)))
        outputs = run_out(engine)
        again = ending_of(outputs, "a")
        assert isinstance(again, Finished)
        assert (again.reason, again.usage, again.stop_string) == (ending.reason, ending.usage, stop)
        assert text.endswith(text_of(outputs, "a"))


def test_a_complete_replay_ends_at_once() -> None:
    _, ids, _ = undisturbed(seed=9, max_tokens=10)
    calls = RecordingEngine()
    calls.engine.submit(work(generated=tuple(ids), seed=9, max_tokens=10))
    outputs = run_out(calls.engine)
    assert [type(o) for o in outputs] == [Admitted, Finished]
    assert calls.rows == []


def test_replayed_answers_in_the_deterministic_lane_go_token_by_token() -> None:
    _, ids, _ = undisturbed(seed=9, deterministic=True)
    calls = RecordingEngine()
    calls.engine.submit(work(generated=tuple(ids[:10]), seed=9, deterministic=True))
    run_out(calls.engine)
    assert len(calls.rows[0]) == len(PROMPT)
    assert {len(rows) for rows in calls.rows[1:]} == {1}


def test_a_deterministic_sequence_runs_alone() -> None:
    calls = RecordingEngine()
    calls.engine.submit(work("a", seed=1, max_tokens=6))
    calls.engine.submit(work("b", seed=2, max_tokens=6, deterministic=True))
    calls.engine.submit(work("c", seed=3, max_tokens=6))
    outputs = run_out(calls.engine)
    assert all(len(set(rows.slots.tolist())) == 1 for rows in calls.rows)
    order = [o.key for o in outputs if isinstance(o, Admitted | Finished)]
    assert order == ["a", "a", "b", "b", "c", "c"]


def test_when_cells_run_out_the_youngest_waits_and_loses_nothing() -> None:
    """Without guesses, so that answers of equal length end in the order in which they began unless one had to wait."""
    alone = {f"job{i}": undisturbed(seed=i)[0] for i in range(4)}
    engine = Engine(ScriptedBackend(Script(), slots=4, ctx=70, cells=160), slots=4, now=Ticks(), speculates=False)
    for i in range(4):
        engine.submit(work(f"job{i}", seed=i))
    outputs = run_out(engine)
    assert {key: text_of(outputs, key) for key in alone} == alone
    finished = [o.key for o in outputs if isinstance(o, Finished)]
    assert finished[0] == "job0", "the oldest is never preempted"
    assert sum(isinstance(o, Admitted) for o in outputs) == 4, "resuming is not a second admission"


@pytest.mark.parametrize(("prompt", "max_tokens"), [(40, None), (39, 2), (20, 21), (500, 1)])
def test_what_can_never_fit_is_refused_with_the_numbers(prompt: int, max_tokens: int | None) -> None:
    engine = scripted_engine(ctx=40)
    with pytest.raises(RbeesError) as caught:
        engine.submit(work(prompt=(7,) * prompt, max_tokens=max_tokens))
    assert caught.value.code == ErrorCode.CONTEXT_EXCEEDED
    assert caught.value.details == {"prompt_tokens": prompt, "max_tokens": max_tokens, "ctx_tokens": 40}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_tokens": None, "generated": (7,) * 7}, "the answer has 7 already"),
        ({"max_tokens": 2, "generated": (7,) * 9}, "the answer has 9 already"),
        ({"max_tokens": None, "prompt": (7,) * 40}, "the answer needs at least 1,"),
        ({"max_tokens": 9}, "the answer may have 9,"),
    ],
)
def test_the_refusal_says_what_does_not_fit(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RbeesError) as caught:
        scripted_engine(ctx=40).submit(work(**{"prompt": (7,) * 34, **fields}))
    assert told in caught.value.message
    assert ("lower `max_tokens`" in caught.value.message) is ("may have" in told), "only advice that helps"


def test_cancelling_frees_the_slot_whether_it_waits_or_runs() -> None:
    engine = scripted_engine(slots=1)
    for key in ("a", "b", "c"):
        engine.submit(work(key))
    engine.step()
    engine.cancel("a")
    engine.cancel("b")
    engine.cancel("unknown")
    outputs = run_out(engine)
    for key in ("a", "b"):
        ending = ending_of(outputs, key)
        assert isinstance(ending, Failed)
        assert ending.error.code == ErrorCode.CANCELLED
    assert isinstance(ending_of(outputs, "c"), Finished)


def test_a_paused_sequence_stands_and_goes_on_where_it_was() -> None:
    expected = undisturbed(seed=1)[0]
    engine = scripted_engine()
    engine.submit(work("a", seed=1))
    engine.submit(work("b", seed=2))
    engine.step()
    engine.pause("a", True)
    first = run_out(engine)
    assert isinstance(ending_of(first, "b"), Finished)
    engine.pause("a", False)
    assert text_of(first + run_out(engine), "a") == expected


def test_an_interrupted_call_is_done_again() -> None:
    expected = undisturbed(seed=1)[0]
    calls = RecordingEngine()
    calls.engine.submit(work(seed=1))
    outputs = []
    for turn in range(200):
        if turn % 3 == 0:
            calls.interrupt()
        calls.engine.step()
        calls.engine.check_integrity()
        outputs += calls.engine.take_outputs()
    assert text_of(outputs, "a") == expected


def test_a_failed_call_ends_only_those_it_computed() -> None:
    engine = scripted_engine(slots=2, fail_on="poison")
    for key, text in (("a", b"some poison"), ("b", b"also poison"), ("c", PROMPT)):
        engine.submit(work(key, tuple(text), seed=1, max_tokens=5))
    outputs = run_out(engine)
    for key in ("a", "b"):
        ending = ending_of(outputs, key)
        assert isinstance(ending, Failed)
        assert ending.error.code == ErrorCode.INTERNAL
    assert text_of(outputs, "c") == undisturbed(seed=1, max_tokens=5)[0]


def test_an_engine_whose_calls_fail_again_and_again_gives_up() -> None:
    engine = scripted_engine(slots=1, fail_on="poison")
    for key in ("bad1", "bad2", "good", "bad3", "bad4"):
        engine.submit(work(key, tuple(b"poison") if key.startswith("bad") else PROMPT, max_tokens=1))
    outputs = run_out(engine)
    assert isinstance(ending_of(outputs, "bad4"), Failed), "a call that succeeds begins the count anew"
    engine.submit(work("bad5", tuple(b"poison")))
    with pytest.raises(DecodeFailed):
        run_out(engine)


def test_a_step_that_lacks_memory_costs_only_who_asks_for_most() -> None:
    calls = RecordingEngine()
    decode, failed = calls.backend.decode, list[int]()

    def lacking(rows: Rows) -> Logits:
        if len(rows) > 40 and len(failed) < 2:
            failed.append(len(rows))
            raise DecodeFailed(Shortage(96 << 20, "CUDA0", 5 << 20))
        return decode(rows)

    calls.backend.decode = lacking  # type: ignore[method-assign]
    calls.engine.submit(work("a", max_tokens=30))
    calls.engine.step()
    for key, length in (("large", 200), ("largest", 250)):
        calls.engine.submit(work(key, tuple(b"z" * length), max_tokens=5))
    calls.engine.submit(work("b", tuple(b"q" * 30), max_tokens=5))
    outputs = run_out(calls.engine)
    for key in ("largest", "large"):
        ending = ending_of(outputs, key)
        assert isinstance(ending, Failed)
        assert ending.error.code is ErrorCode.INSUFFICIENT_VRAM
        assert ending.error.details == {"wanted_bytes": 96 << 20, "available_bytes": 5 << 20}
        assert "96.0 MiB were wanted on CUDA0 and 5.0 MiB are free" in ending.error.message
    assert text_of(outputs, "a") == undisturbed(max_tokens=30)[0]
    assert isinstance(ending_of(outputs, "b"), Finished)


def test_sampling_that_lacks_memory_costs_those_whose_turn_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted_engine()
    engine.submit(work("a", max_tokens=5))
    engine.submit(work("b", max_tokens=5))

    def lacking(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(drawing, "sample", lacking)
    while not (outputs := [o for o in engine.take_outputs() if isinstance(o, Failed)]):
        engine.step()
    monkeypatch.undo()
    assert {o.error.code for o in outputs} == {ErrorCode.INSUFFICIENT_VRAM}
    engine.submit(work("c", max_tokens=5))
    assert text_of(run_out(engine), "c") == undisturbed(max_tokens=5)[0]


def test_a_sequence_that_finds_no_cells_though_it_is_alone_fails() -> None:
    calls = RecordingEngine()

    def exhausted(rows: Rows) -> Logits:
        raise CellsExhausted

    calls.backend.decode = exhausted  # type: ignore[method-assign]
    calls.engine.submit(work("a"))
    calls.engine.submit(work("b"))
    outputs = run_out(calls.engine)
    assert all(isinstance(ending_of(outputs, key), Failed) for key in ("a", "b"))


def test_long_prompts_do_not_stop_streams() -> None:
    calls = RecordingEngine(ctx=4_096)
    calls.engine.submit(work("stream", seed=1, max_tokens=30))
    calls.engine.step()
    calls.engine.submit(work("long", tuple(range(100)) * 30, seed=2, max_tokens=3))
    run_out(calls.engine)
    riding = [0 in rows.slots.tolist() for rows in calls.rows[1:30]]
    assert all(riding)


class RecordingEngine:
    """An engine whose decode calls are kept."""

    def __init__(self, ctx: int = 512) -> None:
        self.backend = ScriptedBackend(Script(), slots=4, ctx=ctx, cells=4 * ctx)
        self.rows: list[Rows] = []
        decode = self.backend.decode

        def recording(rows: Rows):  # type: ignore[no-untyped-def]
            self.rows.append(rows)
            return decode(rows)

        self.backend.decode = recording  # type: ignore[method-assign]
        self.engine = Engine(self.backend, slots=4, now=Ticks())

    def interrupt(self) -> None:
        self.backend.interrupt()
