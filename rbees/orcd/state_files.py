"""What lies in orcd's state folder, by name."""

from __future__ import annotations

from typing import Final

DATABASE: Final = "orcd.db"
LOCK: Final = "orcd.lock"
EVENTS: Final = "events"
