"""The life of a worker: every state against every event, and what each step asks for."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from rbees.host.lifecycle import (
    ENDED,
    SAFE_MODE_SIGNALS,
    TABLE,
    Action,
    BecameReady,
    Ended,
    Event,
    Forget,
    Life,
    LoadBegan,
    LoadTimedOut,
    ReportFailed,
    ReportReady,
    StartInSafeMode,
    StopAsked,
    StopProcess,
    advance,
)
from rbees.protocol.errors import ErrorCode
from rbees.protocol.workers import WorkerState


def live(*events: Event, life: Life | None = None) -> tuple[Life, list[Action]]:
    life = life or Life()
    actions: list[Action] = []
    for event in events:
        life, more = advance(life, event)
        actions += more
    return life, actions


def test_the_table_is_total() -> None:
    assert set(TABLE) == set(product(get_args(WorkerState), get_args(Event)))


@pytest.mark.parametrize("state", sorted(ENDED))
@pytest.mark.parametrize("event", [LoadBegan(), BecameReady(), StopAsked(), LoadTimedOut(1), Ended(exit_code=0)])
def test_nothing_follows_the_end(state: WorkerState, event: Event) -> None:
    assert advance(Life(state), event) == (Life(state), ())


def test_an_ordinary_life() -> None:
    life, actions = live(LoadBegan(), BecameReady(), StopAsked(), Ended(exit_code=0))
    assert life.state == "stopped"
    assert actions == [ReportReady(), StopProcess(), Forget()]


def test_facts_that_come_twice_change_nothing() -> None:
    life, actions = live(LoadBegan(), LoadBegan(), BecameReady(), BecameReady(), LoadBegan(), StopAsked(), StopAsked())
    assert life.state == "draining"
    assert actions == [ReportReady(), StopProcess()]


def test_a_worker_can_be_ready_before_it_was_seen_loading() -> None:
    assert live(BecameReady())[1] == [ReportReady()]


def test_death_while_serving_is_reported_once_with_its_signal() -> None:
    life, actions = live(BecameReady(), Ended(signal="SIGKILL"), Ended(signal="SIGKILL"))
    assert life.state == "failed"
    assert actions[1:] == [
        ReportFailed(
            False, ErrorCode.WORKER_CRASHED, "The worker was killed by SIGKILL while it was serving; see its log.", None, "SIGKILL"
        ),
        Forget(),
    ]


@pytest.mark.parametrize("signal", sorted(SAFE_MODE_SIGNALS))
@pytest.mark.parametrize("before", [(), (LoadBegan(),)])
def test_processor_faults_while_loading_get_one_more_try(signal: str, before: tuple[Event, ...]) -> None:
    life, actions = live(*before, Ended(signal=signal))
    assert life == Life("starting", safe_mode=True)
    assert actions == [StartInSafeMode(signal)]
    life, actions = live(LoadBegan(), Ended(signal=signal), life=life)
    assert life.state == "failed"
    (failed, forget) = actions
    assert isinstance(failed, ReportFailed)
    assert failed.while_loading
    assert "in safe mode too" in failed.message
    assert forget == Forget()


@pytest.mark.parametrize(
    "ended", [Ended(signal="SIGKILL"), Ended(signal="SIGABRT"), Ended(exit_code=65), Ended(exit_code=139), Ended()]
)
def test_no_other_end_gets_another_try(ended: Ended) -> None:
    life, actions = live(LoadBegan(), ended)
    assert life.state == "failed"
    assert isinstance(actions[0], ReportFailed)


def test_a_fault_after_loading_gets_no_other_try() -> None:
    assert live(BecameReady(), Ended(signal="SIGSEGV"))[0].state == "failed"


def test_a_fault_after_a_stop_was_asked_for_is_the_wanted_end() -> None:
    life, actions = live(LoadBegan(), StopAsked(), Ended(signal="SIGSEGV"))
    assert life.state == "stopped"
    assert actions == [StopProcess(), Forget()]


def test_taking_too_long_ends_the_process_and_says_so() -> None:
    life, actions = live(LoadBegan(), LoadTimedOut(600), LoadTimedOut(600), BecameReady(), Ended(signal="SIGKILL"))
    assert life.state == "failed"
    assert [type(action) for action in actions] == [StopProcess, ReportFailed, Forget]
    assert isinstance(actions[1], ReportFailed)
    assert "within 600 s" in actions[1].message


def test_taking_too_long_means_nothing_once_ready() -> None:
    assert live(BecameReady(), LoadTimedOut(1)) == (Life("ready"), [ReportReady()])


def test_the_processes_own_reason_goes_before_ours() -> None:
    _, actions = live(LoadBegan(), Ended(exit_code=65, code=ErrorCode.MODEL_INCOMPATIBLE, message="Unknown architecture."))
    assert actions[0] == ReportFailed(True, ErrorCode.MODEL_INCOMPATIBLE, "Unknown architecture.", 65, None)


def test_an_adopted_worker_leaves_no_status() -> None:
    _, actions = live(BecameReady(), Ended())
    assert isinstance(actions[1], ReportFailed)
    assert (actions[1].exit_code, actions[1].signal) == (None, None)
    assert "left no exit status" in actions[1].message


def test_one_that_was_ready_under_an_earlier_daemon_has_nothing_to_load() -> None:
    silent = Life(was_ready=True)
    assert live(LoadTimedOut(600), life=silent) == (silent, [])
    assert live(BecameReady(), life=silent) == (Life("ready", was_ready=True), [ReportReady()])
    assert live(StopAsked(), life=silent)[1] == [StopProcess()]
    life, actions = live(Ended(signal="SIGSEGV"), life=silent)
    assert life.state == "failed"
    assert isinstance(actions[0], ReportFailed)
    assert (actions[0].while_loading, "while it was serving" in actions[0].message) == (False, True)
