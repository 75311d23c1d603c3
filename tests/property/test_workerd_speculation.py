"""Guesses are true copies, found as a slow search finds them; they ride where that pays, and failures cost next to nothing."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbees.workerd.engine.batcher import Share
from rbees.workerd.engine.drafting import Drafting
from rbees.workerd.engine.lookup import LENGTHS, Lookup
from rbees.workerd.engine.speculation import LEAST_GAIN, MOST_DRAFTED, Acceptance, Guess, Seconds, Speculation, StepCost, worth

ALPHABET = (3, 7, 11)
"""Their n-grams have hashes of their own in a table for `ROOM` tokens."""
ROOM = 4_096


class SlowLookup:
    """The same by searching the whole text each time."""

    def __init__(self) -> None:
        self.source = 0

    def guess(self, tokens: list[int], most: int) -> list[int]:
        if not self.source:
            ends = range(len(tokens) - 1, 0, -1)
            for length in sorted(LENGTHS, reverse=True):
                found = [end for end in ends if end >= length and tokens[end - length : end] == tokens[-length:]]
                if found and len(tokens) > length:
                    self.source = found[0]
                    break
        text = list(tokens)
        while self.source and len(text) < len(tokens) + most:
            text.append(text[self.source + len(text) - len(tokens)])
        return text[len(tokens) :]

    def see(self, token: int, before: list[int]) -> None:
        self.source = self.source + 1 if self.source and before[self.source] == token else 0


def test_the_alphabet_has_no_collisions() -> None:
    """Each n-gram is put into the tables by itself, at a place of its own; each must still be there."""
    lookup, text = Lookup(ROOM), [1, 2]
    grams = [gram for length in LENGTHS for gram in product(ALPHABET, repeat=length)]
    for gram in grams:
        text += [20 + len(text), *gram]
    text.append(0)
    lookup.guess(text, 1)
    for gram in grams:
        assert lookup.guess([*text, 10_000 + len(text), *gram], 1), "found again"
        lookup.see(-1, text)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(ALPHABET), max_size=300), st.lists(st.tuples(st.booleans(), st.sampled_from(ALPHABET)), max_size=80)
)
def test_guesses_are_those_of_a_search_through_the_whole_text(prompt: list[int], steps: list[tuple[bool, int]]) -> None:
    """`steps`: whether there is a guess before the token, which is then the guessed one, or else the given one."""
    tokens, lookup, slow = [5, *prompt], Lookup(ROOM), SlowLookup()
    for asked, token in steps:
        if asked:
            expected = slow.guess(tokens, 6)
            assert lookup.guess(tokens, 6) == expected
            token = expected[0] if expected else token
        lookup.see(token, tokens)
        slow.see(token, tokens)
        tokens.append(token)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=400), st.integers(1, 64), st.integers(0, 300))
def test_whatever_collides_a_guess_went_on_so_before(tokens: list[int], room: int, first: int) -> None:
    lookup = Lookup(room)
    for end in range(max(2, first), len(tokens) + 1):
        known = tokens[:end]
        guess = lookup.guess(known, 4)
        if guess:
            text = [*known, *guess]
            places = [i for i in range(2, end) if known[i - 2 : i] == known[-2:] and text[i : i + len(guess)] == guess]
            assert places, "the last two tokens stood there before, and the same followed"
        lookup.see(tokens[end] if end < len(tokens) else -1, known)


def test_a_pattern_that_repeats_is_guessed_beyond_its_end() -> None:
    assert Lookup(100).guess([9, 1, 2, 3, 1, 2, 3], 8) == [1, 2, 3, 1, 2, 3, 1, 2]
    assert Lookup(100).guess([1, 2], 8) == []


CHANCES = st.lists(st.floats(0.01, 1), max_size=6).map(lambda raw: tuple(sorted(raw, reverse=True)))


@given(st.lists(CHANCES, min_size=1, max_size=4), st.integers(0, 8), st.floats(0.001, 1), st.floats(0, 1))
def test_what_rides_makes_most_tokens_a_second(chances: list[tuple[float, ...]], room: int, base: float, slope: float) -> None:
    riding = len(chances)

    def rate(taken: tuple[int, ...]) -> float:
        tokens = riding + sum(sum(c[:count]) for c, count in zip(chances, taken, strict=True))
        return tokens / (base + slope * (riding + sum(taken)))

    guesses = [Guess(tuple(range(len(c))), c) for c in chances]
    taken = worth(guesses, room=room, seconds=lambda taken: base + slope * (riding + sum(taken)))
    assert sum(taken) <= room
    every = [t for t in product(*(range(len(c) + 1) for c in chances)) if sum(t) <= room]
    best, plain = max(map(rate, every)), rate((0,) * riding)
    if any(taken):
        assert rate(tuple(taken)) == pytest.approx(best)
    else:
        assert best <= plain * LEAST_GAIN * (1 + 1e-9)


def alone(cost: StepCost) -> Seconds:
    """The cost of guesses for a sequence that rides alone."""
    return lambda drafted: cost.seconds(1 + sum(drafted))


def test_where_rows_of_unequal_sequences_are_computed_apart_each_is_a_call_more() -> None:
    drafting = Drafting(on=True, apart=True)
    for _ in range(20):
        drafting.observe([0] * 4, 0.08)
        drafting.observe([3], 0.08)
        drafting.observe([1] * 4, 0.12)
        drafting.observe([8, 0, 0, 0], 99.0)
    shares = [Share(f"s{i}", 1) for i in range(4)]
    sure = Guess((1, 2, 3), (0.99, 0.98, 0.97))
    one = drafting.add(shares, {"s2": sure}, 16)
    assert [len(share.draft) for share in one] == [0, 0, 0, 0], "three tokens for a second call"
    one_each = Guess((1,), (0.9,))
    assert [len(share.draft) for share in drafting.add(shares, {s.key: one_each for s in shares}, 16)] == [1, 1, 1, 1]
    together = Drafting(on=True)
    for _ in range(20):
        together.observe([0] * 4, 0.08)
        together.observe([3, 0, 0, 0], 0.1)
    assert [len(share.draft) for share in together.add(shares, {"s2": sure}, 16)] == [0, 0, 3, 0]


@pytest.mark.parametrize(("matched", "row_cost"), [(2, 0.15), (30, 0.15), (2, 0.02)])
def test_guesses_that_never_hold_soon_ride_no_more(matched: int, row_cost: float) -> None:
    """A guess is offered at each of 1 000 tokens and fails. Further rows cost so much of the first."""
    cost, acceptance, drafted = StepCost(), Acceptance(Acceptance()), 0
    for _ in range(1_000):
        chance = acceptance.chance(matched)
        guess = Guess(tuple(range(MOST_DRAFTED)), tuple(chance**place for place in range(1, MOST_DRAFTED + 1)))
        (rows,) = worth([guess], room=MOST_DRAFTED, seconds=alone(cost))
        cost.observe(1 + rows, 1 + row_cost * rows)
        acceptance.see(matched, False)
        drafted += rows
    assert drafted * row_cost <= 4, "less than half a percent of all time"


def test_guesses_that_begin_to_hold_ride_again_though_none_rode_before() -> None:
    speculation = Speculation(10_000, Acceptance(), Acceptance())
    tokens = [1, 2, 3]
    for number in range(300):
        # The pair comes again and again, and something else follows each time.
        for token in (7, 8, 100 + number):
            speculation.guess(tokens, 8)
            speculation.see(token, tokens)
            tokens.append(token)
    tokens += [7, 8]
    assert not any(chance > 0.2 for chance in speculation.guess(tokens, 8).chances)
    for token in range(500, 600):
        speculation.see(token, tokens)
        tokens.append(token)
    for token in range(500, 550):
        speculation.guess(tokens, 8)
        speculation.see(token, tokens)
        tokens.append(token)
    guess = speculation.guess(tokens, 8)
    assert guess.tokens == tuple(range(550, 558))
    assert guess.chances[3] > 0.5


@given(st.floats(0.001, 1), st.floats(0, 0.2), st.lists(st.integers(1, 24), min_size=20, max_size=60))
def test_the_cost_of_a_row_is_learned(base: float, slope: float, rows: list[int]) -> None:
    cost = StepCost()
    for count in [*rows, 1, 24, 1, 24]:
        cost.observe(count, base + slope * count)
    assert cost.seconds(24) - cost.seconds(1) == pytest.approx(23 * slope, abs=0.1 * base + 2 * slope)
    unseen = next((count for count in range(1, 25) if count not in rows), None)
    if unseen is not None:
        assert cost.seconds(unseen) == pytest.approx(base + slope * unseen, rel=0.25)


def test_rows_that_cost_in_blocks_are_learned_by_their_number() -> None:
    """As on two cores: 38 ms for one row, 63 for two, 84 for four, 113 for five, 128 for eight."""
    taken = {1: 38, 2: 63, 3: 78, 4: 84, 5: 113, 6: 126, 7: 127, 8: 128}
    cost = StepCost()
    for _ in range(5):
        for rows, ms in taken.items():
            cost.observe(rows, ms / 1000)
    for rows, ms in taken.items():
        assert cost.seconds(rows) * 1000 == pytest.approx(ms, rel=0.05)
    likely = Guess(tuple(range(7)), tuple(0.9**place for place in range(1, 8)))
    assert worth([likely], room=7, seconds=alone(cost)) == [7]
    unlikely = Guess(tuple(range(7)), tuple(0.5**place for place in range(1, 8)))
    assert worth([unlikely], room=7, seconds=alone(cost)) == [0], "two tokens in the time of 2.2"


def test_what_a_busy_minute_taught_is_forgotten_and_one_hold_up_believed_little() -> None:
    cost = StepCost()
    assert cost.seconds(3) == 0.0
    for _ in range(50):
        cost.observe(1, 1.0)
    cost.observe(9, 90.0)
    assert cost.seconds(9) < 12.1, "it was taken for four times what was expected"
    believed = cost.seconds(9)
    for _ in range(3_000):
        cost.observe(1, 1.0)
    assert cost.seconds(9) < believed
    assert cost.seconds(9) == pytest.approx(3.0, rel=0.1), "as if no such call had been"
