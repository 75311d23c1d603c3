"""PURE: the figures by which the scheduler decides, in one frozen object. Settings are turned into it by the shell."""

from __future__ import annotations

from dataclasses import dataclass

from rbees.protocol.pools import ModelFacts


@dataclass(frozen=True, slots=True)
class Policy:
    """All durations are seconds of the monotonic clock."""

    suspect_after_s: float = 6.0
    """Silence after which a pool gets no new work."""
    lost_after_s: float = 15.0
    """Silence after which a pool's jobs go on elsewhere; also how long a recovered attempt waits for its pool."""
    silence_hold_s: float = 60.0
    """Longest time for which the silence of most pools at once is taken as orcd's own fault."""
    silence_least_pools: int = 3
    """With fewer pools than this, silence is never taken as orcd's own fault."""
    settle_s: float = 10.0
    """After the start and after each new pool: no job is refused as unknown or impossible, since others may still come back."""
    retries: int = 5
    """Failed attempts that a job survives."""
    retry_first_delay_s: float = 1.0
    retry_longest_delay_s: float = 60.0
    deaths_alone: int = 2
    """Workers that a job may kill while it is alone on them before it is given up."""
    deaths_before_alone: int = 1
    """Deaths of workers in company after which a job must run alone."""
    proof_tokens: int = 8
    """So many tokens alone, beyond where its worker died, clear a job that has seen no other death."""
    batch_ages_after_s: float = 60.0
    """A batch job ranks like an interactive one accepted so much later."""
    preempt_above_s: float = 2.0
    """An interactive job that would wait longer for a slot takes that of a batch job."""
    worker_idle_s: float = 1_800.0
    """A worker without work for so long is stopped."""
    swap_after_s: float = 10.0
    """How long a job waits for room before a busy worker of another model takes no more work for its sake."""
    swap_at_latest_s: float = 60.0
    """The same where jobs that came earlier wait for the other model, once it has had the room for so long."""
    load_failures: int = 5
    """Failed loads of a model on one pool within `load_window_s` after which the pool is left alone for as long."""
    load_window_s: float = 600.0
    spawn_patience_s: float = 60.0
    """A worker that its pool has not listed for so long after the command is given up."""
    stop_patience_s: float = 10.0
    """A worker that is still listed so long after it was told to stop is told again."""
    unreachable_strikes: int = 3
    """Broken connections in a row after which a worker that its pool still lists is replaced."""
    doubt_s: float = 1.0
    """A report clears doubts about a worker only when they are older: a younger one may have been on its way already."""
    noted_jobs: int = 64
    """How many jobs from the head of a model's queue are told what they wait for; the others can ask."""

    replica_idle_s: float = 300.0
    """The same for a worker beside others of its model."""
    pinned_models: frozenset[str] = frozenset()
    """References, aliases or hashes of models whose workers are never stopped to make room or for want of work."""

    downloadable: frozenset[str] = frozenset()
    """Short names of models that a pool can fetch; they decide nothing, and are told where a job names one that nobody holds."""

    def pins(self, facts: ModelFacts) -> bool:
        """Whether the model is one of `pinned_models`."""
        return not self.pinned_models.isdisjoint((facts.ref, facts.sha256, facts.file_name, *facts.aliases))

    @property
    def quiet_after_s(self) -> float:
        """Silence of a pool, its heartbeat being overdue, after which a broken stream from it says nothing about the worker."""
        return self.suspect_after_s / 2
