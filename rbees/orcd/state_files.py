"""What lies in orcd's state folder, by name."""

from __future__ import annotations

from typing import Final

DATABASE: Final = "orcd.db"
LOCK: Final = "orcd.lock"
EVENTS: Final = "events"
FILES: Final = "files"
"""Folder of what clients upload and batches write, each under its id."""
