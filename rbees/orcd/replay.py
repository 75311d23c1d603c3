"""`rbees orcd replay FILE`: makes every decision of an orcd again from its log of events, and says whether they are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import msgspec

from rbees.orcd.event_log import fingerprint_of, read_log
from rbees.orcd.plugin import GuardedPlugin, load
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import Effect
from rbees.orcd.scheduler.events import Event, Ticked
from rbees.protocol.errors import ErrorCode, RbeesError

PATIENCE_S: Final = 1.0
"""For a policy plug-in, which here holds up nobody."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One turn of the scheduler, made again."""

    number: int
    """From 1."""
    at_s: float
    """Since the first event."""
    event: Event
    effects: tuple[Effect, ...]
    same: bool
    """The original led to the same effects."""


def replay(path: Path, plugin: str | None = None) -> Iterator[Replayed]:
    """Every turn in order, with the policy plug-in `plugin` where one decided then.

    Raises:
        RbeesError: INVALID_REQUEST as `read_log`, and for another plug-in than decided then; CONFIGURATION where it is unusable.
    """
    header, happenings = read_log(path)
    if header.plugin != plugin:
        # Never loaded for the file's word alone: that would run whatever code a file from elsewhere names.
        named = f"by the policy plug-in `{header.plugin}`" if header.plugin else "without a policy plug-in"
        message = f"These decisions were made {named}; name the same with --policy-plugin, or none."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="policy_plugin")
    # One that took too long for an answer then may not do so now: what the built-in policy decided instead will differ.
    judge = None if plugin is None else GuardedPlugin(plugin, load(plugin), PATIENCE_S)
    scheduler = Scheduler(header.policy, judge, header.learned)
    began_s: float | None = None
    for number, happening in enumerate(happenings, 1):
        began_s = happening.moment.monotonic_s if began_s is None else began_s
        effects = tuple(scheduler.handle(happening.event, happening.moment))
        same = fingerprint_of(effects) == happening.fingerprint
        yield Replayed(number, happening.moment.monotonic_s - began_s, happening.event, effects, same)


def concerns(turn: Replayed, job_id: str | None) -> bool:
    """Whether a turn is worth telling: it decided something, or brought news, of this job where one is named."""
    if job_id is None:
        return bool(turn.effects) or not isinstance(turn.event, Ticked)
    return any(_job_of(thing) == job_id for thing in (turn.event, *turn.effects))


def lines_of(turn: Replayed, job_id: str | None = None) -> Iterator[str]:
    """A turn as text: the event, and below it what was decided."""
    yield f"{turn.at_s:10.3f}  {_told(turn.event)}"
    for effect in turn.effects:
        if job_id is None or _job_of(effect) in {job_id, None}:
            yield f"{'':10}    -> {_told(effect)}"
    if not turn.same:
        yield f"{'':10}    !! the original decided otherwise"


def as_json(turn: Replayed) -> bytes:
    """A turn as one line of JSON."""
    return msgspec.json.encode(
        {
            "number": turn.number,
            "at_s": round(turn.at_s, 6),
            "event": {"type": type(turn.event).__name__, **_fields(turn.event)},
            "effects": [{"type": type(effect).__name__, **_fields(effect)} for effect in turn.effects],
            "same": turn.same,
        }
    )


def _job_of(thing: Event | Effect) -> str | None:
    spec = getattr(thing, "job", None)
    job_id = getattr(thing, "job_id", None) if spec is None else spec.job_id
    return job_id if isinstance(job_id, str) else None


def _fields(thing: Event | Effect) -> dict[str, Any]:
    return {field.name: getattr(thing, field.name) for field in fields(thing)}


def _told(thing: Event | Effect) -> str:
    """The name and the short facts; lists only by their length."""
    words = [type(thing).__name__]
    for name, value in _fields(thing).items():
        match value:
            case tuple() | list():
                words.append(f"{name}={len(value)}")
            case str() | int() | float() | None:
                words.append(f"{name}={value}")
            case _:
                named = (getattr(value, key, None) for key in ("job_id", "worker_id", "code"))
                words.append(f"{name}={next(filter(None, named), '…')}")
    return " ".join(words)
