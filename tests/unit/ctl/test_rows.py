"""Jobs, devices and workers as lines of text."""

from __future__ import annotations

from rbees.ctl.rows import age_text, device_row, job_pairs, job_row, moment_text, worker_row
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.events import Timings, Usage
from rbees.protocol.jobs import AttemptView, ChoiceOutput, JobView
from rbees.protocol.pools import Device, WorkerFacts

NOW_MS = 1_700_000_060_000
BASE = JobView(job_id="job-1", status="queued", model="m", priority="interactive", seed=7, created_at_ms=1_700_000_000_000)


def changed(**fields: object) -> JobView:
    """The queued job with other fields."""
    import msgspec

    return msgspec.structs.replace(BASE, **fields)


def test_a_job_that_waits_says_for_what() -> None:
    assert job_row(changed(queue_position=3), NOW_MS)[-1] == "position 3"
    assert job_row(changed(queue_position=3, waiting_for="No pool is here."), NOW_MS)[-1] == "No pool is here."


def test_a_job_that_failed_says_why() -> None:
    error = ErrorBody(code=ErrorCode.TIMEOUT, message="It took too long.")
    assert job_row(changed(status="failed", error=error), NOW_MS)[-1] == "TIMEOUT: It took too long."


def test_why_an_answer_ended_is_a_row() -> None:
    job = changed(
        status="completed", output=(ChoiceOutput(text="a", finish_reason="stop"), ChoiceOutput(text="b", finish_reason="length"))
    )
    assert dict(job_pairs(job, NOW_MS))["finish"] == "stop; length (cut at max_tokens or at the end of the context)"


def test_a_job_in_full() -> None:
    attempt = AttemptView(epoch=1, worker_id="w", pool_id="p", started_at_ms=1, outcome="lost", reason="it went silent")
    job = changed(
        status="completed",
        started_at_ms=NOW_MS,
        attempts=(attempt,),
        usage=Usage(prompt_tokens=5, cached_tokens=2, completion_tokens=9),
        timings=Timings(prefill_ms=1, decode_ms=2, total_ms=1500),
    )
    shown = dict(job_pairs(job, NOW_MS))
    assert shown["tokens"] == "5 prompt (2 cached), 9 completion"
    assert shown["took"] == "1.5 s"
    assert shown["attempt 1"] == "lost on w at p: it went silent"
    assert shown["started"] == "2023-11-14 22:14:20 UTC"
    assert "ended" not in shown, "what is not known is not shown"


def test_nothing_is_younger_than_now() -> None:
    assert age_text(2_000, 1_000) == "0 ms"
    assert moment_text(None) == ""


def test_an_ill_device_says_what_is_wrong() -> None:
    device = Device(
        device_id="cuda:0",
        backend="cuda",
        name="X",
        memory_architecture="vram",
        total_bytes=1 << 30,
        free_bytes=0,
        healthy=False,
        problem="It does not answer.",
        measured_at_ms=1,
    )
    assert device_row("p", device)[-1] == "It does not answer."


def test_a_worker_that_loads_says_how_far() -> None:
    worker = WorkerFacts(
        worker_id="w",
        state="loading",
        model_ref="m",
        model_sha256="a",
        backend="cpu",
        devices=("cpu",),
        slots=2,
        ctx=64,
        load_progress=0.42,
        safe_mode=True,
        started_at_ms=1,
    )
    assert worker_row("p", worker)[2] == "loading 42% (safe mode)"
