"""A user's own policy decides, and what it does wrong costs a warning and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from examples.policy_plugin import MOST_WAITING, PeopleFirst
from rbees.orcd.plugin import FAILURES, GuardedPlugin, load
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import SpawnWorker
from rbees.orcd.scheduler.events import JobSpec
from rbees.orcd.scheduler.judge import Load, PolicyPlugin, Refused
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.decisions import Candidate
from rbees.protocol.errors import ErrorCode, RbeesError
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import CPU, NOVEL, Drive, spawned

JOB = JobSpec("job", "novel", NOVEL.sha256, "interactive", 1, 1_000)
PLACE = Candidate(pool_id="a", devices=("cpu",), done_in_s=3.0)
GPU = facts.device("cuda:0", 24 * facts.GIB, 20 * facts.GIB)


class Odd(PolicyPlugin):
    """Does what it is told."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.asked = 0

    def score(self, job: JobSpec, place: Candidate) -> float:
        self.asked += 1
        return self.act()  # type: ignore[return-value]

    def admit(self, job: JobSpec, load: Load) -> Refused | None:
        return self.act()  # type: ignore[return-value]


def guarded(act: Callable[[], object]) -> tuple[GuardedPlugin, Odd]:
    plugin = Odd(act)
    return GuardedPlugin("odd", plugin, 0.02), plugin


def fails() -> object:
    raise KeyError("no such thing")


def never_ends() -> object:
    while True:
        try:
            time.sleep(0.001)
        except Exception:
            continue


@pytest.mark.parametrize("act", [fails, never_ends, lambda: float("nan"), lambda: "much"], ids=["raises", "hangs", "nan", "text"])
def test_where_it_fails_the_built_in_policy_decides(act: Callable[[], object]) -> None:
    guard, _ = guarded(act)
    assert guard.score(JOB, PLACE) == 3.0
    guard.admit(JOB, Load(0, 0))


def test_after_many_failures_in_a_row_it_is_not_asked_any_more() -> None:
    guard, plugin = guarded(fails)
    for _ in range(FAILURES + 5):
        assert guard.score(JOB, PLACE) == 3.0
    assert plugin.asked == FAILURES


def test_one_good_answer_makes_up_for_failures() -> None:
    answers = iter([True, False] * 30)
    guard, plugin = guarded(lambda: fails() if next(answers) else 1.0)
    scores = [guard.score(JOB, PLACE) for _ in range(40)]
    assert scores == [3.0, 1.0] * 20
    assert plugin.asked == 40


def test_a_refusal_reaches_the_client_with_its_time() -> None:
    guard, _ = guarded(lambda: Refused("Come back at night.", 3_600.0))
    with pytest.raises(RbeesError) as caught:
        guard.admit(JOB, Load(0, 0))
    assert (caught.value.code, caught.value.message) == (ErrorCode.QUOTA_EXCEEDED, "Come back at night.")
    assert caught.value.details == {"policy": "odd", "retry_after_s": 3_600.0}


def test_the_example_leaves_the_graphics_card_to_people() -> None:
    places: dict[str, tuple[str, ...]] = {}
    for priority in ("interactive", "batch"):
        drive = Drive()
        drive.scheduler = Scheduler(Policy(), GuardedPlugin("people-first", PeopleFirst(), 1.0))
        drive.report("a", models=(NOVEL,), devices=(CPU, GPU))
        places[priority] = spawned(drive.job("job-1", NOVEL, priority=priority, max_tokens=10)).devices
    assert places == {"interactive": ("cuda:0",), "batch": ("cpu",)}


def test_the_example_takes_no_more_batch_jobs_while_many_wait() -> None:
    plugin = PeopleFirst()
    batch = JobSpec("job", "novel", NOVEL.sha256, "batch", 1, 1_000)
    assert plugin.admit(batch, Load(MOST_WAITING - 1, 5)) is None
    assert plugin.admit(JOB, Load(10 * MOST_WAITING, 5)) is None
    refused = plugin.admit(batch, Load(MOST_WAITING, 5))
    assert refused is not None
    assert refused.retry_after_s == 30.0


def test_a_place_that_a_policy_forbids_is_not_used() -> None:
    class NeverHere(PolicyPlugin):
        def score(self, job: JobSpec, place: Candidate) -> float:
            return float("inf") if place.pool_id == "a" else super().score(job, place)

    drive = Drive()
    drive.scheduler = Scheduler(Policy(), GuardedPlugin("never-here", NeverHere(), 1.0))
    drive.report("a", facts.worker("w1", NOVEL), models=(NOVEL,), devices=(facts.device("cpu", 8 * facts.GIB, 0),))
    effects = drive.job("job-1", NOVEL)
    assert effects == []
    plan = drive.plan(drive.spec("new", NOVEL))
    assert plan.candidates[0].refusal == "The cluster's own policy never lets the job go there."
    started = drive.report("b", models=(NOVEL,))
    assert [effect.pool_id for effect in started if isinstance(effect, SpawnWorker)] == ["b"]


@pytest.mark.parametrize("name", ["unknown", "no_such_module:Class", "json:JSONDecoder", "examples.policy_plugin:Missing"])
def test_a_name_that_names_none_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(RbeesError) as caught:
        load(name)
    assert caught.value.code is ErrorCode.CONFIGURATION
    assert f"`{name}`" in caught.value.message


def test_a_class_is_found_by_its_module() -> None:
    assert isinstance(load("examples.policy_plugin:PeopleFirst"), PeopleFirst)
