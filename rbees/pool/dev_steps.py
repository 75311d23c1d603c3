"""The steps by which a host is prepared: each knows whether it is done already, says what it would do, and can do it.

A step that is done changes nothing, so all of them may be taken again at any time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from rbees.protocol.errors import ErrorCode, RbeesError

State = Literal["done", "to do", "made", "left out"]

COMMAND_LIMIT_S: Final = 120.0
BUILD_LIMIT_S: Final = 3_600.0


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """A step as `--json` prints it."""

    step: str
    state: State
    about: str
    """What it would do or has done; for one that is left out, why."""


@dataclass(frozen=True)
class Step:
    """One thing to prepare. Without `act` it is done, or cannot be done here."""

    name: str
    about: str
    act: Callable[[], None] | None = None
    is_left_out: bool = False

    def view(self, *, acted: bool = False) -> StepView:
        """How it stands; `acted`: it was to be done and was."""
        waiting: State = "made" if acted else "to do"
        state: State = waiting if self.act else "left out" if self.is_left_out else "done"
        return StepView(step=self.name, state=state, about=self.about)


def done(name: str, about: str) -> Step:
    """Nothing is left to do."""
    return Step(name, about)


def left_out(name: str, reason: str) -> Step:
    """It cannot be done here; `reason` says what to do."""
    return Step(name, reason, is_left_out=True)


def make_folder(name: str, folder: Path, make: Callable[[Path], object]) -> Step:
    """A folder, made by `make`."""
    if folder.is_dir():
        return done(name, f"the folder {folder}")
    return Step(name, f"make the folder {folder}", lambda: _written(folder, lambda: make(folder)))


def write_file(name: str, path: Path, text: str, mode: int = 0o644) -> Step:
    """A file of this content; one that differs is replaced."""
    if _read(path) == text:
        return done(name, f"the file {path}")
    verb = "replace" if os.path.lexists(path) else "write"
    return Step(name, f"{verb} {path}", lambda: _written(path, lambda: _write(path, text, mode)))


def run(words: Sequence[str], *, environ: Mapping[str, str] | None = None, limit_s: float = COMMAND_LIMIT_S) -> None:
    """Run a program to its end; what it writes goes to stderr, as our own stdout is for data.

    Raises:
        RbeesError: CONFIGURATION, where it fails; BACKEND_UNAVAILABLE, where it is not here.
    """
    shown = " ".join(words)
    try:
        status = subprocess.run(
            words, env=environ, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), timeout=limit_s, check=False
        ).returncode
    except FileNotFoundError:
        raise RbeesError(ErrorCode.BACKEND_UNAVAILABLE, f"The program {words[0]} is not installed here.") from None
    except subprocess.TimeoutExpired:
        raise RbeesError(ErrorCode.CONFIGURATION, f"`{shown}` did not come to an end in {limit_s:.0f} s.") from None
    if status:
        raise RbeesError(ErrorCode.CONFIGURATION, f"`{shown}` failed with exit code {status}; above stands what it wrote.")


def says(*words: str) -> str:
    """The first word that a program prints, whatever its exit code; empty where it is not here."""
    if shutil.which(words[0]) is None:
        return ""
    try:
        answer = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return (answer.stdout.decode("utf-8", "replace").split() or [""])[0]


def _written(path: Path, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        code = ErrorCode.FORBIDDEN if isinstance(error, PermissionError) else ErrorCode.CONFIGURATION
        raise RbeesError(code, f"{path} cannot be written: {reason}.", path=str(path)) from None


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # In one step, so that nobody reads half a file and one that is in use is never cut short.
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(mode)
    fresh.replace(path)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
