"""Answers with guesses are those without, to the token and to the event; only the decode calls are fewer."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.protocol.response_format import JsonSchemaFormat
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.backend import Interrupted, Logits, Rows
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Finished, Output
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from tests.support.forms import constraint
from tests.support.scripted_models import Ticks, ending_of, ids_of, run_out, text_of

PROMPT = tuple(b"tell me of bees")
COPIER = Script(vocabulary_size=300, answer_tokens=120, copies=0.9)
SHAPES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"logprobs": True, "top_logprobs": 3},
    {"repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1, "penalty_last_n": -1},
    {"dry_multiplier": 0.5, "dry_penalty_last_n": -1, "xtc_probability": 0.5, "top_k": 0, "min_p": 0.01},
    {"ignore_eos": True},
]


class Counted:
    """An engine that keeps the rows of its decode calls."""

    def __init__(
        self, script: Script = COPIER, *, slots: int = 4, ctx: int = 512, cells: int = 2_048, speculates: bool = True
    ) -> None:
        self.backend = ScriptedBackend(script, slots=slots, ctx=ctx, cells=cells)
        self.rows: list[Rows] = []
        self.decode = self.backend.decode
        self.backend.decode = self.recording  # type: ignore[method-assign]
        self.engine = Engine(self.backend, slots=slots, now=Ticks(), speculates=speculates)

    def recording(self, rows: Rows) -> Logits:
        self.rows.append(rows)
        return self.decode(rows)

    def run(self, *works: Work) -> list[Output]:
        for work in works:
            self.engine.submit(work)
        return run_out(self.engine)


def work(key: str = "a", prompt: tuple[int, ...] = PROMPT, generated: tuple[int, ...] = (), **fields: Any) -> Work:
    limit = fields.pop("max_tokens", 200)
    return Work(key, prompt, generated, limit, Sampling(**{"seed": 3, **fields}))


def untimed(outputs: list[Output]) -> list[tuple[Any, ...]]:
    """What came out, without what may differ: durations, and what was drafted."""
    return [(type(o), o.key, o.choice, o.reason, o.usage, o.calls) if isinstance(o, Finished) else (o,) for o in outputs]


@pytest.mark.parametrize("fields", SHAPES)
def test_guesses_change_nothing_but_the_number_of_calls(fields: dict[str, Any]) -> None:
    plain, drafting = Counted(speculates=False), Counted()
    expected = plain.run(work(**fields))
    outputs = drafting.run(work(**fields))
    assert untimed(outputs) == untimed(expected)
    ending = ending_of(outputs, "a")
    assert isinstance(ending, Finished)
    assert ending.accepted > 20
    assert len(drafting.rows) == len(plain.rows) - ending.accepted, "each saved a call"
    load = drafting.engine.load()
    assert (load.drafted_tokens_total, load.accepted_tokens_total) == (ending.drafted, ending.accepted)
    assert sum(map(len, drafting.rows)) == sum(map(len, plain.rows)) - ending.accepted + ending.drafted


def test_several_at_once_get_what_each_gets_alone() -> None:
    works = [work(f"job{i}", (*PROMPT, i), seed=i, **SHAPES[i % len(SHAPES)]) for i in range(8)]
    alone = {w.key: ids_of(Counted(speculates=False).run(w), w.key) for w in works}
    drafting = Counted()
    outputs = drafting.run(*works)
    assert {key: ids_of(outputs, key) for key in alone} == alone
    most = drafting.backend.facts.max_outputs
    assert max(int(rows.wants_logits.sum()) for rows in drafting.rows) == most, "all rows with logits are used, and no more"


@pytest.mark.parametrize("limit", range(1, 60, 7))
def test_no_answer_grows_beyond_its_limit(limit: int) -> None:
    expected = ids_of(Counted(speculates=False).run(work()), "a")
    drafting = Counted()
    outputs = drafting.run(work(max_tokens=limit))
    assert ids_of(outputs, "a") == expected[:limit]
    assert max(rows.positions.max() for rows in drafting.rows) < len(PROMPT) + limit


def test_the_context_is_never_exceeded() -> None:
    drafting = Counted(ctx=80, cells=320)
    ending = ending_of(drafting.run(work(max_tokens=None, ignore_eos=True)), "a")
    assert isinstance(ending, Finished)
    assert ending.usage.completion_tokens == 80 - len(PROMPT)


@pytest.mark.parametrize("place", range(40, 200, 17))
def test_a_stop_string_within_a_draft_ends_the_answer_there(place: int) -> None:
    text = text_of(Counted(speculates=False).run(work()), "a")
    stop = text[place : place + 7]
    expected = Counted(speculates=False).run(work(stop=(stop,)))
    drafting = Counted()
    assert untimed(drafting.run(work(stop=(stop,)))) == untimed(expected)
    following = work("b", (*PROMPT, *ids_of(expected, "a")))
    assert ids_of(drafting.run(following), "b") == ids_of(Counted(speculates=False).run(following), "b"), "what is kept is right"


def test_continuing_from_any_point_gives_the_undisturbed_answer() -> None:
    expected = ids_of(Counted(speculates=False).run(work()), "a")
    for cut in range(0, len(expected), 9):
        assert ids_of(Counted().run(work(generated=tuple(expected[:cut]))), "a") == expected[cut:]


def test_an_interrupted_call_with_drafts_is_done_again() -> None:
    expected = ids_of(Counted(speculates=False).run(work()), "a")
    drafting = Counted()
    decode, calls = drafting.decode, 0

    def broken_off(rows: Rows) -> Logits:
        nonlocal calls
        calls += 1
        logits = decode(rows)
        if calls % 2:
            raise Interrupted
        return logits

    drafting.decode = broken_off
    assert ids_of(drafting.run(work()), "a") == expected
    assert drafting.engine.load().accepted_tokens_total > 20


def test_drafts_preempt_nobody() -> None:
    """Both answers fit the cells exactly; what is drafted must find room beside them or not be drafted."""
    size = len(PROMPT) + 60
    drafting = Counted(slots=2, ctx=size, cells=2 * size)
    outputs = drafting.run(work(max_tokens=60, ignore_eos=True), work("b", seed=4, max_tokens=60, ignore_eos=True))
    assert drafting.engine.load().accepted_tokens_total > 10
    assert all(isinstance(ending_of(outputs, key), Finished) for key in "ab")
    prefilled = [len(rows) for rows in drafting.rows if not rows.wants_logits.all()]
    assert sum(prefilled) <= 2 * len(PROMPT), "nothing was computed twice"


def test_the_deterministic_lane_and_models_that_cannot_be_cut_draft_nothing() -> None:
    lane = Counted()
    lane.run(Work("a", PROMPT, (), 100, Sampling(seed=3), True))
    recurrent = Counted(Script(vocabulary_size=300, answer_tokens=120, copies=0.9, divisible=False))
    recurrent.run(work())
    for counted in (lane, recurrent):
        assert counted.engine.load().drafted_tokens_total == 0
        assert {len(rows) for rows in counted.rows[1:]} == {1}


def test_prompts_come_before_guesses() -> None:
    drafting = Counted(ctx=2_048, cells=8_192)
    drafting.engine.submit(work())
    for _ in range(40):
        drafting.engine.step()
    drafting.rows.clear()
    drafting.run(work("long", tuple(range(100)) * 15, max_tokens=1))
    mixed = [rows for rows in drafting.rows if not rows.wants_logits.all()]
    assert len(mixed) > 1
    assert all((rows.slots == 0).sum() == 1 for rows in mixed), "the stream rides, its guesses do not"


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"const": "the honey of the bees"}, "said": {"type": "string", "maxLength": 12}, "of": {"enum": ["it"]}},
    "required": ["kind", "said", "of"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("fields", SHAPES[:5])
def test_what_a_form_leaves_no_choice_about_is_drafted_and_right(fields: dict[str, Any]) -> None:
    built = constraint(JsonSchemaFormat(schema=SCHEMA))
    job = Work("a", PROMPT, (), 300, Sampling(seed=6, **fields), constraint=built)
    plain, drafting = Counted(Script(), speculates=False), Counted(Script())
    assert untimed(drafting.run(job)) == untimed(plain.run(job))
    load = drafting.engine.load()
    assert load.accepted_tokens_total > 10
    assert load.accepted_tokens_total == load.drafted_tokens_total
    # The token that completes the form is drawn from the row before it.
    assert len(drafting.rows) == len(plain.rows) - load.accepted_tokens_total + 1


def test_drafts_in_a_form_keep_to_it() -> None:
    """The model would rather say what it said before; what it may not say is not drafted."""
    items = {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 9, "maxItems": 9}
    built = constraint(JsonSchemaFormat(schema=items))
    for seed in range(5):
        job = Work("a", (*PROMPT, *b'["bee","bee","bee"]'), (), 300, Sampling(seed=seed), constraint=built)
        plain, drafting = Counted(COPIER, speculates=False), Counted(COPIER)
        assert untimed(drafting.run(job)) == untimed(plain.run(job))
