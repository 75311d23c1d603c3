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

import numpy as np

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
    """One source, with the files on the disk of the temporary folders and then in memory."""
    size = (256 if short else 1024) << 20
    made = [*_copies("host.lan_copy", "on this disk", "/tmp", size, 1 if short else 3)]
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 * size:
        made += _copies("host.lan_copy_memory", "in memory", str(MEMORY), size, 1 if short else 3)
    return made


def measure_sources(short: bool) -> list[Row]:
    """Two sources behind links of 20 MB/s each, beside two `curl` that fetch a half each over the same links."""
    with contextlib.ExitStack() as stack:
        size = (64 if short else 512) << 20
        sources = [stack.enter_context(_source("/tmp", size)) for _ in range(2)]
        links = [stack.enter_context(Link(source.url, bytes_per_s=LINK_BYTES_PER_S)) for source in sources]
        host = LanHost(stack.enter_context(Home())).serve()
        sha256, *others = [_sums(source)[0] for source in sources]
        assert others == [sha256]
        peer_s = _seconds(lambda: _halves(sha256, size, [link.url for link in links]))
        rate = size / _seconds(lambda: _download(host, *(link.url for link in links))) / 1e6
    about = (
        f"a model of {size >> 20} MiB from two pools behind links of 20 MB/s each, beside two `curl` with a half each over the same"
    )
    peer = size / peer_s / 1e6
    return [
        Row(
            name="host.lan_two_sources",
            value=rate,
            unit="MB/s",
            peer=peer,
            ratio=rate / peer,
            goal=round(RATE_GOAL / peer, 2),
            least=True,
            holds=rate >= RATE_GOAL,
            about=about,
        )
    ]


def _copies(name: str, where: str, parent: str, size: int, rounds: int) -> Iterator[Row]:
    with _source(parent, size) as source, Home(parent=parent) as home:
        host = LanHost(home).serve()
        sha256, sums = _sums(source)
        taken, peers = [], []
        for turn in range(rounds + 1):
            peer_s = _seconds(lambda: _curl(source, sha256))
            copy_s = _seconds(lambda: _download(host, source.url))
            host.call("DELETE", f"/models/{quote(REF, safe='')}")
            if turn:  # The first one warms up.
                taken.append(size / copy_s / 1e6)
                peers.append(size / peer_s / 1e6)
    copies, peer = Samples(tuple(taken)), Samples(tuple(peers)).median
    first = size / 1e6 / (size / 1e6 / copies.median + sums)
    about = (
        f"a model of {size >> 20} MiB {where} copied from pool to pool, beside `curl` into `sha256sum` of the same file; "
        f"to sum its pieces once took {sums:.1f} s before, and a first copy, which waits for that, is × {first / peer:.2f}"
    )
    yield against(name, copies.median, peer, "MB/s", SHARE_GOAL, about, least=True, spread=copies.spread)


def _halves(sha256: str, size: int, urls: list[str]) -> None:
    spans = [f"0-{size // 2 - 1}", f"{size // 2}-{size - 1}"]
    asking = [
        subprocess.Popen(["curl", "-sf", "-o", os.devnull, "-r", span, f"{url}/models/{sha256}/blob"])
        for span, url in zip(spans, urls, strict=True)
    ]
    assert [process.wait() for process in asking] == [0, 0]


def _sums(source: LanHost) -> tuple[str, float]:
    """Have a source know the sums of the file's pieces: the file's sha256, and how long that took."""
    sha256: str = source.facts(REF)["sha256"]
    return sha256, _seconds(lambda: source.call("GET", f"/models/{sha256}/pieces"))


@contextlib.contextmanager
def _source(parent: str, size: int) -> Iterator[LanHost]:
    """A pool that has a model of this size: a small one, and what nothing reads behind it."""
    with Home(parent=parent) as home:
        host = LanHost(home)
        path = write_tiny_gguf(home.folder / "small.gguf")
        host.cached(REPO, FILE, path.read_bytes())
        target = (host.cache / "models--org--bench-GGUF" / "snapshots" / COMMIT / FILE).resolve()
        drawn = np.random.default_rng(0)
        with target.open("ab") as file:
            while (missing := size - file.tell()) > 0:
                file.write(drawn.bytes(min(missing, 16 << 20)))
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
    command = f"curl -sf {source.url}/models/{sha256}/blob | sha256sum"
    told = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert told.startswith(sha256), told


def _seconds(act: Any) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun
