"""Workers are asked what they have cached after attempts, seldom, and one that does not answer costs nothing."""

from __future__ import annotations

from typing import Any, cast

from rbees.orcd.crew import Crew
from rbees.orcd.directory import Directory
from rbees.orcd.prefixes import PAUSE_S, PrefixWatch
from rbees.orcd.scheduler.events import Event, PrefixesCached
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.clock import ManualClock
from tests.support.orcd_parts import settle


class Workers:
    """What a directory tells of workers; `gone` has none."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cached: tuple[str, ...] = ("p1", "p2")

    def worker(self, worker_id: str) -> Any:
        if worker_id == "gone":
            raise RbeesError(ErrorCode.WORKER_NOT_FOUND, "No such worker.")
        return self

    @property
    def client(self) -> Any:
        return self

    async def health(self) -> Any:
        self.asked.append("health")
        return self

    @property
    def cached_prefixes(self) -> tuple[str, ...]:
        return self.cached


async def test_a_burst_of_ends_is_one_question_and_a_later_end_another() -> None:
    clock, crew, workers = ManualClock(), Crew(), Workers()
    told: list[Event] = []
    watch = PrefixWatch(cast("Directory", workers), clock, crew, told.append)
    for _ in range(5):
        watch.attempt_ended("w1")
    watch.attempt_ended("gone")
    await settle()
    assert workers.asked == [], "not at once: more may end"
    await clock.advance(PAUSE_S)
    await settle()
    assert workers.asked == ["health"]
    assert told == [PrefixesCached("w1", ("p1", "p2"))]
    workers.cached = ()
    watch.attempt_ended("w1")
    await settle()
    await clock.advance(PAUSE_S)
    await settle()
    assert told[1:] == [PrefixesCached("w1", ())]
    assert not crew.failed.is_set(), "a worker that is gone is no defect"
    await crew.dismiss()
