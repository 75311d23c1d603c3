"""PURE: `keep_alive`: how long a model stays loaded after its last job, in seconds or as Go writes durations.

The syntax is that of https://pkg.go.dev/time#ParseDuration, and plain numbers.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Final

import msgspec

from rbees.orcd.door.foreign import refusal

LONGEST_S: Final = 10 * 365 * 86_400.0
"""What is longer is for good."""
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0}
_PIECE: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"(?:{_PIECE.pattern})+")
_NUMBER: Final = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")

KeepAlive = Annotated[
    float | Annotated[str, msgspec.Meta(max_length=64)] | None,
    msgspec.Meta(
        description='How long the model stays loaded after its last job: seconds, or a text such as `"10m"`; 0 unloads it once it '
        "has nothing to do, below 0 keeps it until its memory is needed. The wish holds until the next one; "
        "a request without it changes nothing."
    ),
]


def seconds_of(keep_alive: float | str | None) -> float | None:
    """The time that is asked for, infinite for good; None where nothing is.

    Raises:
        RbeesError: INVALID_REQUEST for a text that is no duration.
    """
    if keep_alive is None:
        return None
    asked_s = _parsed(keep_alive.strip()) if isinstance(keep_alive, str) else keep_alive
    return math.inf if asked_s < 0 or asked_s > LONGEST_S else asked_s


def _parsed(text: str) -> float:
    sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if _NUMBER.fullmatch(digits):
        return sign * float(digits)
    if not _DURATION.fullmatch(digits):
        raise refusal('`keep_alive` is no duration; send seconds, or a text such as "10m" or "1h30m".', "keep_alive")
    return sign * sum(float(count) * _UNITS[unit] for count, unit in _PIECE.findall(digits))
