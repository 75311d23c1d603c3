"""A host with a real pool daemon and real scripted workers, and an orchestrator that only listens."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.fake_orcd import FakeOrcd
from tests.support.home import Daemon, Finished, Home, free_port, wait_until
from tests.support.raw_http import Answer, request
from tests.support.scripted_models import write_script


@dataclass
class PoolHost:
    """One host. The daemon keeps its port over restarts, as a configured one would."""

    home: Home
    orcd: FakeOrcd
    port: int = field(default_factory=free_port)
    daemon: Daemon | None = None

    @property
    def models(self) -> Path:
        """The folder of its models."""
        folder = self.home.folder / "models"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def state(self) -> Path:
        """The daemon's state folder."""
        return self.home.folder / "poold"

    def serve(self, *flags: str, **environ: str) -> Daemon:
        """Start the daemon and wait until it has taken stock."""
        options = ["--port", str(self.port), "--model-dirs", str(self.models), "--orcd-url", self.orcd.url, "--pool-id", "host"]
        daemon = self.daemon = self.home.start("poold", "serve", *options, *flags, environ=environ)
        daemon.url = f"http://127.0.0.1:{self.port}"
        wait_until(lambda: "daemon_ready" in daemon.said, daemon, "become ready")
        return daemon

    def configure(self, **settings: object) -> None:
        """Write what `serve` says by flags into the settings file, which commands without a daemon go by, and more."""
        own = {"port": self.port, "model_dirs": [str(self.models)], **settings}
        lines = [f"{name} = {json.dumps(value)}" for name, value in own.items()]
        (self.home.folder / "config.toml").write_text("\n".join(["[poold]", *lines, ""]))

    def tool(self, *words: str, timeout_s: float = 60.0) -> Finished:
        """Run `rbees-pool worker …` as a user of this host."""
        return self.home.run("worker", *words, program="rbees-pool", timeout_s=timeout_s)

    def listed(self) -> dict[str, dict[str, Any]]:
        """What `worker list` says, by id."""
        done = self.tool("list", "--json")
        assert done.returncode == 0, done.said
        return {facts["worker_id"]: facts for facts in done.json["workers"]}

    def script(self, name: str = "bees", **fields: object) -> str:
        """Write a scripted model; its reference."""
        return f"file:{write_script(self.models, name, **fields)}"

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One call to the daemon."""
        return request(method, f"http://127.0.0.1:{self.port}{path}", body, headers=headers)

    def spawn(self, model_ref: str = "bees", **more: Any) -> str:
        """Start a worker; its id."""
        answer = self.call("POST", "/workers/spawn", {"model_ref": model_ref, **more})
        assert answer.status == 202, answer.body
        worker_id: str = answer.json["worker_id"]
        return worker_id

    def refusal(self, model_ref: str = "bees", **more: Any) -> tuple[int, dict[str, Any]]:
        """Have a spawn refused: status and error."""
        answer = self.call("POST", "/workers/spawn", {"model_ref": model_ref, **more})
        assert answer.status >= 400, answer.body
        return answer.status, answer.error

    def worker(self, worker_id: str) -> dict[str, Any]:
        """The worker's facts."""
        facts: dict[str, Any] = self.call("GET", f"/workers/{worker_id}").json
        return facts

    def until(self, worker_id: str, *states: str) -> dict[str, Any]:
        """The worker's facts, once it is in one of the states."""
        wait_until(lambda: self.worker(worker_id)["state"] in states, self.daemon, f"be {' or '.join(states)}")
        return self.worker(worker_id)

    def ready(self, model_ref: str = "bees", **more: Any) -> dict[str, Any]:
        """Start a worker and wait until it is ready; its facts."""
        return self.until(self.spawn(model_ref, **more), "ready")

    def log_of(self, worker_id: str) -> str:
        """What the worker wrote."""
        return (self.state / "workers" / f"{worker_id}.log").read_text()

    def lose_state(self) -> None:
        """Delete all that the daemon has written."""
        shutil.rmtree(self.state)


def is_gone(pid: int) -> bool:
    """True once the process has ended; one that waits to be reaped by a stranger counts as ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def kill(pid: int) -> None:
    """End one process as a crash would."""
    psutil.Process(pid).send_signal(signal.SIGKILL)
