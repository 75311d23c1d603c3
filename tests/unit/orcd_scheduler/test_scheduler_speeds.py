"""What is learned from attempts and loads, and what is expected where nothing was seen."""

from __future__ import annotations

import pytest

from rbees.orcd.scheduler.roster import Roster
from rbees.orcd.scheduler.speeds import EXPECTED_TOKENS, LOAD_OVERHEAD_S, TOKENS_PER_BYTE, Place, Speeds, Took
from rbees.orcd.scheduler.uses import HALF_LIFE_S, Uses

GB = 10**9
HERE = Place("model", 4 * GB, "a", "cpu")


def took(completion: int = 100, decode_s: float = 10.0, *, prompt: int = 400, cached: int = 0, prefill_s: float = 4.0) -> Took:
    return Took(prompt, cached, completion, prefill_s, decode_s)


def learned(*attempts: tuple[float, Took], choices: int = 1) -> Speeds:
    speeds = Speeds()
    for streams, what in attempts:
        speeds.attempt_took(HERE, what, streams=streams, choices=choices, prompt_bytes=1_600)
    return speeds


def test_what_an_attempt_took_is_what_the_next_one_is_expected_to_take() -> None:
    speeds = learned((1, took()))
    assert speeds.step_s(HERE, 1) == pytest.approx(0.1)
    assert speeds.prefill_s(HERE, 800) == pytest.approx(8.0)
    assert speeds.answer_tokens("model", None) == 100
    assert speeds.answer_tokens("model", 30) == 30


def test_cached_tokens_and_tokens_of_several_answers_do_not_look_like_speed() -> None:
    speeds = learned((4, took(400, 10.0, prompt=500, cached=100)), choices=4)
    assert speeds.prefill_s(HERE, 400) == pytest.approx(4.0)
    assert speeds.step_s(HERE, 4) == pytest.approx(0.1), "each step gave a token of each of four answers"
    assert speeds.answer_tokens("model", None) == 100


def test_steps_are_told_apart_by_how_many_streams_they_have() -> None:
    speeds = learned(*[(1, took(100, 10.0)), (9, took(100, 50.0))] * 10)
    assert speeds.step_s(HERE, 1) == pytest.approx(0.1, rel=0.1)
    assert speeds.step_s(HERE, 9) == pytest.approx(0.5, rel=0.1)
    assert speeds.step_s(HERE, 5) == pytest.approx(0.3, rel=0.1)


def test_of_steps_with_one_number_of_streams_only_a_little_growth_is_expected() -> None:
    speeds = learned((4, took(100, 10.0)))
    assert 0.1 < speeds.step_s(HERE, 8) < 0.125
    assert 0.08 < speeds.step_s(HERE, 1) < 0.1


def test_new_speeds_replace_old_ones_in_a_few_attempts() -> None:
    speeds = learned((1, took(100, 10.0)), *[(1, took(100, 40.0, prefill_s=16.0))] * 40)
    assert speeds.step_s(HERE, 1) == pytest.approx(0.4, rel=0.1)
    assert speeds.prefill_s(HERE, 100) == pytest.approx(4.0, rel=0.01)


def test_another_model_on_the_host_is_expected_to_be_as_fast_for_its_size() -> None:
    speeds = learned((1, took()))
    half = Place("other", 2 * GB, "a", "cpu")
    assert speeds.step_s(half, 1) == pytest.approx(0.05)
    assert speeds.prefill_s(half, 100) == pytest.approx(0.5)
    elsewhere = Place("other", 2 * GB, "b", "cpu")
    assert speeds.step_s(elsewhere, 1) != pytest.approx(0.05), "another host may be anything"


def test_nothing_is_learned_from_attempts_that_did_nothing() -> None:
    speeds = learned((1, took(0, 0.0, prompt=10, cached=10, prefill_s=0.0)))
    fresh = Speeds()
    assert speeds.step_s(HERE, 1) == fresh.step_s(HERE, 1)
    assert speeds.prefill_s(HERE, 100) == fresh.prefill_s(HERE, 100)
    assert speeds.answer_tokens("model", None) == EXPECTED_TOKENS


def test_before_anything_was_seen_a_gpu_is_expected_to_be_faster_than_metal_and_that_than_a_cpu() -> None:
    speeds = Speeds()
    cuda, metal, cpu = (Place("model", 4 * GB, "a", backend) for backend in ("cuda", "metal", "cpu"))
    assert speeds.step_s(cuda, 1) < speeds.step_s(metal, 1) < speeds.step_s(cpu, 1)
    assert speeds.prefill_s(cuda, 100) < speeds.prefill_s(metal, 100) < speeds.prefill_s(cpu, 100)


def test_loads_are_learned_by_place_and_by_host() -> None:
    speeds = Speeds()
    speeds.load_took(HERE, LOAD_OVERHEAD_S + 8.0)
    assert speeds.load_s(HERE) == pytest.approx(LOAD_OVERHEAD_S + 8.0)
    assert speeds.load_s(Place("other", GB, "a", "cpu")) == pytest.approx(LOAD_OVERHEAD_S + 2.0)


def test_tokens_of_a_prompt_follow_what_the_model_made_of_others() -> None:
    speeds = Speeds()
    assert speeds.prompt_tokens("model", 1_000) == 1_000 * TOKENS_PER_BYTE
    for _ in range(30):
        speeds.attempt_took(HERE, took(prompt=800), streams=1, choices=1, prompt_bytes=1_600)
    assert speeds.prompt_tokens("model", 1_000) == pytest.approx(500, rel=0.01)


def test_uses_fade() -> None:
    uses = Uses()
    assert uses.likelihood("model", 0.0) == 0.0
    uses.asked("model", 0.0)
    soon, later = uses.likelihood("model", 1.0), uses.likelihood("model", 10 * HALF_LIFE_S)
    assert 0.6 < soon < 0.64
    assert later < 0.001
    for number in range(20):
        uses.asked("model", number * HALF_LIFE_S)
    assert 0.85 < uses.likelihood("model", 19 * HALF_LIFE_S) < 0.88


def test_a_roster_holds_each_name_once_in_the_order_of_its_number() -> None:
    roster = Roster()
    for name, number in (("c", 3.0), ("a", 2.0), ("b", 2.0), ("c", 1.0), ("c", 1.0)):
        roster.file(name, number)
    assert list(roster) == ["c", "a", "b"]
    roster.drop("a")
    roster.drop("nobody")
    assert (list(roster), len(roster), "a" in roster, "b" in roster) == (["c", "b"], 2, False, True)
