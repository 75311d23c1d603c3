"""Files that the operator of this host named as models wherever they lie: a small JSON file in the pool's state folder.

Only a person on this host gives names; no request over the network can name a path. Who deletes a model takes its names away.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rbees.host import state_list

FILE_NAME: Final = "registered_models.json"
_WHAT: Final = "registered models"


class RegisteredModels:
    """Short names and their files. A damaged list is as good as none, and is replaced with the next name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> Mapping[str, Path]:
        """By name; what no longer exists is among them."""
        named = state_list.read(self._path, dict[str, str]) or {}
        return {name: Path(file) for name, file in named.items() if file.startswith("/")}

    def add(self, name: str, file: Path) -> None:
        """Give `file` a name; another file of this name loses it.

        Raises:
            RbeesError: STORAGE_FULL.
        """
        with state_list.alone(self._path, _WHAT):
            self._write({**self.all(), name: file})

    def remove(self, file: Path) -> bool:
        """Forget a file under all its names; False where it has none. Raises as `add`."""
        with state_list.alone(self._path, _WHAT):
            named = self.all()
            kept = {name: path for name, path in named.items() if path != file}
            if len(kept) < len(named):
                self._write(kept)
        return len(kept) < len(named)

    def _write(self, named: Mapping[str, Path]) -> None:
        state_list.write(self._path, {name: str(path) for name, path in named.items()})
