"""Why a job is where it is, and what would become of one: what orcd tells of its decisions."""

from __future__ import annotations

from typing import Literal

from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorBody
from rbees.protocol.jobs import AttemptView, JobStatus
from rbees.protocol.workers import Backend

Outlook = Literal["runs", "starts_worker", "waits", "refused", "ended"]
"""`runs`: a worker has it, or takes it at once. `starts_worker`: one has to load the model first. `waits`: for what `reason` says.
`refused`: it would be answered with `error`, or end with it. `ended`: it is over."""


class Candidate(Message, frozen=True, kw_only=True):
    """A place where a job could run, or why it cannot. Seconds are expectations, from now."""

    pool_id: str
    devices: tuple[str, ...]
    """Several share the model."""
    gpu_layers: int | None = None
    """Set where only so many layers would fit the accelerator and the others stay in main memory."""
    backend: Backend | None = None
    worker_id: str | None = None
    """None for a worker that would have to be started."""
    free_slots: int | None = None
    slots: int | None = None
    starts_in_s: float | None = None
    """Until the attempt begins: loading, making room, others' attempts. None where nobody can say."""
    takes_s: float | None = None
    """The attempt itself."""
    saved_s: float = 0.0
    """What cached beginnings of the prompt save of it."""
    done_in_s: float | None = None
    """What candidates are compared by, unless there is a `score`."""
    score: float | None = None
    """What the cluster's own policy says: the lowest wins."""
    needed_bytes: int | None = None
    """Memory that a new worker is expected to take on its devices."""
    free_bytes: int | None = None
    refusal: str | None = None
    """Why the job does not go there now."""
    chosen: bool = False


class WaitBound(Message, frozen=True, kw_only=True):
    """The longest that a job can wait for its turn, if attempts take as long as expected, no worker is lost and no further session,
    or for a batch job no further interactive job, comes: (R + (F w + 2 (F - 1) c) s) / m."""

    running_s: float
    """R: what attempts on the model's workers are expected to take still, together."""
    own_work: float
    """w: of the session's own jobs before it, about in tokens to write."""
    sessions: int
    """F: with jobs for this model waiting at this priority."""
    largest_work: float
    """c: of one job since none waited last."""
    seconds_per_work: float
    """s: in one slot."""
    slots: int
    """m: of the model's workers."""
    waits_at_most_s: float


class Explanation(Message, frozen=True, kw_only=True):
    """`GET /v2/tasks/{id}/explain`."""

    job_id: str
    status: JobStatus
    outlook: Outlook
    reason: str
    """One sentence."""
    ahead: int | None = None
    """How many jobs for the same model come before it, while it waits."""
    bound: WaitBound | None = None
    """While it waits for its turn on workers that are there."""
    candidates: tuple[Candidate, ...] = ()
    """The best first, as things stand now. Empty once it has ended."""
    attempts: tuple[AttemptView, ...] = ()
    """What has been tried, and why there."""


class Plan(Message, frozen=True, kw_only=True):
    """`POST /v2/plan`: what would become of this job if it came now. Nothing is accepted, started or changed."""

    outlook: Outlook
    reason: str
    model_sha256: str | None = None
    ahead: int | None = None
    done_in_s: float | None = None
    """When it is expected to be done, all waiting included; absent where nobody can say."""
    candidates: tuple[Candidate, ...] = ()
    error: ErrorBody | None = None
