"""What clients and orcd say to each other about jobs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

import msgspec

from rbees.protocol.chat import Messages, TemplateOptions, ToolCall, ToolChoice, Tools, check_chat
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import FinishReason, Timings, Usage
from rbees.protocol.response_format import ResponseFormat, check_calls, check_response_format
from rbees.protocol.sampling import Sampling, Seed, SeedlessSampling, check_sampling
from rbees.protocol.vectors import Embeddings, EmbedRequest, Ranking, RerankRequest

Kind = Literal["generate", "embed", "rerank"]
"""What a job makes: text, embeddings, or an order of documents."""
Priority = Literal["interactive", "batch"]
JobStatus = Literal["queued", "dispatched", "running", "completed", "failed", "cancelled"]
StatusFilter = Literal[JobStatus, "unfinished"]
"""`unfinished`: queued, dispatched or running, seen at one moment; one list of each could miss a job that moves between them."""
TERMINAL_STATUSES: Final[frozenset[JobStatus]] = frozenset({"completed", "failed", "cancelled"})

DEFAULT_TIMEOUT_MS: Final = 300_000
MAX_TIMEOUT_MS: Final = 1_800_000
MAX_DEADLINE_MS: Final = 30 * 86_400_000
MAX_TOKENS: Final = 1_000_000
MAX_CHOICES: Final = 16
MAX_PROMPT_IDS: Final = 1_000_000
PromptIds = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(min_length=1, max_length=MAX_PROMPT_IDS)]
_OF_ALL_KINDS: Final = ("kind", "model", "priority", "session_id", "timeout_ms", "deadline_ms", "cancel_on_disconnect")
"""Fields that say nothing about what is made."""


class JobRequest(SeedlessSampling, frozen=True, kw_only=True):
    """`POST /v2/tasks`. To `generate`: exactly one of `prompt` (raw text), `messages` (the model's template is applied) and
    `token_ids` (taken as they are).

    To `embed` or `rerank`: the field of that name, and nothing that only shapes text.
    """

    private: ClassVar[frozenset[str]] = SeedlessSampling.private | {
        "prompt",
        "messages",
        "token_ids",
        "tools",
        "template_options",
        "response_format",
        "embed",
        "rerank",
    }
    kind: Kind = "generate"
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=1024, description="Alias, `hf:` or `file:` reference.")]
    prompt: str | None = None
    messages: Messages | None = None
    token_ids: Annotated[PromptIds, msgspec.Meta(description="A prompt that is tokenized already.")] | None = None
    tools: Tools = ()
    tool_choice: ToolChoice = "auto"
    """`none`: the model is not told of the tools, and nothing it writes is a call. `required`, or a tool's name: it must call."""
    template_options: TemplateOptions = {}
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS, description="Default: what the context leaves.")] | None = None
    fit_context: bool = False
    """`max_tokens` may be more than the context leaves: the answer then ends where the context does, instead of being refused."""
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES, description="Answers to make, each with draws of its own.")] = 1
    seed: Annotated[Seed, msgspec.Meta(description="Chosen and recorded if absent.")] | None = None
    response_format: Annotated[ResponseFormat, msgspec.Meta(description="The form that the answer must have.")] | None = None
    deterministic: bool = False
    """Decode this job alone, so that its text does not depend on what else the worker does."""
    priority: Priority = "interactive"
    session_id: (
        Annotated[
            str, msgspec.Meta(min_length=1, max_length=128, description="A name for jobs that belong together; recorded and shown.")
        ]
        | None
    ) = None
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_TIMEOUT_MS, description="From first dispatch.")] = DEFAULT_TIMEOUT_MS
    deadline_ms: (
        Annotated[
            int,
            msgspec.Meta(ge=1, le=MAX_DEADLINE_MS, description="From acceptance; refused at once where it cannot be done by then."),
        ]
        | None
    ) = None
    cancel_on_disconnect: bool = False
    embed: EmbedRequest | None = None
    rerank: RerankRequest | None = None

    def sampling(self, seed: int) -> Sampling:
        """The sampling part of this job, with the seed that was recorded for it."""
        return Sampling(seed=seed, **{name: getattr(self, name) for name in SeedlessSampling.__struct_fields__})


def check_job(job: JobRequest) -> None:
    """What the types cannot say.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    if job.kind != "generate":
        _check_without_text(job)
        return
    if job.embed is not None or job.rerank is not None:
        field = "embed" if job.embed is not None else "rerank"
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"`{field}` is for jobs of that kind; send `kind`: `{field}` too.", field=field)
    if sum(part is not None for part in (job.prompt, job.messages, job.token_ids)) != 1:
        raise RbeesError(ErrorCode.INVALID_REQUEST, "Send exactly one of `prompt`, `messages` and `token_ids`.", field="prompt")
    if job.prompt == "":
        raise RbeesError(ErrorCode.INVALID_REQUEST, "`prompt` is empty; send some text.", field="prompt")
    check_chat(job.messages, job.tools, job.tool_choice, job.template_options)
    check_response_format(job.response_format, ignore_eos=job.ignore_eos)
    check_calls(job.tools, job.tool_choice, job.response_format, ignore_eos=job.ignore_eos)
    check_sampling(job)


def _check_without_text(job: JobRequest) -> None:
    """A job that makes no text asks for one thing and says nothing about text."""
    if getattr(job, job.kind) is None:
        message = f"A job of kind `{job.kind}` needs the field `{job.kind}`."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field=job.kind)
    plain = msgspec.structs.replace(
        JobRequest(model=job.model), **{name: getattr(job, name) for name in (*_OF_ALL_KINDS, job.kind)}
    )
    for field in job.__struct_fields__:
        if getattr(job, field) != getattr(plain, field):
            message = f"`{field}` does not fit a job of kind `{job.kind}`; leave it out."
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, field=field)


class JobAccepted(Message, frozen=True, kw_only=True):
    """The 202: the job is durable."""

    job_id: str
    status: JobStatus
    queue_position: int
    events_url: str
    seed: int


class AttemptView(Message, frozen=True, kw_only=True):
    """One try of a job on one worker."""

    epoch: int
    worker_id: str
    pool_id: str
    started_at_ms: int
    ended_at_ms: int | None = None
    outcome: Literal["running", "completed", "failed", "cancelled", "lost"] = "running"
    reason: str | None = None
    """How it ended, where that was not well."""
    why: str | None = None
    """Why that worker was chosen."""


class ChoiceOutput(Message, frozen=True, kw_only=True):
    """One choice, once the job has ended."""

    private: ClassVar[frozenset[str]] = frozenset({"text", "reasoning", "tool_calls"})
    choice: int = 0
    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason | None = None


Output = tuple[ChoiceOutput, ...] | Embeddings | Ranking


class JobView(Message, frozen=True, kw_only=True):
    """`GET /v2/tasks/{id}`; a listing leaves `attempts` and `output` empty."""

    job_id: str
    status: JobStatus
    kind: Kind = "generate"
    model: str
    model_sha256: str | None = None
    priority: Priority
    session_id: str | None = None
    seed: int
    queue_position: int | None = None
    waiting_for: str | None = None
    """While queued: one sentence that says what it waits for."""
    created_at_ms: int
    deadline_at_ms: int | None = None
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    last_seq: int = 0
    attempts: tuple[AttemptView, ...] = ()
    output: Output | None = None
    """Once it has ended: the answers, or what a job of another kind made."""
    usage: Usage | None = None
    timings: Timings | None = None
    error: ErrorBody | None = None


class JobList(Message, frozen=True, kw_only=True):
    """`GET /v2/tasks`, newest first."""

    jobs: tuple[JobView, ...]
    next_cursor: str | None = None
    """Send it as `cursor` for the next page; absent on the last."""


def check_after(after: int, last_seq: int) -> None:
    """Refuse to go on behind an event that a job which has ended never had.

    Raises:
        RbeesError: INVALID_REQUEST with the range.
    """
    if after > last_seq:
        message = f"`after` must lie between 0 and {last_seq}, the last event of this job, which has ended."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="after", last_seq=last_seq)


class CancelAnswer(Message, frozen=True, kw_only=True):
    """`DELETE /v2/tasks/{id}`: 202 while the cancellation takes effect, 200 if the job had already ended."""

    job_id: str
    status: JobStatus
