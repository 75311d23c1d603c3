"""Files that the operator of this host named as models wherever they lie: a small JSON file in the pool's state folder.

Only a person on this host gives names; no request over the network can name a path. Who deletes a model takes its names away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from rbees.protocol.errors import ErrorCode, RbeesError

FILE_NAME: Final = "registered_models.json"


class RegisteredModels:
    """Short names and their files. A damaged list is as good as none, and is replaced with the next name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> Mapping[str, Path]:
        """By name; what no longer exists is among them."""
        try:
            named = msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
        return {name: Path(file) for name, file in named.items() if file.startswith("/")}

    def add(self, name: str, file: Path) -> None:
        """Give `file` a name; another file of this name loses it.

        Raises:
            RbeesError: STORAGE_FULL.
        """
        with self._alone():
            self._write({**self.all(), name: file})

    def remove(self, file: Path) -> bool:
        """Forget a file under all its names; False where it has none. Raises as `add`."""
        with self._alone():
            named = self.all()
            kept = {name: path for name, path in named.items() if path != file}
            if len(kept) < len(named):
                self._write(kept)
        return len(kept) < len(named)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Between reading the list and writing it, nobody else may write: his name would be lost."""
        try:
            with self._path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            message = f"The list of registered models {self._path} cannot be written: {reason}."
            raise RbeesError(ErrorCode.STORAGE_FULL, message) from None

    def _write(self, named: Mapping[str, Path]) -> None:
        draft = self._path.with_suffix(f".{os.getpid()}.new")
        draft.write_bytes(msgspec.json.encode({name: str(path) for name, path in named.items()}))
        os.replace(draft, self._path)
