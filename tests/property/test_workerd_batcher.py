"""Whatever is asked: streams always ride, limits hold, prompts share fairly, and the ledger of slots never contradicts itself."""

from __future__ import annotations

from itertools import accumulate, count

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.batcher import A_LITTLE_MORE, LARGE_PIECE, SOON_IN_CALLS, Demand, Share, plan
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Admitted, Failed, Finished, Output
from rbees.workerd.engine.pace import SMALLEST_CHUNK, SWIFT_CHUNK, TARGET_ALONE_S, TARGET_BESIDE_STREAMS_S, Pace
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from tests.support.scripted_models import Ticks, ids_of

CALL = 512
DEMANDS = st.lists(st.one_of(st.just(1), st.integers(1, 3_000)), max_size=40).map(
    lambda pending: [Demand(f"s{i}", n) for i, n in enumerate(pending)]
)


@given(DEMANDS, st.integers(1, 600), st.integers(40, 600))
def test_plan_keeps_every_limit(demands: list[Demand], budget: int, max_rows: int) -> None:
    shares = plan(demands, prefill_budget=budget, max_rows=max_rows)
    granted = {share.key: share.count for share in shares}
    assert len(granted) == len(shares)
    assert sum(granted.values()) <= max_rows
    assert all(1 <= granted[d.key] <= d.pending for d in demands if d.key in granted)
    assert all(d.key in granted for d in demands if d.pending == 1), "streams always ride"
    assert sum(granted.get(d.key, 0) for d in demands if d.pending > 1) <= budget * A_LITTLE_MORE


@given(DEMANDS, st.integers(1, CALL))
def test_many_prompts_get_the_budget_in_few_large_pieces(demands: list[Demand], budget: int) -> None:
    waiting = [d for d in demands if d.pending > 1]
    prompts = {d.key: d.pending for d in waiting}
    assume(sum(prompts.values()) > SOON_IN_CALLS * CALL)
    granted = {s.key: s.count for s in plan(waiting, prefill_budget=budget, max_rows=CALL)}
    left = budget - sum(granted.values())
    assert -left <= budget * (A_LITTLE_MORE - 1)
    assert left <= 0 or all(n > left for key, n in prompts.items() if key not in granted), "nobody could have been served whole"
    assert left < LARGE_PIECE or granted.keys() == prompts.keys()
    cut = [count for key, count in granted.items() if count < prompts[key]]
    assert len(cut) <= 1, "one is cut where the budget ends"
    assert not cut or cut[0] >= min(budget, LARGE_PIECE)


@given(st.lists(st.integers(2, 300), min_size=1, max_size=9), st.integers(1, CALL))
def test_few_prompt_tokens_are_shared_equally(lengths: list[int], budget: int) -> None:
    assume(sum(lengths) <= SOON_IN_CALLS * CALL)
    prompts = [Demand(f"s{i}", length) for i, length in enumerate(lengths)]
    granted = {share.key: share.count for share in plan(prompts, prefill_budget=budget, max_rows=CALL)}
    assert sum(granted.values()) == min(budget, sum(lengths))
    cut_short = [granted.get(d.key, 0) for d in prompts if granted.get(d.key, 0) < d.pending]
    for demand in prompts:
        got = granted.get(demand.key, 0)
        assert all(got <= other + 1 for other in cut_short) or got == 0 or not cut_short
    assert cut_short == sorted(cut_short, reverse=True), "what does not divide goes to the oldest"


def after(waiting: list[Demand], shares: list[Share]) -> list[Demand]:
    """The demands once their shares are computed."""
    granted = {share.key: share.count for share in shares}
    return [Demand(d.key, d.pending - granted.get(d.key, 0), d.given + granted.get(d.key, 0)) for d in waiting]


@given(st.lists(st.tuples(st.integers(2, 2_000), st.integers(0, 20)), min_size=1, max_size=9), st.integers(16, 512))
def test_what_is_ahead_of_a_prompt_is_bounded_by_its_own_length(prompts: list[tuple[int, int]], budget: int) -> None:
    """Each arrives some steps after the one before; work is counted in rows that the budget allows."""
    steps = accumulate(gap for _, gap in prompts)
    arrivals = [(step, Demand(f"s{number}", prompts[number][0])) for number, step in enumerate(steps)]
    waiting: list[Demand] = []
    ends: dict[str, int] = {}
    for step in count():
        waiting += [demand for arrival, demand in arrivals if arrival == step]
        waiting = after(waiting, plan(waiting, prefill_budget=budget, max_rows=CALL))
        ends |= {d.key: step + 1 for d in waiting if d.pending == 0}
        waiting = [d for d in waiting if d.pending]
        if len(ends) == len(prompts):
            break
    for arrival, demand in arrivals:
        most = (2 * len(prompts) - 1) * (demand.pending + budget) + len(prompts) * LARGE_PIECE
        assert (ends[demand.key] - arrival) * budget <= most


def test_the_oldest_gets_half_and_a_short_one_is_not_held_up() -> None:
    waiting = [Demand("long", 10_000), Demand("longer", 20_000), Demand("short", 130)]
    ready: dict[str, int] = {}
    for step in range(400):
        waiting = after(waiting, plan(waiting, prefill_budget=SWIFT_CHUNK, max_rows=512))
        ready |= {d.key: step for d in waiting if d.pending == 0}
        waiting = [d for d in waiting if d.pending]
    assert ready["short"] < 12
    assert 10_000 / SWIFT_CHUNK * 1.4 < ready["long"] < 10_000 / SWIFT_CHUNK * 1.6, "of two the older gets two thirds"


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 512), st.floats(1e-4, 5)), max_size=30),
    st.integers(0, 8),
    st.integers(1, 9),
)
def test_the_learned_budget_stays_within_bounds(steps: list[tuple[int, int, float]], decoding: int, waiting: int) -> None:
    pace = Pace(512)
    for streams, prefilled, seconds in steps:
        pace.observe(decoding=streams, prefilled=prefilled, seconds=seconds)
    assert min(SMALLEST_CHUNK, 512) <= pace.prefill_budget(decoding, waiting) <= 512


def test_the_budget_approaches_the_target_time() -> None:
    pace = Pace(512)
    for _ in range(40):
        pace.observe(decoding=0, prefilled=100, seconds=0.2)
    assert abs(pace.prefill_budget(0, 1) * 0.002 - TARGET_ALONE_S) < 0.01
    assert abs(pace.prefill_budget(4, 1) * 0.002 - TARGET_BESIDE_STREAMS_S * 1.25) < 0.01
    assert abs(pace.prefill_budget(2, 2) * 0.002 - TARGET_BESIDE_STREAMS_S * 2) < 0.01
    assert abs(pace.prefill_budget(1, 7) * 0.002 - TARGET_ALONE_S) < 0.01, "one stream waits for seven prompts as if it were none"


def test_a_chunk_a_little_below_the_swift_one_is_made_that_large() -> None:
    budgets = []
    for rows in (40, 50, 64, 65, 80):
        pace = Pace(512)
        pace.observe(decoding=0, prefilled=1000, seconds=1000 * TARGET_BESIDE_STREAMS_S / (rows + 0.5))
        budgets.append(pace.prefill_budget(1, 0))
    assert budgets == [40, SWIFT_CHUNK, SWIFT_CHUNK, 65, 80]


SCRIPT = Script(answer_tokens=12, vocabulary_size=300, copies=0.8)


class EngineMachine(RuleBasedStateMachine):
    """Random submissions, cancellations, pauses, interruptions and steps; integrity after each, the exact answers at the end."""

    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.backend = ScriptedBackend(SCRIPT, slots=3, ctx=64, cells=100)
        self.engine = Engine(self.backend, slots=3, now=Ticks())
        self.works: dict[str, Work] = {}
        self.ended: set[str] = set()
        self.outputs: list[Output] = []

    @rule(target=keys, length=st.integers(1, 40), seed=st.integers(0, 3), deterministic=st.booleans(), limit=st.integers(1, 20))
    def submit(self, length: int, seed: int, deterministic: bool, limit: int) -> str:
        key = f"job{len(self.works)}"
        prompt = tuple(65 + (seed + i) % 26 for i in range(length))
        self.works[key] = Work(key, prompt, (), limit, Sampling(seed=seed), deterministic and seed == 0)
        self.engine.submit(self.works[key])
        return key

    @rule(key=consumes(keys))
    def cancel(self, key: str) -> None:
        self.engine.cancel(key)

    @rule(key=keys, paused=st.booleans())
    def pause(self, key: str, paused: bool) -> None:
        self.engine.pause(key, paused)

    @rule()
    def interrupt(self) -> None:
        self.backend.interrupt()

    @rule(count=st.integers(1, 8))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()
            self.engine.check_integrity()
            self.outputs += self.engine.take_outputs()

    @invariant()
    def integrity(self) -> None:
        self.engine.check_integrity()

    def teardown(self) -> None:
        for key in self.works:
            self.engine.pause(key, False)
        self.backend.rearm()
        for _ in range(5_000):
            worked = self.engine.step()
            self.engine.check_integrity()
            self.outputs += self.engine.take_outputs()
            if not worked:
                break
        for key, work in self.works.items():
            own = [o for o in self.outputs if o.key == key]
            assert sum(isinstance(o, Finished | Failed) for o in own) == 1, "exactly one end"
            assert sum(isinstance(o, Admitted) for o in own) <= 1
            expected = _alone(work)
            got = ids_of(self.outputs, key)
            assert got == (expected if isinstance(own[-1], Finished) else expected[: len(got)])


def _alone(work: Work) -> list[int]:
    engine = Engine(ScriptedBackend(SCRIPT, slots=1, ctx=64, cells=64), slots=1, now=Ticks(), speculates=False)
    engine.submit(work)
    outputs: list[Output] = []
    while engine.step():
        outputs += engine.take_outputs()
    return ids_of(outputs + engine.take_outputs(), work.key)


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
