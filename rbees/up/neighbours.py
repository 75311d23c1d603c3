"""A configured orcd or poold on this machine: home mode keeps out of its way, and says where it is.

Two orchestrators side by side would be a trap: what is typed next would reach the one or the other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import folders, settings
from rbees.service.clock import Clock
from rbees.service.leash import GRACE_S
from rbees.service.lock import ProcessLock
from rbees.service.role_settings import ROLES

LOCKS: Final[dict[str, str]] = {"orcd": "orcd.lock", "poold": "lock"}
"""The file that a daemon locks in the state folder of its role."""
LOOK_S: Final = 0.1


def refuse_beside_service(base: Path) -> None:
    """Return where no configured daemon runs on the usual state folders, which lie in `base`, or on those that settings name.

    Raises:
        RbeesError: ALREADY_RUNNING, with the address the daemon noted.
    """
    for role, name in LOCKS.items():
        for folder in {base / role, *_configured_folder(role)}:
            holder = lock_holder(folder / name)
            if holder is not None:
                message = (
                    f"`rbees {role} serve` already runs here ({holder}); use it (`llorch --help`), or stop it before `rbees up`."
                )
                raise RbeesError(ErrorCode.ALREADY_RUNNING, message, role=role, holder=holder)


async def wait_for_predecessors(home: Path, clock: Clock, note: Callable[[str], None]) -> None:
    """Until the daemons of an earlier `rbees up` on this home have ended: where that one was killed, they drain on their own.

    Raises:
        RbeesError: ALREADY_RUNNING, where one does not end although its leash must have ended it.
    """
    until = clock.monotonic() + GRACE_S + LOOK_S
    for role, name in LOCKS.items():
        while holder := lock_holder(home / role / name):
            if clock.monotonic() >= until:
                message = f"{role} of an earlier `rbees up` does not end ({holder}); end that process first."
                raise RbeesError(ErrorCode.ALREADY_RUNNING, message, role=role, holder=holder)
            note("waiting for the daemons of an earlier `rbees up` to end")
            await clock.sleep(LOOK_S)


def lock_holder(path: Path) -> str | None:
    """What the holder of a lock notes about itself; None where nobody holds it."""
    if not path.exists():
        return None
    lock = ProcessLock(path)
    try:
        with lock:
            pass
    except RbeesError as error:
        return str(error.details.get("holder") or "somewhere")
    return None


def _configured_folder(role: str) -> tuple[Path, ...]:
    try:
        configured: str | None = getattr(settings.load(role, ROLES[role]).values, "state_dir", None)
        return (folders.absolute(configured),) if configured else ()
    except RbeesError:
        # Settings that no daemon could start with are no reason for home mode, which ignores them, not to start.
        return ()
