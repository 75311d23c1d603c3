"""PURE: the life of a worker process as its host sees it: one table, and what each step asks the shell to do.

    STARTING --LoadBegan--> LOADING --BecameReady--> READY
       |  ^                   |  ^                     |
       |  +--- safe mode -----+--+                     |
       +------- StopAsked ----+------- StopAsked ------+--> DRAINING --Ended--> STOPPED
       +------- Ended --------+------- Ended ----------+--> FAILED

The theory: a state is what the process has shown of itself (a control socket, a loaded model, an exit), not what was asked
of it. An order such as a stop moves the worker to DRAINING at once, and from there every end is the wanted one. Whatever
else ends a worker is a failure to be reported, exactly once, with what is known of it. Repeated facts (a second ready
call-back, a stop of a stopped worker) change nothing, because messages may come twice.

There is one decision in the table: a process killed by SIGILL, SIGSEGV or SIGBUS before it was ready is started once more
in safe mode, since those are the signals of processor features that are advertised and do not work. Every other restart is
the orchestrator's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from rbees.protocol.errors import ErrorCode
from rbees.protocol.workers import WorkerState

SAFE_MODE_SIGNALS: Final = frozenset({"SIGILL", "SIGSEGV", "SIGBUS"})
ENDED: Final[frozenset[WorkerState]] = frozenset({"stopped", "failed"})
LOADING: Final[frozenset[WorkerState]] = frozenset({"starting", "loading"})


@dataclass(frozen=True, slots=True)
class Life:
    """Where a worker is in its life."""

    state: WorkerState = "starting"
    safe_mode: bool = False
    """True in the second try; there is no third."""
    timed_out_s: float | None = None
    """The limit, once the process was told to end because it took longer to load."""
    was_ready: bool = False
    """It was ready under an earlier daemon. Until it says so to this one it takes no work, but it has nothing to load."""

    @property
    def is_loading(self) -> bool:
        """True before the process has been ready for the first time."""
        return self.state in LOADING and not self.was_ready


@dataclass(frozen=True, slots=True)
class LoadBegan:
    """The process answers and has begun to load its model."""


@dataclass(frozen=True, slots=True)
class BecameReady:
    """The process says that its model is loaded."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Someone wants the worker ended."""


@dataclass(frozen=True, slots=True)
class LoadTimedOut:
    """The time for loading, `limit_s`, is over."""

    limit_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The process is gone. Without `exit_code` and `signal` it was adopted and left no status."""

    exit_code: int | None = None
    signal: str | None = None
    code: ErrorCode | None = None
    """The error that the process itself named before it ended, with its message."""
    message: str | None = None


Event = LoadBegan | BecameReady | StopAsked | LoadTimedOut | Ended


@dataclass(frozen=True, slots=True)
class ReportReady:
    """Tell the orchestrator that the worker can be used."""


@dataclass(frozen=True, slots=True)
class ReportFailed:
    """Tell the orchestrator that the worker is gone."""

    while_loading: bool
    code: ErrorCode
    message: str
    exit_code: int | None
    signal: str | None


@dataclass(frozen=True, slots=True)
class StartInSafeMode:
    """Start the process again, without processor-specific kernels."""

    signal: str


@dataclass(frozen=True, slots=True)
class StopProcess:
    """End the process: politely, then by signal."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing of the process is left: delete its record."""


Action = ReportReady | ReportFailed | StartInSafeMode | StopProcess | Forget

TABLE: Final[dict[tuple[WorkerState, type[Event]], WorkerState]] = {
    ("starting", LoadBegan): "loading",
    ("starting", BecameReady): "ready",
    ("starting", StopAsked): "draining",
    ("starting", LoadTimedOut): "starting",
    ("starting", Ended): "failed",
    ("loading", LoadBegan): "loading",
    ("loading", BecameReady): "ready",
    ("loading", StopAsked): "draining",
    ("loading", LoadTimedOut): "loading",
    ("loading", Ended): "failed",
    ("ready", LoadBegan): "ready",
    ("ready", BecameReady): "ready",
    ("ready", StopAsked): "draining",
    ("ready", LoadTimedOut): "ready",
    ("ready", Ended): "failed",
    ("draining", LoadBegan): "draining",
    ("draining", BecameReady): "draining",
    ("draining", StopAsked): "draining",
    ("draining", LoadTimedOut): "draining",
    ("draining", Ended): "stopped",
    ("stopped", LoadBegan): "stopped",
    ("stopped", BecameReady): "stopped",
    ("stopped", StopAsked): "stopped",
    ("stopped", LoadTimedOut): "stopped",
    ("stopped", Ended): "stopped",
    ("failed", LoadBegan): "failed",
    ("failed", BecameReady): "failed",
    ("failed", StopAsked): "failed",
    ("failed", LoadTimedOut): "failed",
    ("failed", Ended): "failed",
}


def advance(life: Life, event: Event) -> tuple[Life, tuple[Action, ...]]:
    """The life after `event`, and what is to be done now."""
    if isinstance(event, Ended) and _deserves_safe_mode(life, event):
        return Life("starting", safe_mode=True), (StartInSafeMode(event.signal or ""),)
    if isinstance(event, BecameReady) and life.timed_out_s is not None:
        # Its end is already under way; work must not be sent to it.
        return life, ()
    if isinstance(event, LoadTimedOut) and life.is_loading:
        return replace(life, timed_out_s=event.limit_s), () if life.timed_out_s is not None else (StopProcess(),)
    after = replace(life, state=TABLE[life.state, type(event)])
    return after, _actions(life, after, event)


def _deserves_safe_mode(life: Life, event: Ended) -> bool:
    first_try = life.is_loading and not life.safe_mode and life.timed_out_s is None
    return first_try and event.signal in SAFE_MODE_SIGNALS


def _actions(before: Life, after: Life, event: Event) -> tuple[Action, ...]:
    if before.state == after.state:
        return ()
    match after.state:
        case "ready":
            return (ReportReady(),)
        case "draining":
            return (StopProcess(),)
        case "stopped":
            return (Forget(),)
        case "failed":
            assert isinstance(event, Ended)
            return (_failure(before, event), Forget())
        case _:
            return ()


def _failure(life: Life, event: Ended) -> ReportFailed:
    code = event.code or ErrorCode.WORKER_CRASHED
    message = event.message or _how_it_ended(life, event)
    if life.timed_out_s is not None:
        message = f"The worker did not load its model within {life.timed_out_s:g} s and was stopped; see its log."
        code = ErrorCode.WORKER_CRASHED
    return ReportFailed(life.is_loading, code, message, event.exit_code, event.signal)


def _how_it_ended(life: Life, event: Ended) -> str:
    when = "while it loaded its model" if life.is_loading else "while it was serving"
    if life.safe_mode and life.is_loading:
        when += ", in safe mode too"
    if event.signal is not None:
        return f"The worker was killed by {event.signal} {when}; see its log."
    if event.exit_code is not None:
        return f"The worker ended with exit code {event.exit_code} {when}; see its log."
    return f"The worker ended {when} and left no exit status; see its log."
