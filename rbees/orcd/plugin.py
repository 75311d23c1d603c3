"""Loads a user's policy and stands between it and orcd: what it raises, or takes too long for, costs a warning and nothing else."""

from __future__ import annotations

import importlib
import math
import signal
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from types import FrameType
from typing import Final, TypeVar

from rbees.orcd.scheduler.events import JobSpec
from rbees.orcd.scheduler.judge import Load, PolicyPlugin, Refused
from rbees.protocol.decisions import Candidate
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import logs

GROUP: Final = "rbees.policies"
FAILURES: Final = 10
"""After so many, one after the other, the plug-in is not asked any more."""
AGAIN_S: Final = 0.005
"""A plug-in that catches the interruption and goes on is interrupted again after so long."""

T = TypeVar("T")


class TooSlow(BaseException):
    """The plug-in took longer than it may. No `Exception`, for a plug-in may catch those."""


def load(name: str) -> PolicyPlugin:
    """The plug-in that an entry point of `GROUP`, or `module:Class`, names.

    Raises:
        RbeesError: CONFIGURATION with what is wrong, and which plug-ins there are.
    """
    try:
        found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
        if found:
            kind = found[0].load()
        elif ":" in name:
            module, _, attribute = name.partition(":")
            kind = getattr(importlib.import_module(module), attribute)
        else:
            raise _unusable(name, "no entry point has this name")
        if not (isinstance(kind, type) and issubclass(kind, PolicyPlugin)):
            raise _unusable(name, "it is no subclass of rbees.orcd.scheduler.judge.PolicyPlugin")
        return kind()
    except RbeesError:
        raise
    except (Exception, SystemExit) as error:
        raise _unusable(name, f"{type(error).__name__}: {error}") from error


class GuardedPlugin:
    """Asks a plug-in under a time limit, and answers as the built-in policy does where it fails.

    The limit is kept by a signal, which may arrive at any instruction of the process, also when the answer is there already. It
    raises only into what `_timed` has called, hence within its `try`, and so reaches nobody but `_ask`.
    """

    def __init__(self, name: str, plugin: PolicyPlugin, limit_s: float) -> None:
        self._name = name
        self._plugin = plugin
        self._limit_s = limit_s
        self._built_in = PolicyPlugin()
        self._failures = 0
        self._due_s = math.inf
        self._log = logs.logger()
        # A signal interrupts code that would never come back by itself, in the main thread, where orcd's loop runs.
        signal.signal(signal.SIGALRM, self._interrupt)

    def admit(self, job: JobSpec, load: Load) -> None:
        """Raises RbeesError QUOTA_EXCEEDED where the plug-in refuses the job."""
        refused = self._ask(lambda: _checked(self._plugin.admit(job, load)), lambda: None, "admit")
        if refused is not None:
            details = {"policy": self._name, "retry_after_s": refused.retry_after_s}
            raise RbeesError(ErrorCode.QUOTA_EXCEEDED, refused.reason, **details)

    def score(self, job: JobSpec, place: Candidate) -> float:
        """See `Judge`."""
        score = self._ask(lambda: float(self._plugin.score(job, place)), lambda: self._built_in.score(job, place), "score")
        if math.isnan(score):
            self._failed("score", "it answered NaN")
            return self._built_in.score(job, place)
        return score

    def _ask(self, ask: Callable[[], T], built_in: Callable[[], T], what: str) -> T:
        if self._failures >= FAILURES:
            return built_in()
        try:
            answer = self._timed(ask)
        except TooSlow:
            self._failed(what, f"it took longer than {self._limit_s * 1000:g} ms")
            return built_in()
        except BaseException as error:
            # Nothing but the plug-in runs in there, so SystemExit and the like are its own as well and end nothing here.
            self._failed(what, f"{type(error).__name__}: {error}")
            return built_in()
        self._failures = 0
        return answer

    def _timed(self, ask: Callable[[], T]) -> T:
        try:
            self._due_s = time.monotonic() + self._limit_s
            signal.setitimer(signal.ITIMER_REAL, self._limit_s, AGAIN_S)
            return ask()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _interrupt(self, _number: int, frame: FrameType | None) -> None:
        timed, interrupt = GuardedPlugin._timed.__code__, GuardedPlugin._interrupt.__code__
        # A signal may also be left over from the question before.
        if frame is None or frame.f_code in {timed, interrupt} or time.monotonic() < self._due_s:
            return
        caller = frame.f_back
        while caller is not None:
            if caller.f_code is timed:
                raise TooSlow
            caller = caller.f_back

    def _failed(self, what: str, why: str) -> None:
        self._failures += 1
        given_up = self._failures >= FAILURES
        self._log.warning(
            "the policy plug-in failed; the built-in policy decides" + (" from now on" if given_up else ""),
            action="policy_plugin_failed",
            plugin=self._name,
            method=what,
            reason=why,
        )


def _checked(answer: object) -> Refused | None:
    if answer is None:
        return None
    if not isinstance(answer, Refused):
        raise TypeError(f"admit() must answer None or Refused, not {type(answer).__name__}")
    if not isinstance(answer.reason, str):
        raise TypeError(f"the reason of a refusal must be text, not {type(answer.reason).__name__}")
    retry_after_s = float(answer.retry_after_s)
    if not 0.0 <= retry_after_s < math.inf:
        raise ValueError(f"retry_after_s must be a number of seconds from 0 on, not {retry_after_s}")
    return Refused(answer.reason, retry_after_s)


def _unusable(name: str, why: str) -> RbeesError:
    there = ", ".join(sorted(entry.name for entry in entry_points(group=GROUP))) or "none"
    message = (
        f"The policy plug-in `{name}` cannot be used: {why}. Installed: {there}. Without `policy_plugin` the built-in one decides."
    )
    return RbeesError(ErrorCode.CONFIGURATION, message)
