"""A daemon of rbees, started so that it differs from the installed one in what no setting says: `python -m … KIND … COMMAND …`.

`rule NAME COMMAND …` runs the command with a rival's rules in place of the scheduler's (`tests/simulation/rivals.py`). `host
COMMAND …` runs it on a host of invented hardware: a device of `DEVICE_BYTES`, of which the pool's workers take what their models
are said to take. Scripts of one name count as copies of one model there, although each says how fast its own host is.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from unittest import mock

from rbees.host import model_store, models_here
from rbees.host.checksums import Checksums
from rbees.host.model_facts import facts
from rbees.host.model_files import SCRIPTED_SUFFIX
from rbees.host.process_table import ProcessTable
from rbees.poold import app
from rbees.protocol.pools import Device, ModelFacts
from tests.simulation import rivals
from tests.simulation.fleet import DEVICE_BYTES, MODELS

SIZES: Final = {f"{model.ref}{SCRIPTED_SUFFIX}": model.size_bytes for model in MODELS}


class InventedMemory:
    """Measures a device that nobody but the workers of one pool uses."""

    name = "invented"

    def __init__(self, table: ProcessTable) -> None:
        self._table = table

    def measure(self) -> tuple[Device, ...]:
        """See `Source`."""
        taken = sum(record.reserved_bytes for record in self._table.load())
        return (
            Device(
                device_id="cpu",
                backend="cpu",
                name="invented",
                memory_architecture="ram",
                total_bytes=DEVICE_BYTES,
                free_bytes=DEVICE_BYTES - taken,
                measured_at_ms=0,
            ),
        )


class NamesAsChecksums(Checksums):
    """What makes a model the same on two hosts is the name of its file."""

    def known(self, path: Path) -> str | None:
        """See `Checksums`."""
        return sha256(path.name.encode()).hexdigest()


def _sized(*shape: Any, **said: Any) -> ModelFacts:
    return facts(*shape, **{**said, "size_bytes": SIZES.get(said["file_name"], said["size_bytes"])})


@contextmanager
def invented_host(state_dir: Path) -> Iterator[None]:
    """Within this, poold finds the invented hardware; `state_dir` is that of its settings."""
    source = InventedMemory(ProcessTable(state_dir / "workers"))
    with (
        mock.patch.object(app, "sources_of_this_host", return_value=(source,)),
        mock.patch.object(models_here, "Checksums", NamesAsChecksums),
        mock.patch.object(model_store, "facts", _sized),
    ):
        yield


def main() -> None:
    """Become the command."""
    kind, *words = sys.argv[1:]
    if kind == "rule":
        name, *words = words
        changed = rivals.in_force(rivals.RIVALS[name]())
    else:
        changed = invented_host(Path(os.environ["RBEES_POOLD_STATE_DIR"]))
    sys.argv = words
    with changed:
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
