"""The state folder that this host's pool daemon keeps, or would keep: where it lies, and who holds it now."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rbees.service import folders, settings
from rbees.service.lock import holder_of
from rbees.service.role_settings import PooldSettings

LOCK: Final = "lock"
"""The file that a pool daemon locks for as long as it runs."""
_URL: Final = re.compile(r"https?://\S+$")


@dataclass(frozen=True, slots=True)
class OwnState:
    """This host's settings for pool daemons, and the folder."""

    settings: PooldSettings
    folder: Path

    def daemon_runs(self) -> bool:
        """Whether a daemon holds the folder."""
        return holder_of(self.folder / LOCK) is not None

    def daemon_url(self) -> str | None:
        """Where that daemon says it listens; None where none runs, or where it does not listen yet."""
        found = _URL.search(holder_of(self.folder / LOCK) or "")
        return found.group() if found else None


def own_state() -> OwnState:
    """As the settings name it.

    Raises:
        RbeesError: CONFIGURATION, for settings or a folder that cannot be used.
    """
    own = settings.load("poold", PooldSettings).values
    return OwnState(own, folders.state_folder("poold", own.state_dir))
