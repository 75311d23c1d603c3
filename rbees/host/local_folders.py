"""Folders of people's own into which `--local-dir` has put something: what was not finished there is found again through them.

They are no model folders, nothing in them is served, and they are searched for nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rbees.host import state_list

FILE_NAME: Final = "local_folders.json"
MOST: Final = 200
"""The oldest are forgotten first."""
_WHAT: Final = "folders that models were put into"


class LocalFolders:
    """The list of them, in the pool's state folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> tuple[Path, ...]:
        """The last one first."""
        noted = state_list.read(self._path, list[str]) or []
        return tuple(Path(folder) for folder in noted if folder.startswith("/"))

    def note(self, folders: Iterable[Path]) -> None:
        """Remember some, which need not exist yet, and forget those of before that are gone.

        Raises:
            RbeesError: STORAGE_FULL.
        """
        new = tuple(folders)
        with state_list.alone(self._path, _WHAT):
            before = self.all()
            kept = tuple(dict.fromkeys((*new, *(folder for folder in before if folder.is_dir()))))[:MOST]
            if kept != before:
                state_list.write(self._path, [str(folder) for folder in kept])
