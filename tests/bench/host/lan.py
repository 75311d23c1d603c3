"""A model from pool to pool over loopback, beside what `curl … | sha256sum` gets of the same daemon; and from two slow sources.

A copy is measured as its user sees it: from the request until the last event, which comes when the file is written and synced,
has its name, and is known to the pool. Its peer writes nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tests.bench.rows import Row, against
from tests.bench.timing import Samples
from tests.support.home import Home
from tests.support.lan_hosts import COMMIT, LanHost
from tests.support.links import Link
from tests.support.raw_http import stream
from tests.support.tiny_gguf import write_tiny_gguf

REPO: Final = "org/bench-GGUF"
FILE: Final = "bench-Q4_K_M.gguf"
REF: Final = f"hf:{REPO}@{COMMIT}::file={FILE}"
MEMORY: Final = Path("/dev/shm")
LINK_BYTES_PER_S: Final = 20e6
SHARE_GOAL: Final = 0.7
RATE_GOAL: Final = 36.0


def measure(short: bool) -> list[Row]:
    """The file on the disk of the temporary folders, then in memory; then two links of 20 MB/s."""
    size = (256 if short else 1024) << 20
    made = [*_copies("host.lan_copy", "on this disk", "/tmp", size, 1 if short else 5)]
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 * size:
        made += _copies("host.lan_copy_memory", "in memory", str(MEMORY), size, 1 if short else 5)
    return [*made, *_from_two((64 if short else 512) << 20)]


def _copies(name: str, where: str, parent: str, size: int, rounds: int) -> Iterator[Row]:
    with _source(parent, size) as source, Home(parent=parent) as home:
        host = LanHost(home).serve()
        sums = _seconds(lambda: source.call("GET", f"/models/{source.facts(REF)['sha256']}/pieces"))
        sha256 = source.facts(REF)["sha256"]
        taken, peers = [], []
        for turn in range(rounds + 1):
            peer_s = _seconds(lambda: _curl(source, sha256))
            copy_s = _seconds(lambda: _download(host, source.url))
            host.call("DELETE", f"/models/{quote(REF, safe='')}")
            if turn:  # The first one warms up.
                taken.append(size / copy_s / 1e6)
                peers.append(size / peer_s / 1e6)
    about = (
        f"a model of {size >> 20} MiB {where} copied from pool to pool, beside `curl … | sha256sum` of the same file; "
        f"to sum its pieces once took {sums:.1f} s before"
    )
    copies = Samples(tuple(taken))
    yield against(name, copies.median, Samples(tuple(peers)).median, "MB/s", SHARE_GOAL, about, least=True, spread=copies.spread)


def _from_two(size: int) -> list[Row]:
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(_source("/tmp", size)) for _ in range(2)]
        links = [stack.enter_context(Link(source.url, bytes_per_s=LINK_BYTES_PER_S)) for source in sources]
        host = LanHost(stack.enter_context(Home())).serve()
        for source in sources:
            source.call("GET", f"/models/{source.facts(REF)['sha256']}/pieces")
        rate = size / _seconds(lambda: _download(host, *(link.url for link in links))) / 1e6
    about = f"a model of {size >> 20} MiB from two pools behind links of 20 MB/s each"
    return [
        Row(name="host.lan_two_sources", value=rate, unit="MB/s", goal=RATE_GOAL, least=True, holds=rate >= RATE_GOAL, about=about)
    ]


@contextlib.contextmanager
def _source(parent: str, size: int) -> Iterator[LanHost]:
    """A pool that has a model of this size: a small one, and what nothing reads behind it."""
    with Home(parent=parent) as home:
        host = LanHost(home)
        path = write_tiny_gguf(home.folder / "small.gguf")
        host.cached(REPO, FILE, path.read_bytes())
        target = (host.cache / "models--org--bench-GGUF" / "snapshots" / COMMIT / FILE).resolve()
        with target.open("ab") as file:
            while (missing := size - file.tell()) > 0:
                file.write(os.urandom(min(missing, 16 << 20)))
        # What lies under the name of a sum must have it.
        summed = subprocess.run(["sha256sum", str(target)], capture_output=True, text=True, check=True).stdout.split()[0]
        link = host.cache / "models--org--bench-GGUF" / "snapshots" / COMMIT / FILE
        target.rename(target.with_name(summed))
        link.unlink()
        link.symlink_to(target.with_name(summed))
        yield host.serve()


def _download(host: LanHost, *sources: str) -> dict[str, Any]:
    with stream("POST", f"{host.url}/models/download", {"model_ref": REF, "sources": list(sources)}, timeout_s=600) as frames:
        last = [frame for frame in frames if frame.event][-1]
    assert last.event == "done", last.raw
    assert last.data["fetched_bytes"] > 0
    done: dict[str, Any] = last.data
    return done


def _curl(source: LanHost, sha256: str) -> None:
    command = f"curl -s {source.url}/models/{sha256}/blob | sha256sum"
    told = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert told.startswith(sha256), told


def _seconds(act: Any) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun
