"""Somebody at a terminal of a host who fetches models from a hub on loopback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import pytest

from rbees.host.checksums import Checksums
from rbees.host.fit import Room
from rbees.host.hub_cache import HubCache
from rbees.host.model_candidates import Places
from rbees.host.model_download import Capacity, Download, download, hub_reference
from rbees.host.model_files import ModelFolders
from rbees.host.model_store import ModelStore
from rbees.protocol.downloads import DownloadEvent
from rbees.protocol.errors import RbeesError
from rbees.service.clock import SystemClock
from tests.support.home import Daemon, Finished, Home, free_port
from tests.support.host_facts import device
from tests.support.hub import Hub

TOKEN: Final = "hf_" + "canary" * 6
"""Must never be seen in anything that is written."""


class User:
    """Their commands, and where the shared cache of their own is."""

    def __init__(self, home: Home, hub: Hub) -> None:
        self.home, self.hub = home, hub
        self.cache = home.folder / "hf" / "hub"
        # A port of its own, so that no daemon of somebody else is taken for this host's.
        port = str(free_port())
        self.environ = {"HF_HOME": str(home.folder / "hf"), "HF_ENDPOINT": hub.url, "RBEES_POOLD_PORT": port}

    def run(self, *words: str, **environ: str) -> Finished:
        return self.home.run("models", *words, program="rbees-pool", environ={**self.environ, **environ}, timeout_s=120)

    def download(self, *words: str, **environ: str) -> Finished:
        return self.run("download", *words, **environ)

    def fetched(self, *words: str, **environ: str) -> list[dict[str, Any]]:
        done = self.download(*words, "--json", **environ)
        assert done.returncode == 0, done.said
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start(self, *words: str, **environ: str) -> Daemon:
        return self.home.start("models", "download", *words, "--json", program="rbees-pool", environ={**self.environ, **environ})

    async def events(
        self, ref: str, quantization: str | None = None, free_bytes: int = 1 << 40, environ: Mapping[str, str] | None = None
    ) -> list[DownloadEvent]:
        """A download by the very functions that the commands use, without a command: it starts one process less."""
        cache = HubCache(self.cache)
        store = ModelStore(Places({}, ModelFolders(()), cache), Checksums(self.home.folder / "sums.json"))
        capacity = Capacity([Room(device("cpu", free=free_bytes, total=1 << 40), 0, 0, 0)], {}, 2048, 4)
        wish = Download(hub_reference(ref, {})[0], quantization)
        own = self.home.environ(**{**self.environ, **(environ or {})})
        return [event async for event in download(wish, store, cache, capacity, own, SystemClock())]

    async def refused(
        self, ref: str, quantization: str | None = None, free_bytes: int = 1 << 40, environ: Mapping[str, str] | None = None
    ) -> RbeesError:
        """What such a download ends with."""
        with pytest.raises(RbeesError) as caught:
            await self.events(ref, quantization, free_bytes, environ)
        return caught.value

    @property
    def blobs(self) -> list[str]:
        return sorted(path.name for path in self.cache.glob("models--*/blobs/*"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refusal(done: Finished, code: str, exit_code: int) -> str:
    assert (done.returncode, f"[{code}]" in done.stderr) == (exit_code, True), done.said
    assert "Traceback" not in done.said
    assert TOKEN not in done.said
    return done.stderr
