"""A second model that guesses: right where it would say the same, of no effect on answers, and silent where it does not pay."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.backend import DecodeFailed, Logits, Rows
from rbees.workerd.engine.draft_model import MOST_BEHIND, DraftModel, check_draft_model
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Finished, Output
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from rbees.workerd.engine.speculation import Patience
from tests.support.scripted_models import Ticks, ending_of, ids_of, run_out

PROMPT = tuple(b"tell me of bees")
MODEL = Script(answer_tokens=100)
CTX, SLOTS = 512, 4


class Pair:
    """An engine whose draft model is another scripted one; calls of both are counted."""

    def __init__(self, draft: Script = MODEL, *, model: Script = MODEL, draft_tokens: int = 4, cells: int = SLOTS * CTX) -> None:
        self.backend = ScriptedBackend(model, slots=SLOTS, ctx=CTX, cells=SLOTS * CTX)
        self.draft = ScriptedBackend(draft, slots=SLOTS, ctx=CTX, cells=cells)
        self.calls = {"model": 0, "draft": 0}
        self.widest = 0
        self._count(self.backend, "model")
        self._count(self.draft, "draft")
        self.engine = Engine(self.backend, slots=SLOTS, now=Ticks(), draft_model=DraftModel(self.draft), draft_tokens=draft_tokens)

    def _count(self, backend: ScriptedBackend, name: str) -> None:
        decode = backend.decode

        def counting(rows: Rows) -> Logits:
            self.calls[name] += 1
            if name == "draft":
                self.widest = max(self.widest, len(rows))
            return decode(rows)

        backend.decode = counting  # type: ignore[method-assign]

    def run(self, *works: Work) -> list[Output]:
        for work in works:
            self.engine.submit(work)
        return run_out(self.engine)


def work(key: str = "a", prompt: tuple[int, ...] = PROMPT, **fields: Any) -> Work:
    limit = fields.pop("max_tokens", 200)
    return Work(key, prompt, (), limit, Sampling(**{"seed": 3, "temperature": 0.0, **fields}))


def alone(work: Work, model: Script = MODEL) -> list[int]:
    engine = Engine(ScriptedBackend(model, slots=1, ctx=CTX, cells=CTX), slots=1, now=Ticks(), speculates=False)
    engine.submit(work)
    return ids_of(run_out(engine), work.key)


def test_a_model_that_would_say_the_same_is_right_every_time() -> None:
    pair = Pair()
    outputs = pair.run(work())
    assert ids_of(outputs, "a") == alone(work())
    ending = ending_of(outputs, "a")
    assert isinstance(ending, Finished)
    assert ending.accepted == ending.drafted > 60
    assert pair.calls["model"] < 40


def test_several_sequences_are_guessed_for_in_one_call_and_get_what_each_gets_alone() -> None:
    works = [work(f"job{i}", (*PROMPT, i), seed=i) for i in range(7)]
    pair = Pair()
    outputs = pair.run(*works)
    assert {w.key: ids_of(outputs, w.key) for w in works} == {w.key: alone(w) for w in works}
    assert pair.engine.load().accepted_tokens_total > 300
    assert pair.calls["draft"] < 4 * pair.calls["model"]


@pytest.mark.parametrize("fields", [{"temperature": 1.0}, {"repetition_penalty": 1.2}, {"logprobs": True, "temperature": 0.8}])
def test_whatever_it_says_the_answer_is_the_same(fields: dict[str, Any]) -> None:
    model = Script(answer_tokens=100, vocabulary_size=300, copies=0.5)
    pair = Pair(Script(answer_tokens=100, vocabulary_size=300, copies=0.3), model=model)
    works = [work(f"job{i}", (*PROMPT, i), seed=i, **fields) for i in range(5)]
    outputs = pair.run(*works)
    assert {w.key: ids_of(outputs, w.key) for w in works} == {w.key: alone(w, model) for w in works}
    load = pair.engine.load()
    assert 0 < load.accepted_tokens_total < load.drafted_tokens_total


def test_one_that_is_always_wrong_is_asked_ever_more_seldom() -> None:
    wrong = Script(answer="It never says anything else. ")
    model = Script(answer_tokens=1_000)
    pair = Pair(wrong, model=model)
    pair.draft.piece = pair.backend.piece  # type: ignore[method-assign]
    pair.run(*(work(f"job{i}", (*PROMPT, i), max_tokens=400, temperature=1.0, seed=i) for i in range(3)))
    assert pair.calls["model"] > 350
    assert pair.calls["draft"] < 60


def test_a_long_prompt_is_caught_up_with_in_pieces() -> None:
    long = tuple(i % 90 + 10 for i in range(400))
    pair = Pair()
    outputs = pair.run(work("short"), work("long", long, max_tokens=100))
    assert ids_of(outputs, "long") == alone(work("long", long, max_tokens=100))
    assert pair.widest <= MOST_BEHIND
    ending = ending_of(outputs, "long")
    assert isinstance(ending, Finished)
    assert ending.accepted > 40


def test_the_next_turn_finds_what_the_last_one_left() -> None:
    pair = Pair()
    said = ids_of(pair.run(work()), "a")
    rows = 0
    decode = pair.draft.decode

    def counting(given: Rows) -> Logits:
        nonlocal rows
        rows += len(given)
        return decode(given)

    pair.draft.decode = counting  # type: ignore[method-assign, assignment]
    pair.run(work("b", (*PROMPT, *said, *b"go on"), max_tokens=4))
    assert 0 < rows < 20


def test_one_with_too_few_cells_or_that_fails_guesses_nothing_and_disturbs_nobody() -> None:
    works = [work(f"job{i}", (*PROMPT, i), seed=i) for i in range(4)]
    tight = Pair(cells=CTX)
    outputs = tight.run(*works, work("big", tuple(i % 90 + 10 for i in range(400)), max_tokens=100))
    assert {w.key: ids_of(outputs, w.key) for w in works} == {w.key: alone(w) for w in works}
    failing = Pair()

    tries = 0

    def fail(_rows: Rows) -> Logits:
        nonlocal tries
        tries += 1
        raise DecodeFailed

    failing.draft.decode = fail  # type: ignore[method-assign, assignment]
    assert ids_of(failing.run(work()), "a") == alone(work())
    assert tries == 3


@pytest.mark.parametrize(
    ("draft", "difference"),
    [
        (Script(vocabulary_size=600), "number of tokens is 600 instead of 512"),
        (Script(answer="Only this."), "token 508 is b'Onl' instead of"),
        (Script(divisible=False), "The draft model's memory cannot be cut back"),
    ],
)
def test_another_vocabulary_is_refused_with_the_first_difference(draft: Script, difference: str) -> None:
    model = ScriptedBackend(MODEL, slots=1, ctx=64, cells=64)
    check_draft_model(model, ScriptedBackend(Script(copies=0.5), slots=2, ctx=32, cells=64))
    with pytest.raises(RbeesError) as caught:
        check_draft_model(model, ScriptedBackend(draft, slots=1, ctx=64, cells=64))
    assert caught.value.code == ErrorCode.MODEL_INCOMPATIBLE
    assert difference in caught.value.message


def test_patience_doubles_up_to_a_bound_and_begins_anew() -> None:
    patience = Patience()
    tries = [step for step in range(1, 3_000) if patience.due()]
    waits = [after - before for before, after in pairwise(tries)]
    assert tries[0] == 16
    assert waits == [32, 64, 128, 256, *[512] * (len(waits) - 4)]
    patience.reset()
    assert [patience.due() for _ in range(16)].index(True) == 15
