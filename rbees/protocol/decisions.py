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
    """Until the attempt begins: loading, making room, others that run or come first. None where nobody can say."""
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
    """The longest that a job can wait for its turn: (R + (F w + 2 (F - 1) c + B) s) / m.

    If attempts take as long as expected, the workers that serve stay and serve this model alone, no failed attempt comes back, and
    there comes no job of a further session, larger, or with more answers than those that wait. For a batch job, interactive jobs
    count that wait already; those accepted within the ageing time come before it besides. For an interactive job, batch jobs
    count that wait already and are old enough by then.
    """

    running_s: float
    """R: what attempts are expected to take still, together, in the slots that count."""
    own_work: float
    """w: of the session's own jobs before it, about in tokens to write."""
    sessions: int
    """F: with jobs for this model waiting at this priority."""
    largest_work: float
    """c: of one job since none waited last."""
    other_work: float = 0.0
    """B: of jobs that wait and may come before it by their priority or age."""
    seconds_per_work: float
    """s: in one slot, at most."""
    slots: int
    """m: of the model's workers, without those that may lie idle or serve nobody while the job waits."""
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
    """While it waits for its turn on workers that are there, and nobody waits who must run alone."""
    done_in_s: float | None = None
    """When it is expected to be done, all waiting included; absent where nobody can say."""
    is_guess: bool = False
    """True where no answer of this model was ever seen: all expectations follow from the size of its file, and may be far off."""
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
    is_guess: bool = False
    """As in `Explanation`."""
    candidates: tuple[Candidate, ...] = ()
    error: ErrorBody | None = None
