"""A user's own policy decides, and what it does wrong costs a warning and nothing else."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from examples.policy_plugin import MOST_WAITING, PeopleFirst
from rbees.orcd.plugin import FAILURES, GROUP, GuardedPlugin, load
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import SpawnWorker
from rbees.orcd.scheduler.events import JobSpec
from rbees.orcd.scheduler.judge import Load, PolicyPlugin, Refused
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.decisions import Candidate
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import settings
from rbees.service.role_settings import OrcdSettings
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


def guarded(act: Callable[[], object], limit_s: float = 30.0) -> tuple[GuardedPlugin, Odd]:
    plugin = Odd(act)
    return GuardedPlugin("odd", plugin, limit_s), plugin


def fails() -> object:
    raise KeyError("no such thing")


def never_ends() -> object:
    while True:
        try:
            time.sleep(0.001)
        except Exception:
            continue


def ends_the_process() -> NoReturn:
    sys.exit(3)


def is_interrupted() -> NoReturn:
    raise KeyboardInterrupt


def goes_on_when_interrupted() -> NoReturn:
    try:
        never_ends()
    except BaseException:
        never_ends()
    raise AssertionError


@pytest.mark.parametrize(
    "act",
    [
        fails,
        never_ends,
        goes_on_when_interrupted,
        ends_the_process,
        is_interrupted,
        lambda: float("nan"),
        lambda: "much",
        lambda: Refused("No.", float("nan")),
        lambda: Refused("No.", float("inf")),
        lambda: Refused("No.", -5.0),
        lambda: Refused("No.", "soon"),  # type: ignore[arg-type]
        lambda: Refused(None),  # type: ignore[arg-type]
    ],
    ids=["raises", "hangs", "goes on", "exits", "interrupts", "nan", "text", "nan s", "inf s", "before now", "soon", "no reason"],
)
def test_where_it_fails_the_built_in_policy_decides(act: Callable[[], object]) -> None:
    guard, _ = guarded(act, limit_s=0.02)
    assert guard.score(JOB, PLACE) == 3.0
    guard.admit(JOB, Load(0, 0))


def test_whenever_the_signal_comes_nobody_but_the_guard_is_interrupted() -> None:
    moment, steps = 0, 0

    def at_each_instruction(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == moment:
                signal.getsignal(signal.SIGALRM)(signal.SIGALRM, frame)  # type: ignore[operator, misc]
        return at_each_instruction

    traced = sys.gettrace()
    while steps >= moment:
        moment, steps = moment + 1, 0
        guard = GuardedPlugin("fast", PolicyPlugin(), 1e-9)
        sys.settrace(at_each_instruction)
        try:
            score = guard.score(JOB, PLACE)
        finally:
            sys.settrace(traced)
        assert score == 3.0
    assert moment > 50


def test_a_limit_that_nothing_can_keep_costs_the_plugin_its_say_and_nothing_else() -> None:
    for _ in range(2_000):
        guard = GuardedPlugin("fast", PolicyPlugin(), 1e-6)
        assert guard.score(JOB, PLACE) == 3.0


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


def test_a_class_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "people_first-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: people-first\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{GROUP}]\npeople-first = examples.policy_plugin:PeopleFirst\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(load("people-first"), PeopleFirst)
    with pytest.raises(RbeesError) as caught:
        load("animals-first")
    assert "Installed: people-first." in caught.value.message


def test_a_module_that_ends_the_process_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves_at_once.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RbeesError) as caught:
        load("leaves_at_once:Policy")
    assert caught.value.code is ErrorCode.CONFIGURATION


def test_a_limit_below_a_millisecond_is_refused() -> None:
    with pytest.raises(RbeesError) as caught:
        settings.load("orcd", OrcdSettings, files=(), environ={"RBEES_ORCD_POLICY_LIMIT_MS": "0.001"})
    assert caught.value.code is ErrorCode.CONFIGURATION
    assert "policy_limit_ms" in caught.value.message
