"""What `llorch jobs explain` and `llorch plan` print."""

from __future__ import annotations

from typing import cast

import pytest

from rbees.ctl.decision_actions import bound_text, candidate_row, plan_job, plan_pairs
from rbees.ctl.rows import attempt_text
from rbees.ctl.target import Target
from rbees.protocol.decisions import Candidate, Plan, WaitBound
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.jobs import AttemptView, JobRequest


def test_a_candidate_is_one_line_whatever_is_known_of_it() -> None:
    worker = Candidate(
        pool_id="attic",
        devices=("cuda:0",),
        worker_id="worker-1",
        free_slots=1,
        slots=4,
        starts_in_s=0.0,
        takes_s=2.04,
        saved_s=0.5,
        done_in_s=2.04,
        chosen=True,
    )
    assert candidate_row(worker) == ("*", "worker-1 on cuda:0 at attic", "0.0 s", "2.0 s", "2.0 s", "0.5 s", "", "")
    new = Candidate(pool_id="attic", devices=("cpu",), needed_bytes=1 << 30, free_bytes=1 << 20, refusal="No room.")
    where, *_, memory, why = candidate_row(new)[1:]
    assert (where, why) == ("new worker on cpu at attic", "No room.")
    assert memory.startswith("1.0 GiB of ")


def test_a_plan_says_how_many_come_first_and_when_the_job_would_be_done() -> None:
    waits = Plan(outlook="waits", reason="All slots are in use.", model_sha256="ab", ahead=12, done_in_s=34.56)
    assert plan_pairs(waits) == [
        ("outlook", "waits"),
        ("about", "All slots are in use."),
        ("before it", "12 jobs for this model"),
        ("done in", "about 34.6 s"),
        ("sha256", "ab"),
    ]
    refused = Plan(outlook="refused", reason="No.", error=ErrorBody(code=ErrorCode.QUEUE_FULL, message="No."))
    assert plan_pairs(refused) == [("outlook", "refused"), ("about", "No."), ("code", "QUEUE_FULL")]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("code", "exit_code"), [(ErrorCode.MODEL_NOT_FOUND, 1), (ErrorCode.QUEUE_FULL, 75), (None, None)])
async def test_a_plan_ends_as_the_submission_would(
    code: ErrorCode | None, exit_code: int | None, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    class Orcd:
        async def __aenter__(self) -> Orcd:
            return self

        async def __aexit__(self, *rest: object) -> None: ...

        async def plan(self, job: JobRequest) -> Plan:
            if code is None:
                return Plan(outlook="waits", reason=job.model)
            return Plan(outlook="refused", reason=job.model, error=ErrorBody(code=code, message="No."))

    class Known:
        def client(self) -> Orcd:
            return Orcd()

    found = await plan_job(cast("Target", Known()), model="tinylama", prompt="Hello.", as_json=as_json)
    assert found == exit_code
    assert "tinylama" in capsys.readouterr().out


def test_an_attempt_says_why_it_was_made_there_and_how_it_ended() -> None:
    attempt = AttemptView(epoch=1, worker_id="w", pool_id="p", started_at_ms=1, outcome="failed", reason="It died.", why="no other")
    assert attempt_text(attempt) == "failed on w at p (no other): It died."


def test_a_bound_is_told_without_the_parts_that_are_nothing() -> None:
    nothing = WaitBound(
        running_s=0.0, own_work=0.0, sessions=1, largest_work=100.0, seconds_per_work=0.02, slots=1, waits_at_most_s=0.0
    )
    assert bound_text(nothing) == "about 0.0 s: (nothing) / 1 slot"
    own = WaitBound(
        running_s=1.5, own_work=100.0, sessions=1, largest_work=100.0, seconds_per_work=0.02, slots=1, waits_at_most_s=3.5
    )
    assert bound_text(own) == "about 3.5 s: (1.5 s that run + (100 tokens of its session before it) × 20 ms) / 1 slot"
    whole = WaitBound(
        running_s=2.0,
        own_work=100.0,
        sessions=3,
        largest_work=50.0,
        other_work=400.0,
        seconds_per_work=0.02,
        slots=4,
        waits_at_most_s=5.0,
    )
    assert bound_text(whole) == (
        "about 5.0 s: (2.0 s that run + (300 tokens of sessions in turn + 200 tokens of what may come between + 400 tokens that go "
        "first by priority or age) × 20 ms) / 4 slots"
    )
