"""The examples of the repository, run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


def example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example from the root of the repository, as its first lines say."""
    command = [sys.executable] if name.endswith(".py") else ["sh"]
    return subprocess.run(
        [*command, f"examples/{name}", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
