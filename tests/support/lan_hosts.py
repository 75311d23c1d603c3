"""Hosts of one LAN on loopback: each with a home, a cache and a pool daemon of its own, and none that reaches a hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.home import Daemon, Finished, Home, free_port, wait_until
from tests.support.raw_http import Answer, request

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = "http://127.0.0.1:9"


class LanHost:
    """One of them."""

    def __init__(self, home: Home, **environ: str) -> None:
        self.home = home
        self.cache = home.folder / "hf" / "hub"
        self.models = home.folder / "given"
        self.models.mkdir()
        self.port = free_port()
        self.environ = {
            "HF_HOME": str(home.folder / "hf"),
            "HF_ENDPOINT": NOWHERE,
            "RBEES_POOLD_PORT": str(self.port),
            "RBEES_POOLD_MODEL_DIRS": str(self.models),
            **environ,
        }
        self.poold: Daemon | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, **environ: str) -> LanHost:
        """Start the daemon and wait until it has taken stock."""
        self.poold = self.home.serve_poold(self.port, environ={**self.environ, **environ})
        wait_until(lambda: self.poold is None or "daemon_ready" in self.poold.said, self.poold, "become ready")
        return self

    def cached(self, repository: str, file: str, content: bytes, commit: str = COMMIT) -> str:
        """Put a file into its cache as the hub's own tools would; its reference."""
        folder = self.cache / f"models--{repository.replace('/', '--')}"
        blob, name = folder / "blobs" / sha256(content), folder / "snapshots" / commit / file
        for path in (blob, name, folder / "refs" / "main"):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        name.symlink_to(blob)
        (folder / "refs" / "main").write_text(commit)
        return f"hf:{repository}@{commit}::file={file}"

    def call(self, method: str, path: str, **headers: str) -> Answer:
        return request(method, f"{self.url}{path}", headers={name.replace("_", "-"): value for name, value in headers.items()})

    def facts(self, name: str) -> dict[str, Any]:
        """What the daemon says of a model, once it knows it."""
        found = wait_until(lambda: self._facts(name), self.poold, f"know {name}")
        assert found is not None
        return found

    def _facts(self, name: str) -> dict[str, Any] | None:
        found: list[dict[str, Any]] = self.call("GET", "/models").json["models"]
        return next((facts for facts in found if name in (facts["ref"], *facts["aliases"])), None)

    def offer(self, name: str) -> Answer:
        return self.call("GET", f"/models/{quote(name, safe='')}/offer")

    def run(self, *words: str, **environ: str) -> Finished:
        return self.home.run("models", *words, program="rbees-pool", environ={**self._own(), **environ}, timeout_s=120)

    def _own(self) -> dict[str, str]:
        """The environment of a command: one that said where the hub is would mean itself and not the daemon."""
        return {name: value for name, value in self.environ.items() if name != "HF_ENDPOINT" or self.poold is None}

    def fetched(self, name: str, *sources: str, more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """The events of a download that succeeds."""
        done = self.run("download", name, *_from(sources), *more, "--json")
        assert done.returncode == 0, done.said
        return [json.loads(line) for line in done.stdout.splitlines()]

    def begin(self, name: str, *sources: str) -> Daemon:
        """A download that goes on."""
        return self.home.start("models", "download", name, *_from(sources), "--json", program="rbees-pool", environ=self._own())

    def start(self, name: str, *sources: str) -> Daemon:
        """The same, once a part has come."""
        started = self.begin(name, *sources)
        wait_until(lambda: re.search(r'"done_bytes":[1-9]', started.stdout), started, "fetch a part")
        return started

    @property
    def blobs(self) -> list[str]:
        return sorted(path.name for path in self.cache.glob("models--*/blobs/*"))


def _from(sources: tuple[str, ...]) -> list[str]:
    return [word for url in sources for word in ("--from", url)]


def events_of(daemon: Daemon) -> list[dict[str, Any]]:
    """What a download with `--json` has told so far."""
    return [json.loads(line) for line in daemon.stdout.splitlines() if line.startswith("{") and line.endswith("}")]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def spoil(path: Path) -> None:
    """Change a byte in the middle so that neither size nor time nor inode tells."""
    before = path.stat()
    with path.open("rb+") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)[0]
        file.seek(before.st_size // 2)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
