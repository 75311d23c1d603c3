"""What is told of a worker: its facts from its record, and how it ended as far as that can be known."""

from __future__ import annotations

from pathlib import Path

from rbees.host import lifecycle, worker_log
from rbees.host.lifecycle import Life
from rbees.host.process import Exit
from rbees.host.process_table import ProcessRecord
from rbees.protocol.errors import ErrorCode
from rbees.protocol.pools import WorkerEnd, WorkerFacts
from rbees.service.clock import Clock


def facts_of(
    record: ProcessRecord,
    life: Life,
    *,
    pid: int | None = None,
    uri: str | None = None,
    load_progress: float = 0.0,
    adopted: bool = False,
    end: WorkerEnd | None = None,
) -> WorkerFacts:
    """The worker of a record as it is reported."""
    spec = record.spec
    return WorkerFacts(
        worker_id=spec.worker_id,
        state=life.state,
        model_ref=spec.model_ref,
        model_sha256=spec.model_sha256,
        backend=spec.backend,
        devices=spec.devices,
        slots=spec.slots,
        ctx=spec.ctx,
        pid=pid,
        uri=uri,
        memory_bytes=record.reserved_bytes if record.measured_bytes is None else record.measured_bytes,
        load_progress=load_progress,
        safe_mode=spec.safe_mode,
        adopted=adopted,
        started_at_ms=record.started_at_ms,
        end=end,
    )


def ended_as(exit_: Exit, tail: tuple[str, ...]) -> lifecycle.Ended:
    """The end of a process as the table of states takes it: its status, and the error that it named itself."""
    named = worker_log.last_error(tail) if exit_.signal is None else None
    return lifecycle.Ended(
        exit_.exit_code, exit_.signal, code=named.code if named else None, message=named.message if named else None
    )


def end_of(
    action: lifecycle.Action, event: lifecycle.Event, tail: tuple[str, ...], clock: Clock, stopped_by: str | None
) -> WorkerEnd | None:
    """What is to be remembered where the action says that the worker is over; `stopped_by`: who wanted that, where it was said."""
    if not isinstance(event, lifecycle.Ended):
        return None
    match action:
        case lifecycle.ReportFailed():
            code: ErrorCode | None = action.code
            message = action.message
        case lifecycle.Forget():
            code = None
            message = f"It was stopped by {stopped_by}" if stopped_by else "It was stopped."
            if event.signal is not None:
                message += f" In the end {event.signal} ended it."
        case _:
            return None
    return WorkerEnd(
        code=code,
        message=message,
        exit_code=event.exit_code,
        signal=event.signal,
        ended_at_ms=clock.unix_ms(),
        log_tail=tail,
    )


def socket_of(record: ProcessRecord) -> Path:
    """Where the worker tells this machine's user who it is."""
    return Path(record.spec.runtime_dir, "workers", f"{record.spec.worker_id}.sock")
