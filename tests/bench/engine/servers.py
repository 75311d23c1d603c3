"""The servers that are compared, as processes of this bench, each with its way of being asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rbees.clients.workerd import WorkerClient
from rbees.workerd.command import limit_spinning
from tests.bench.engine import models, peer
from tests.bench.engine.load import Ask, Grown
from tests.support.worker_process import WorkerProcess, running_worker

START_S = 120.0
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Settings:
    """What all servers of a comparison are started with."""

    model: Path
    slots: int
    ctx: int
    """Most tokens of one sequence."""

    @property
    def threads(self) -> int:
        """Compute threads: the processors that this process may use."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environ() -> dict[str, str]:
    """The environment of a peer: its threads wait for each other as those of a worker do, so that the comparison is of servers."""
    environ = dict(os.environ)
    limit_spinning(environ)
    return environ


@dataclass(frozen=True)
class Rbees:
    """A worker, asked directly as orcd does."""

    pid: int
    port: int
    headers: dict[str, str]
    host: str = HOST
    path: str = "/execute"
    _numbers: Any = field(default_factory=count)

    def body(self, ask: Ask) -> dict[str, Any]:
        """As `Endpoint.body`."""
        form = None if ask.schema is None else {"type": "json_schema", "schema": ask.schema}
        sampling = {"temperature": ask.temperature, "top_k": ask.top_k, "top_p": ask.top_p, "seed": ask.seed}
        job = {"job_id": f"bench-{next(self._numbers)}", "epoch": 1, "token_ids": ask.prompt, "max_tokens": ask.tokens}
        return {**job, "sampling": {**sampling, "ignore_eos": form is None and not ask.ends}, "response_format": form}

    def grown(self, data: dict[str, Any]) -> Grown | None:
        """As `Endpoint.grown`."""
        assert data["type"] != "error", data
        if data["type"] != "token":
            return None
        return Grown(data["index"] + len(data["token_ids"]), tuple(data["token_ids"]), data["text"])

    def receipt(self, body: dict[str, Any], number: int) -> tuple[str, dict[str, Any]] | None:
        """As `Endpoint.receipt`: the acknowledgement that lets the worker forget the job."""
        return f"/jobs/{body['job_id']}/ack", {"epoch": 1, "seq": number}

    def client(self) -> WorkerClient:
        """As orcd calls it, for what the load generator does not ask."""
        return WorkerClient(f"http://{self.host}:{self.port}", token=self.headers["Authorization"].removeprefix("Bearer "))


@dataclass(frozen=True)
class LlamaServer:
    """llama.cpp's own server, by its native route."""

    pid: int
    port: int
    host: str = HOST
    path: str = "/completion"
    headers: dict[str, str] = field(default_factory=dict)

    def body(self, ask: Ask) -> dict[str, Any]:
        """As `Endpoint.body`."""
        body = {
            "prompt": ask.prompt,
            "n_predict": ask.tokens,
            # A token that ends within a character is in no frame of its stream.
            "stream": not ask.whole,
            "return_tokens": True,
            "temperature": ask.temperature,
            "top_k": ask.top_k,
            "top_p": ask.top_p,
            "min_p": 0.0,
            "seed": ask.seed,
        }
        return {**body, "json_schema": ask.schema} if ask.schema is not None else {**body, "ignore_eos": not ask.ends}

    def grown(self, data: dict[str, Any]) -> Grown | None:
        """As `Endpoint.grown`."""
        assert "error" not in data, data
        return Grown(data["tokens_predicted"], tuple(data.get("tokens", ())), data["content"])

    def receipt(self, body: dict[str, Any], number: int) -> tuple[str, dict[str, Any]] | None:
        """As `Endpoint.receipt`."""
        return None


@dataclass(frozen=True)
class LlamaCppPython:
    """llama-cpp-python's own server: one request at a time. It takes text only, so a prompt may come out a few tokens longer."""

    pid: int
    port: int
    spelling: Callable[[tuple[int, ...]], str]
    """Token ids as text."""
    host: str = HOST
    path: str = "/v1/completions"
    headers: dict[str, str] = field(default_factory=dict)

    def body(self, ask: Ask) -> dict[str, Any]:
        """As `Endpoint.body`."""
        shape = {"temperature": ask.temperature, "top_k": ask.top_k, "top_p": ask.top_p, "min_p": 0.0, "seed": ask.seed}
        return {"prompt": self.spelling(ask.prompt), "max_tokens": ask.tokens, **shape}

    def grown(self, data: dict[str, Any]) -> Grown | None:
        """As `Endpoint.grown`; the whole answer comes at once."""
        return Grown(data["usage"]["completion_tokens"], (), data["choices"][0]["text"])

    def receipt(self, body: dict[str, Any], number: int) -> tuple[str, dict[str, Any]] | None:
        """As `Endpoint.receipt`."""
        return None


@contextlib.asynccontextmanager
async def rbees_worker(settings: Settings, *flags: str) -> AsyncIterator[Rbees]:
    """A running `rbees workerd serve`."""
    with tempfile.TemporaryDirectory() as folder:
        shape = [f"--slots={settings.slots}", f"--ctx={settings.ctx}", "--log-level=warning"]
        async with running_worker(settings.model, Path(folder), *shape, *flags, backend="cpu") as worker:
            await worker.ready()
            port = urlsplit(worker.uri).port
            assert port is not None
            yield Rbees(worker.process.pid, port, worker.headers)
            await _end(worker)


async def _end(worker: WorkerProcess) -> None:
    worker.process.terminate()
    await worker.ended()


@contextlib.asynccontextmanager
async def llama_server(settings: Settings, *flags: str) -> AsyncIterator[LlamaServer]:
    """A running `llama-server`; what is not named here is left at its default."""
    slots = settings.slots
    shape = ["--parallel", str(slots), "--ctx-size", str(slots * settings.ctx), "--threads", str(settings.threads)]
    command = [str(await asyncio.to_thread(peer.program, "llama-server")), "--model", str(settings.model), *shape]
    async with serving([*command, "--host", HOST, *flags], "/health") as (pid, port):
        yield LlamaServer(pid, port)


@contextlib.asynccontextmanager
async def llama_cpp_python(settings: Settings) -> AsyncIterator[LlamaCppPython]:
    """A running `llama_cpp.server`. A request that comes while another runs waits, where by default it would break that off."""
    shape = {"--n_ctx": settings.ctx, "--n_threads": settings.threads, "--n_threads_batch": settings.threads}
    words = [str(word) for pair in shape.items() for word in pair]
    command = [str(await asyncio.to_thread(peer.python_server)), "-m", "llama_cpp.server", "--model", str(settings.model), *words]
    async with serving([*command, "--interrupt_requests", "False", "--host", HOST], "/v1/models") as (pid, port):
        yield LlamaCppPython(pid, port, models.spelling(settings.model))


@contextlib.asynccontextmanager
async def serving(command: list[str], health: str, more_environ: Mapping[str, str] | None = None) -> AsyncIterator[tuple[int, int]]:
    """The process of a server that takes `--port`, and that port, once its health route answers 200; ended by its id."""
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        # A session of its own, as the worker has: Linux may share the processors out by sessions.
        process = await asyncio.create_subprocess_exec(
            *command, "--port", str(port), stdout=log, stderr=log, start_new_session=True, env={**environ(), **(more_environ or {})}
        )
        try:
            async with asyncio.timeout(START_S):
                while not await _answers(port, health):
                    log.seek(0)
                    assert process.returncode is None, log.read()[-2000:].decode(errors="replace")
                    await asyncio.sleep(0.1)
            yield process.pid, port
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _answers(port: int, path: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode())
    status = await reader.readline()
    writer.close()
    return b" 200 " in status


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
