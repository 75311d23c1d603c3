"""`python -m tests.bench.host.loading FILE WAY`: load a model as a worker does and print what it took, in a process of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import msgspec
import psutil

from rbees.service import logs
from rbees.workerd.engine.llama import load
from rbees.workerd.engine.llama.library import open_library
from rbees.workerd.engine.llama.log import LibraryLog
from rbees.workerd.loading import load_backend
from tests.support.fit_error import SERVINGS, spec_of


def main() -> None:
    """Bytes of all buffers, as the library writes them, and by how much the process grew."""
    path, how = Path(sys.argv[1]), sys.argv[2]
    logs.configure("workerd", "error", "json")
    made: list[LibraryLog] = []

    class Recording(LibraryLog):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    open_library(LibraryLog())
    serving = SERVINGS[how]
    # Weights that are mapped would be counted twice: where they lie in the file and where they are put in order.
    spec = replace(spec_of(path, serving), options=msgspec.structs.replace(serving.options, load_mode="none"))
    before_bytes = psutil.Process().memory_info().rss
    with patch.object(load, "LibraryLog", Recording):
        backend = load_backend(spec, lambda _: True)
    grown_bytes = psutil.Process().memory_info().rss - before_bytes
    backend.close()
    print(json.dumps({"buffers": sum(made[0].footprint.buffers.values()), "grown": grown_bytes}))


if __name__ == "__main__":
    main()
