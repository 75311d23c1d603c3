"""Several answers to one prompt: the prompt is computed once, each answer draws for itself and goes on from its own beginning."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.protocol.errors import ErrorCode
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Admitted, Failed, Finished, Grown, Output
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from tests.support.scripted_models import Ticks, ending_of, run_out, scripted_engine

PROMPT = tuple(b"tell me of bees")


def work(*beginnings: tuple[int, ...], seed: int = 1, **fields: Any) -> Work:
    first, *further = beginnings
    return Work("a", PROMPT, first, fields.pop("max_tokens", 20), Sampling(seed=seed, **fields), further=tuple(further))


def answers(outputs: list[Output]) -> dict[int, list[int]]:
    """The token ids of each answer."""
    found: dict[int, list[int]] = {}
    for output in outputs:
        if isinstance(output, Grown):
            found.setdefault(output.choice, []).extend(output.piece.token_ids)
    return found


def endings(outputs: list[Output]) -> dict[int, Finished]:
    return {o.choice: o for o in outputs if isinstance(o, Finished)}


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_each_answer_has_draws_of_its_own_however_many_run_at_once(slots: int) -> None:
    engine = scripted_engine(slots=slots)
    engine.submit(work((), (), (), ()))
    outputs = run_out(engine)
    assert sum(isinstance(o, Admitted) for o in outputs) == 1
    assert sorted(endings(outputs)) == [0, 1, 2, 3]
    found = answers(outputs)
    assert len({tuple(ids) for ids in found.values()}) == 4
    alone = scripted_engine()
    alone.submit(work(()))
    assert answers(run_out(alone))[0] == found[0], "the first is that of a job with one"


def test_the_prompt_is_computed_once_however_short() -> None:
    backend = ScriptedBackend(Script(), slots=4, ctx=64, cells=256)
    engine = Engine(backend, slots=4, now=Ticks())
    engine.submit(work((), (), (), (), max_tokens=1))
    outputs = run_out(engine)
    assert engine.load().cells_kept == len(PROMPT)
    assert {e.usage.cached_tokens for e in endings(outputs).values()} == {0}, "the prompt of the first was not known before"
    engine.submit(work((), ()))
    assert endings(run_out(engine))[1].usage.cached_tokens == len(PROMPT) - 1


@pytest.mark.parametrize("cuts", [(0, 5, 20), (20, 20, 20), (7, 0, 0), (19, 20, 1)])
def test_each_answer_goes_on_from_its_own_beginning(cuts: tuple[int, ...]) -> None:
    engine = scripted_engine()
    engine.submit(work((), (), ()))
    whole = run_out(engine)
    ids = answers(whole)
    again = scripted_engine()
    again.submit(work(*(tuple(ids[choice][:cut]) for choice, cut in enumerate(cuts))))
    rest = run_out(again)
    for choice, cut in enumerate(cuts):
        assert answers(rest).get(choice, []) == ids[choice][cut:]
        assert endings(rest)[choice].reason == endings(whole)[choice].reason
        assert endings(rest)[choice].usage.completion_tokens == endings(whole)[choice].usage.completion_tokens


def test_cancelling_ends_all_answers_once() -> None:
    engine = scripted_engine(slots=2)
    engine.submit(work((), (), ()))
    for _ in range(3):
        engine.step()
    engine.cancel("a")
    engine.check_integrity()
    ending = ending_of(run_out(engine), "a")
    assert isinstance(ending, Failed)
    assert ending.error.code == ErrorCode.CANCELLED
    assert engine.load().slots_used == engine.load().waiting == 0


def test_an_answer_that_fails_takes_the_others_with_it() -> None:
    engine = scripted_engine(slots=4, fail_on="bees")
    engine.submit(work((), (), ()))
    assert isinstance(ending_of(run_out(engine), "a"), Failed)


def test_a_pause_holds_all_answers() -> None:
    engine = scripted_engine()
    engine.submit(work((), ()))
    engine.step()
    engine.pause("a", True)
    assert not engine.step()
    engine.pause("a", False)
    assert sorted(endings(run_out(engine))) == [0, 1]
