"""What is foretold of a job is what happens when it comes in the same moment, and to ask changes nothing, in simulated worlds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import Dispatch, Effect, Finish, Requeue, SpawnWorker, StopWorker
from rbees.orcd.scheduler.events import Event, JobArrived, JobSpec, Moment
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.survey import Told
from rbees.protocol.errors import ErrorCode, RbeesError
from tests.simulation import shell
from tests.simulation.world import World

OUTLOOKS: Counter[str] = Counter()


class Asked:
    """A scheduler that is asked before and after each arrival, and one beside it that is never asked anything."""

    def __init__(self, policy: Policy) -> None:
        self._asked = Scheduler(policy)
        self._left_alone = Scheduler(policy)
        self._turns = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._asked, name)

    def handle(self, event: Event, moment: Moment) -> list[Effect]:
        told = self._plan(event.job, moment) if isinstance(event, JobArrived) else None
        self._ask_around(moment)
        effects = self._asked.handle(event, moment)
        assert effects == self._left_alone.handle(event, moment), "questions have changed a decision"
        if told is not None and isinstance(event, JobArrived):
            self._compare(told, event.job.job_id, effects, moment)
        return effects

    def _plan(self, spec: JobSpec, moment: Moment) -> Told | None:
        state = self._asked._state
        if state.draining or state.unresolved:
            return None
        try:
            facts = self._asked.resolve(spec.model)
        except RbeesError:
            return None
        if facts is None:
            return None
        resolved = replace(spec, model_sha256=facts.sha256)
        told = self._asked.plan(resolved, moment.monotonic_s, moment.unix_ms)
        refusal = self._asked.refusal_for_deadline(resolved, moment.monotonic_s, moment.unix_ms)
        is_too_late = told.error is not None and told.error.code is ErrorCode.DEADLINE_EXCEEDED
        assert refusal == (told.error if is_too_late else None)
        return None if is_too_late else told

    def _ask_around(self, moment: Moment) -> None:
        self._turns += 1
        for index, job_id in enumerate([*self._asked._state.jobs]):
            if (self._turns + index) % 31 == 0:
                self._asked.explain(job_id, moment.monotonic_s)
                self._asked.queue_position(job_id)

    def _compare(self, told: Told, job_id: str, effects: list[Effect], moment: Moment) -> None:
        OUTLOOKS[told.outlook] += 1
        dispatched = [one for one in effects if isinstance(one, Dispatch) and one.job_id == job_id]
        if any(isinstance(one, Requeue) and one.job_id == job_id for one in effects):
            # It has given way to another in the same turn.
            dispatched.clear()
        finished = [one for one in effects if isinstance(one, Finish) and one.job_id == job_id]
        chosen = [one for one in told.candidates if one.chosen]
        assert bool(dispatched) == (told.outlook == "runs")
        assert [one.error for one in finished] == ([told.error] if told.outlook == "refused" else [])
        match told.outlook:
            case "runs":
                assert [(one.worker_id, one.done_in_s) for one in chosen] == [(dispatched[0].worker_id, told.done_in_s)]
            case "starts_worker":
                (place,) = chosen
                assert (place.worker_id, place.done_in_s) == (None, told.done_in_s)
                started = [(one.pool_id, one.devices) for one in effects if isinstance(one, SpawnWorker)]
                leaving = [one.pool_id for one in effects if isinstance(one, StopWorker)]
                assert (place.pool_id, place.devices) in started or place.pool_id in leaving
            case "waits":
                found = self._asked.explain(job_id, moment.monotonic_s)
                assert found is not None
                assert not chosen
                assert (found.outlook, found.ahead, found.done_in_s) == ("waits", told.ahead, told.done_in_s)
                rows = [one.done_in_s for one in told.candidates if one.done_in_s is not None]
                # The places are told as they were before; meanwhile another's patience may have ended, and it has a slot there.
                others_began = any(isinstance(one, Dispatch) for one in effects)
                assert told.done_in_s is None or told.done_in_s in rows or others_began
                assert self._asked.queue_position(job_id) == (told.ahead or 0) + 1


def test_what_is_foretold_happens_and_questions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "Scheduler", Asked)
    OUTLOOKS.clear()
    for seed in range(15):
        World(seed, hosts=1 + seed % 5, minutes=4.0).run()
    assert min(OUTLOOKS[outlook] for outlook in ("runs", "starts_worker", "waits")) > 10
