"""What orcd, pools and workers say to each other about one worker."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

import msgspec

from rbees.protocol.chat import Messages, TemplateOptions, ToolChoice, Tools
from rbees.protocol.codec import Message
from rbees.protocol.device_options import KvLayout
from rbees.protocol.jobs import MAX_CHOICES
from rbees.protocol.prefix_chain import PrefixChain
from rbees.protocol.response_format import ResponseFormat
from rbees.protocol.sampling import Sampling
from rbees.protocol.vectors import Capability, EmbedRequest, RerankRequest

Backend = Literal["cuda", "metal", "cpu", "scripted"]
MemoryArchitecture = Literal["vram", "unified", "ram"]
WorkerState = Literal["starting", "loading", "ready", "draining", "stopped", "failed"]
MOST: Final = 1 << 60
"""What no machine has of anything. JSON knows larger numbers, and not every form in which orcd keeps them does."""
Amount = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
"""Bytes, milliseconds and counts in what others report."""


class GivenChoice(Message, frozen=True, kw_only=True):
    """The beginning of one answer, empty where none of it was made yet."""

    private: ClassVar[frozenset[str]] = frozenset({"generated_token_ids"})
    generated_token_ids: tuple[int, ...] = ()


class ExecuteRequest(Message, frozen=True, kw_only=True):
    """`POST /execute`: exactly one of `prompt`, `messages`, `token_ids`, `embed` and `rerank`.

    Of the last two comes a result instead of tokens; they start over where an attempt was lost.

    `generated_token_ids` were produced by earlier attempts: they are replayed, count as completion tokens, and are not
    emitted again. Where several answers are asked for, `choices` holds one entry for each instead.
    """

    private: ClassVar[frozenset[str]] = frozenset(
        {
            "prompt",
            "messages",
            "tools",
            "template_options",
            "token_ids",
            "generated_token_ids",
            "choices",
            "sampling",
            "response_format",
            "prefix_chain",
            "embed",
            "rerank",
        }
    )
    job_id: str
    epoch: Annotated[int, msgspec.Meta(ge=1)]
    prompt: str | None = None
    messages: Messages | None = None
    tools: Tools = ()
    tool_choice: ToolChoice = "auto"
    template_options: TemplateOptions = {}
    token_ids: tuple[int, ...] | None = None
    generated_token_ids: tuple[int, ...] = ()
    choices: Annotated[tuple[GivenChoice, ...], msgspec.Meta(max_length=MAX_CHOICES)] = ()
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    fit_context: bool = False
    """Where the context leaves less than `max_tokens`, the answer ends with it."""
    sampling: Sampling = Sampling()
    response_format: ResponseFormat | None = None
    deterministic: bool = False
    prefix_chain: PrefixChain = ()
    """Names of the prompt's beginnings, by which the worker can be asked which of them it has cached."""
    embed: EmbedRequest | None = None
    rerank: RerankRequest | None = None


class Beat(Message, frozen=True, kw_only=True, tag_field="type", tag="beat"):
    """Sent every second on each job's stream, unnumbered: the engine's step counter. A counter that stands still is a hang."""

    step: int


class AckRequest(Message, frozen=True, kw_only=True):
    """`POST /jobs/{id}/ack`: everything up to `seq` is journaled and may be forgotten."""

    epoch: int
    seq: int


class CancelRequest(Message, frozen=True, kw_only=True):
    """`POST /cancel`; idempotent. Without an epoch every attempt of the job is cancelled."""

    job_id: str
    epoch: int | None = None


class TokenizeRequest(Message, frozen=True, kw_only=True):
    """`POST /tokenize`: exactly one of `prompt` and `messages`."""

    private: ClassVar[frozenset[str]] = frozenset({"prompt", "messages", "tools", "template_options"})
    prompt: str | None = None
    messages: Messages | None = None
    tools: Tools = ()
    tool_choice: ToolChoice = "auto"
    template_options: TemplateOptions = {}


class TokenizeAnswer(Message, frozen=True, kw_only=True):
    """The prompt's token ids, as `/execute` would compute them."""

    private: ClassVar[frozenset[str]] = frozenset({"token_ids"})
    token_ids: tuple[int, ...]


class WorkerReady(Message, frozen=True, kw_only=True):
    """The worker's call-back once its model is loaded, and its answer on the control socket."""

    private: ClassVar[frozenset[str]] = frozenset({"secret"})
    worker_id: str
    nonce: str
    """Tells this process from a later one with the same pid."""
    pid: Amount
    model_ref: str
    model_sha256: str | None
    uri: str
    secret: str
    """Bearer token of the worker's routes."""
    backend: Backend
    memory_bytes: Amount
    memory_architecture: MemoryArchitecture
    capabilities: tuple[Capability, ...]
    """What the model can do, as it was loaded."""
    slots: Amount
    ctx: Amount
    load_ms: float
    safe_mode: bool = False


class LoraAdapter(Message, frozen=True, kw_only=True):
    """An adapter that a worker computes with. Workers of one model whose adapters or scales differ answer differently."""

    name: str
    """Of its file."""
    sha256: str
    scale: float


class WorkerHealth(Message, frozen=True, kw_only=True):
    """`GET /health`, from the first moment the port is open."""

    private: ClassVar[frozenset[str]] = frozenset({"cached_prefixes"})
    worker_id: str
    nonce: str
    state: WorkerState
    load_progress: float
    model_ref: str
    architecture: str | None = None
    quantization: str | None = None
    tokenizer: str | None = None
    """The kind of tokenizer, as the model's file names it."""
    vocabulary_size: int | None = None
    slots_total: int
    slots_used: int
    ctx: int
    kv_layout: KvLayout | None = None
    """How KV cells are divided among sequences, whether that was asked for or chosen. None while the model loads, and where it has
    none because it makes no text."""
    kv_cells_total: int
    kv_cells_used: int
    """Held by sequences that run."""
    kv_cells_kept: int = 0
    """Held for prompts that may come, and given up for sequences that need them."""
    spilled_bytes: int = 0
    """Main memory that holds prompts which the KV memory had no room for."""
    waiting: int
    memory_bytes: int
    step: int
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    drafted_tokens_total: int = 0
    """Tokens that were computed on a guess since the worker began."""
    accepted_tokens_total: int = 0
    """Of these, how many were right."""
    load_ms: float | None = None
    safe_mode: bool = False
    adapters: tuple[LoraAdapter, ...] = ()
    cached_prefixes: tuple[str, ...] = ()
    """Hashes of `prefix_chain`s whose tokens are cached, those of the newest jobs first."""
    capabilities: tuple[Capability, ...] = ()
    """Once the model is loaded; as in `WorkerReady`."""


class ControlInfo(Message, frozen=True, kw_only=True):
    """The answer on the control socket: everything that a restarted pool daemon needs to adopt the worker."""

    private: ClassVar[frozenset[str]] = frozenset({"secret"})
    worker_id: str
    nonce: str
    pid: int
    uri: str
    secret: str
    state: WorkerState
    ready: WorkerReady | None = None
