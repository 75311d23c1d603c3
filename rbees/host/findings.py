"""PURE: what was measured of a host becomes findings, each a sentence that says how it is and, where it is not well, what to do.

Whoever measures stands elsewhere (`examination.py`, and the roles that can ask daemons).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, assert_never

import msgspec

Verdict = Literal["ok", "warning", "failed"]

OLDEST_PYTHON: Final = (3, 11)
LEAST_STATE_BYTES: Final = 512 << 20
"""Less and the daemons' databases are in danger."""
GOOD_STATE_BYTES: Final = 5 << 30
"""Less and there is hardly room for one more model."""
GOOD_CLOCK_MS: Final = 2_000
"""More and the times of two hosts' logs cannot be laid side by side, and tokens end at another time than was meant."""
DATE_STEP_MS: Final = 1_000
"""A `Date` header counts whole seconds (RFC 9110, section 5.6.7)."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of the doctor's."""

    check: str
    verdict: Verdict
    message: str
    """One sentence."""
    details: dict[str, Any] = {}


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """What `rbees pool dev doctor --json` prints."""

    healthy: bool
    """True where nothing failed; warnings do not count."""
    findings: tuple[Finding, ...]


def examination(findings: Sequence[Finding]) -> Examination:
    """All findings, with what they come to."""
    return Examination(healthy=all(finding.verdict != "failed" for finding in findings), findings=tuple(findings))


def ok(check: str, message: str, **details: Any) -> Finding:
    """All is well."""
    return Finding(check=check, verdict="ok", message=message, details=details)


def warning(check: str, message: str, **details: Any) -> Finding:
    """It works, but not as well as it could, or not for long."""
    return Finding(check=check, verdict="warning", message=message, details=details)


def failed(check: str, message: str, **details: Any) -> Finding:
    """Something that rbees needs does not work."""
    return Finding(check=check, verdict="failed", message=message, details=details)


def of_python(version: tuple[int, int, int], path: str, wide: bool) -> Finding:
    """The interpreter. `wide`: it has 64 bits."""
    shown = ".".join(str(part) for part in version)
    if version[:2] < OLDEST_PYTHON:
        return failed("python", f"Python {shown} is too old; make the environment anew with Python 3.11 or later.", path=path)
    if not wide:
        return failed("python", f"Python {shown} has 32 bits, in which no model fits; install one with 64.", path=path)
    return ok("python", f"Python {shown} is fit for rbees.", path=path)


def of_compiler(problem: str | None, *, needed: bool) -> Finding:
    """`problem` is why no C++ program can be built, as a sentence with what to do; `needed`: llama.cpp is still to be built."""
    if problem is None:
        return ok("compiler", "A C++ compiler is here and builds programs.")
    if needed:
        return failed("compiler", problem)
    return warning("compiler", f"{problem} What is installed works without; only to build llama.cpp anew needs it.")


def of_disk(check: str, folder: str, free_bytes: int, shown_free: str) -> Finding:
    """The disk under a folder; `shown_free` is `free_bytes` as people read it."""
    details = {"folder": folder, "free_bytes": free_bytes}
    if free_bytes < LEAST_STATE_BYTES:
        return failed(
            check, f"The disk under {folder} has {shown_free} left; free some space before the databases lack it.", **details
        )
    if free_bytes < GOOD_STATE_BYTES:
        return warning(
            check, f"The disk under {folder} has {shown_free} left, too little for most models; free some space.", **details
        )
    return ok(check, f"The disk under {folder} has {shown_free} left.", **details)


PortState = Literal["free", "ours", "taken", "forbidden", "no such address"]


def of_port(role: str, bind: str, port: int, state: PortState) -> Finding:
    """The port of a daemon. `ours`: a daemon of rbees answers there."""
    details = {"role": role, "bind": bind, "port": port, "state": state}
    match state:
        case "free":
            return ok("ports", f"Port {port} of {bind} is free for {role}.", **details)
        case "ours":
            return ok("ports", f"{role} answers at port {port} of {bind}.", **details)
        case "taken":
            what_to_do = f"end it, or set another `port` in `[{role}]`"
            return failed(
                "ports", f"Another program has port {port} of {bind}, where {role} is to listen; {what_to_do}.", **details
            )
        case "forbidden":
            return failed("ports", f"This user may not listen on port {port}; set another `port` in `[{role}]`.", **details)
        case "no such address":
            return failed("ports", f"This host does not have the address {bind}; correct `bind` in `[{role}]`.", **details)
    assert_never(state)


def of_clock(date: str | None, sent_ms: int, received_ms: int, peer: str) -> Finding:
    """This host's clock beside that of a peer, whose answer carried `date` and came between two readings of our own."""
    try:
        theirs_ms = round(parsedate_to_datetime(date or "").timestamp() * 1000)
    except ValueError:
        return warning("clock", f"{peer} did not say what time it has; look whether both hosts keep time by NTP.")
    # Its second began at `theirs_ms` and is not over; ours is somewhere between sending and receiving.
    least_ms, most_ms = theirs_ms - received_ms, theirs_ms + DATE_STEP_MS - sent_ms
    apart_ms = 0 if least_ms <= 0 <= most_ms else least_ms if least_ms > 0 else most_ms
    details = {"least_ms": least_ms, "most_ms": most_ms}
    if abs(apart_ms) > GOOD_CLOCK_MS:
        side = "behind" if apart_ms > 0 else "ahead of"
        amount = f"{abs(apart_ms) / 1000:.0f} s"
        return warning("clock", f"This host's clock is {amount} {side} that of {peer}; let both keep time by NTP.", **details)
    return ok("clock", f"This host's clock agrees with that of {peer}.", **details)


def of_versions(own: str, peers: Mapping[str, str]) -> Finding:
    """Who runs which version. Hosts are upgraded one at a time, so a difference is no failure."""
    others = {name: version for name, version in peers.items() if version != own}
    if not others:
        names = f"{' and '.join(sorted(peers))} too" if peers else "nobody else was asked"
        return ok("versions", f"This host runs rbees {own}; {names}.", own=own, peers=dict(peers))
    shown = ", ".join(f"{name} runs {version}" for name, version in sorted(others.items()))
    message = f"This host runs rbees {own}, but {shown}; bring all of them to one version, one after the other."
    return warning("versions", message, own=own, peers=dict(peers))
