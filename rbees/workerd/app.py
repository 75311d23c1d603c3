"""A worker's life: listen, load, report ready, serve, drain. Everything it holds is put together here."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from msgspec.structs import replace

from rbees import __version__
from rbees.clients.http import HttpClient
from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.protocol.workers import ControlInfo, LoraAdapter, WorkerHealth, WorkerReady, WorkerState
from rbees.service import logs
from rbees.service.auth import BearerAuth, Token, check_bind, tls_client_context, tls_server_context
from rbees.service.clock import Clock
from rbees.service.metrics import Metrics
from rbees.service.web import Server, build_app
from rbees.workerd.config import DRAIN_TIMEOUT_S, WorkerConfig
from rbees.workerd.control import ControlSocket
from rbees.workerd.engine.backend import Backend, LoadAbandoned, LoadSpec
from rbees.workerd.engine.draft_model import DraftModel
from rbees.workerd.engine.embedding import EmbeddingEngine
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine_thread import EngineThread
from rbees.workerd.forms import Forms
from rbees.workerd.jobs import Attempts
from rbees.workerd.loading import in_passing_thread, load_backend, load_draft_model, spill_bytes
from rbees.workerd.prompts import Prompts
from rbees.workerd.routes import routes
from rbees.workerd.sampling_needs import SamplingNeeds
from rbees.workerd.template_process import TemplateProcess
from rbees.workerd.vectors import VectorDesk, capabilities_of

CALLBACK_TRIES_S = 10.0
MAX_BODY_BYTES = 64 * 1024 * 1024
"""Larger than orcd's own limit: a continued job also brings its generated tokens."""
MAX_CACHED_PREFIXES = 1_024
UNPROVEN = "Send this worker's own secret as `Authorization: Bearer …`: it is what the worker was given by `--secret-fd`."
WRONGLY_PROVEN = (
    "The token is not this worker's secret, which is its own and no cluster token; read the file given to `--secret-fd`."
)
_RETRY_LOADING_S = 1.0
_LAST_WRITES_S = 2.0
_DRAIN_LOOK_S = 0.02
_NAMED = 20
"""Of what draining waits for, so many are named in the log."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything that exists once the model is loaded."""

    backend: Backend
    draft_model: DraftModel | None
    thread: EngineThread
    attempts: Attempts
    vectors: VectorDesk
    prompts: Prompts
    template: TemplateProcess | None
    forms: Forms
    load_ms: float

    @property
    def step(self) -> int:
        """The engine's step counter."""
        return self.thread.step

    @property
    def awaited(self) -> tuple[str, ...]:
        """What somebody still waits for, in words."""
        pending = self.vectors.pending
        return (*self.attempts.awaited, *((f"requests for vectors: {pending}",) if pending else ()))

    @property
    def memory_bytes(self) -> int:
        """Memory that all of it holds on the device."""
        own = self.backend.memory_bytes()
        # In main memory what the process holds was counted, and that is of both.
        if self.draft_model is None or self.backend.facts.memory_architecture == "ram":
            return own
        return own + self.draft_model.memory_bytes()


class Worker:
    """One process, one model."""

    def __init__(self, config: WorkerConfig, secret: str, clock: Clock, stopping: asyncio.Event) -> None:
        self._config = config
        self._secret = secret
        self._clock = clock
        self._stopping = stopping
        self._state: WorkerState = "starting"
        self._progress = 0.0
        self._model: LoadedModel | None = None
        self._server = self._make_server()
        self._control = ControlSocket(config.runtime_dir, config.worker_id, self.control_info)

    async def run(self) -> int:
        """Live until told to stop; the exit code.

        Raises:
            RbeesError: what kept the worker from serving.
        """
        await self._server.start()
        try:
            await self._control.start()
            logs.logger().info("listening", action="worker_listen", worker_id=self._config.worker_id, url=self._server.url)
            keeping = asyncio.create_task(self._control.keep(self._clock))
            try:
                return await self._load_and_serve()
            finally:
                keeping.cancel()
        finally:
            await self._close()

    # --- what the routes see ---

    def serving(self) -> LoadedModel:
        """The loaded model.

        Raises:
            RbeesError: MODEL_LOADING
        """
        if self._model is None:
            raise RbeesError(
                ErrorCode.MODEL_LOADING,
                f"The model is {self._progress:.0%} loaded; try again in {_RETRY_LOADING_S:g} s.",
                retry_after_s=_RETRY_LOADING_S,
                load_progress=self._progress,
            )
        return self._model

    def accepting(self) -> LoadedModel:
        """The loaded model, for new work.

        Raises:
            RbeesError: MODEL_LOADING, DRAINING
        """
        if self._stopping.is_set():
            raise RbeesError(ErrorCode.DRAINING, "This worker is shutting down and takes no new work; send it elsewhere.")
        return self.serving()

    def shut_down(self) -> None:
        """Begin to drain."""
        self._stopping.set()

    async def health(self, asked: frozenset[str] | None) -> WorkerHealth:
        """Facts and figures; of the cached prefixes those asked about, or the newest of all."""
        cached = await self._model.thread.cached_prefixes() if self._model else ()
        told = cached[:MAX_CACHED_PREFIXES] if asked is None else tuple(name for name in cached if name in asked)
        return replace(self._figures(), cached_prefixes=told)

    def _figures(self) -> WorkerHealth:
        """Those of the model are absent while it loads."""
        config, model = self._config, self._model
        facts = model.backend.facts if model else None
        load = model.thread.load if model else None
        return WorkerHealth(
            worker_id=config.worker_id,
            nonce=config.nonce,
            state=self._state,
            load_progress=self._progress,
            model_ref=config.model_ref,
            architecture=facts.architecture if facts else None,
            quantization=facts.quantization if facts else None,
            tokenizer=facts.tokenizer if facts else None,
            vocabulary_size=facts.vocabulary_size if facts else None,
            slots_total=config.slots,
            slots_used=load.slots_used if load else 0,
            ctx=facts.ctx if facts else config.ctx,
            kv_layout=facts.layout if facts and facts.generates else None,
            kv_cells_total=load.cells_total if load and facts and facts.generates else 0,
            kv_cells_used=load.cells_used if load else 0,
            kv_cells_kept=load.cells_kept if load else 0,
            spilled_bytes=load.spilled_bytes if load else 0,
            waiting=load.waiting if load else 0,
            memory_bytes=model.memory_bytes if model else 0,
            step=model.step if model else 0,
            prefill_tokens_per_second=load.prefill_tokens_per_second if load else None,
            decode_tokens_per_second=load.decode_tokens_per_second if load else None,
            drafted_tokens_total=load.drafted_tokens_total if load else 0,
            accepted_tokens_total=load.accepted_tokens_total if load else 0,
            load_ms=model.load_ms if model else None,
            safe_mode=config.safe_mode,
            adapters=tuple(
                LoraAdapter(name=os.path.basename(adapter.path), sha256=adapter.sha256, scale=adapter.scale)
                for adapter in config.adapters
            ),
            capabilities=capabilities_of(model.backend) if model else (),
        )

    def control_info(self) -> ControlInfo:
        """What the control socket tells this machine's user."""
        return ControlInfo(
            worker_id=self._config.worker_id,
            nonce=self._config.nonce,
            pid=os.getpid(),
            uri=self._server.url,
            secret=self._secret,
            state=self._state,
            ready=self._ready(self._model) if self._model else None,
        )

    # --- its life ---

    async def _load_and_serve(self) -> int:
        self._state = "loading"
        try:
            self._model = await self._load()
        except LoadAbandoned:
            return ExitCode.OK
        self._state = "ready"
        sweeping = asyncio.create_task(self._model.attempts.sweep_forever())
        try:
            await self._report_ready(self._model)
            await self._stopping.wait()
            self._state = "draining"
            await self._drain(self._model)
        finally:
            sweeping.cancel()
        return ExitCode.OK

    async def _load(self) -> LoadedModel:
        config, began = self._config, time.monotonic()
        spec = LoadSpec(
            path=str(config.model),
            backend=config.backend,
            device=config.device,
            slots=config.slots,
            ctx=config.ctx,
            cells=config.kv_cells,
            threads=config.threads,
            safe_mode=config.safe_mode,
            options=config.options,
            adapters=config.adapters,
            pooling=config.pooling,
        )
        backend = await in_passing_thread(load_backend, spec, self._on_progress)
        draft_model = await self._load_draft_model(backend, spec)
        load_ms = round((time.monotonic() - began) * 1000, 3)
        facts = backend.facts
        logs.logger().info("model loaded", action="model_loaded", load_ms=load_ms, ctx=facts.ctx, cells=facts.cells)
        if facts.ctx < config.ctx:
            sentence = "the context is shorter than asked for: the model was trained for no more"
            logs.logger().warning(sentence, action="ctx_lowered", asked=config.ctx, ctx=facts.ctx)
        template = None
        if facts.chat_template is not None:
            template = TemplateProcess(facts.chat_template, bos_text=facts.bos_text, eos_text=facts.eos_text)
        prompts, forms = Prompts(backend, template), Forms(backend)
        embedding = EmbeddingEngine(backend.embedder, now=time.monotonic) if backend.embedder else None
        thread = EngineThread(self._make_engine(backend, draft_model), backend, embedding)
        vectors = VectorDesk(backend, thread, model_ref=config.model_ref)
        attempts = Attempts(
            engine=thread,
            prompts=prompts,
            forms=forms,
            needs=SamplingNeeds(backend),
            vectors=vectors,
            clock=self._clock,
            ctx=facts.ctx,
            worker_id=config.worker_id,
            model_ref=config.model_ref,
        )
        thread.start(attempts.deliver)
        return LoadedModel(backend, draft_model, thread, attempts, vectors, prompts, template, forms, load_ms)

    async def _load_draft_model(self, model: Backend, spec: LoadSpec) -> DraftModel | None:
        if self._config.draft_model is None:
            return None
        path = str(self._config.draft_model.absolute())
        try:
            return await in_passing_thread(load_draft_model, path, model, spec, lambda _: not self._stopping.is_set())
        except (RbeesError, LoadAbandoned):
            model.close()
            raise

    def _make_engine(self, backend: Backend, draft_model: DraftModel | None) -> Engine:
        return Engine(
            backend,
            slots=self._config.slots,
            now=time.monotonic,
            speculates=self._config.speculation == "auto",
            draft_model=draft_model,
            draft_tokens=self._config.draft_tokens,
            spill_bytes=spill_bytes(self._config.cache_ram),
        )

    def _on_progress(self, share: float) -> bool:
        self._progress = share
        return not self._stopping.is_set()

    async def _report_ready(self, model: LoadedModel) -> None:
        """Call back the parent that started this worker.

        Raises:
            RbeesError: POOL_UNREACHABLE once it did not answer for ten seconds.
        """
        if self._config.callback_url is None:
            return
        parts = urlsplit(self._config.callback_url)
        trust = tls_client_context(self._config.tls_ca_file) if parts.scheme == "https" else None
        client = HttpClient(
            f"{parts.scheme}://{parts.netloc}", token=self._secret, ssl=trust, unreachable=ErrorCode.POOL_UNREACHABLE
        )
        give_up_at = self._clock.monotonic() + CALLBACK_TRIES_S
        delay_s = 0.1
        async with client:
            while not self._stopping.is_set():
                try:
                    await client.call("POST", parts.path, body=self._ready(model), response=None, timeout_s=5)
                    return
                except RbeesError as error:
                    if error.http_status < 500 or self._clock.monotonic() + delay_s > give_up_at:
                        sentence = "The pool that started this worker did not take its report, so the worker exits."
                        raise RbeesError(ErrorCode.POOL_UNREACHABLE, sentence) from error
                await self._clock.sleep(delay_s)
                delay_s *= 2

    def _ready(self, model: LoadedModel) -> WorkerReady:
        config, facts = self._config, model.backend.facts
        return WorkerReady(
            worker_id=config.worker_id,
            nonce=config.nonce,
            pid=os.getpid(),
            model_ref=config.model_ref,
            model_sha256=config.model_sha256,
            uri=self._server.url,
            secret=self._secret,
            backend=config.backend,
            memory_bytes=model.memory_bytes,
            memory_architecture=facts.memory_architecture,
            capabilities=capabilities_of(model.backend),
            slots=config.slots,
            ctx=facts.ctx,
            load_ms=model.load_ms,
            safe_mode=config.safe_mode,
        )

    async def _drain(self, model: LoadedModel) -> None:
        """Let what runs finish and be read. What is left at the limit is cut off without a last event: its job is not
        over, and orcd, seeing the connection break, has another worker go on with it."""
        deadline = self._clock.monotonic() + DRAIN_TIMEOUT_S
        if awaited := model.awaited:
            logs.logger().info("draining", action="drain", at_most_s=DRAIN_TIMEOUT_S, waits_for=awaited[:_NAMED])
        while (awaited := model.awaited) and self._clock.monotonic() < deadline:
            await self._clock.sleep(_DRAIN_LOOK_S)
        if awaited:
            logs.logger().warning(
                "draining took too long", action="drain_timeout", running=model.attempts.running, waited_for=awaited[:_NAMED]
            )

    async def _close(self) -> None:
        self._state = "stopped"
        await self._control.stop()
        await self._server.stop()
        if self._model is not None:
            await self._model.attempts.close()
            await self._model.thread.stop()
            await self._model.forms.close()
            if self._model.template is not None:
                await self._model.template.close()
            # A prompt or a form may still be with the tokenizer, in a thread that cannot be cancelled.
            await asyncio.get_running_loop().shutdown_default_executor()
            if self._model.draft_model is not None:
                self._model.draft_model.close()
            self._model.backend.close()

    def _make_server(self) -> Server:
        config = self._config
        token = Token(self._secret)
        tls = tls_server_context(config.tls_cert_file, config.tls_key_file)
        check_bind(config.bind, token, tls, config.insecure_lan)
        app = build_app(
            role="workerd",
            version=__version__,
            routes=routes(self),
            authenticator=BearerAuth(token, missing=UNPROVEN, wrong=WRONGLY_PROVEN),
            metrics=self._make_metrics(),
            readiness=lambda: {"model": None if self._state == "ready" else f"The worker is {self._state}."},
            max_body_bytes=MAX_BODY_BYTES,
            bind=config.bind,
            allowed_hosts=(config.allowed_host,) if config.allowed_host else (),
        )
        return Server(app, bind=config.bind, port=config.port, ssl=tls, drain_timeout_s=_LAST_WRITES_S)

    def _make_metrics(self) -> Metrics:
        metrics = Metrics("workerd")
        for name, about in (
            ("slots_used", "Sequences that hold a slot."),
            ("kv_cells_used", "KV cells that running sequences hold."),
            ("kv_cells_kept", "KV cells that are kept for prompts that may come."),
            ("spilled_bytes", "Main memory that holds prompts which the KV memory had no room for."),
            ("waiting", "Sequences that wait for a slot."),
        ):
            metrics.gauge(f"worker_{name}", about).set_function(partial(self._figure, name))
        for name, about in (
            ("drafted_tokens_total", "Tokens that were computed on a guess."),
            ("accepted_tokens_total", "Tokens that were computed on a guess that was right."),
        ):
            metrics.count_elsewhere(f"worker_{name}", about, partial(self._figure, name))
        return metrics

    def _figure(self, name: str) -> float:
        return float(getattr(self._figures(), name))
