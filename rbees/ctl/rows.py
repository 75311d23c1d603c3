"""What orcd answers, as rows and pairs of text. Knows no terminal and reads no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from rbees.protocol.events import FinishReason
from rbees.protocol.jobs import AttemptView, JobView
from rbees.protocol.pools import Device, ModelFacts, ModelView, PoolView, WorkerFacts
from rbees.terminal.quantities import bytes_text, count_text, duration_text

Pair = tuple[str, str]


def job_row(job: JobView, now_ms: int) -> tuple[str, ...]:
    """A job in one line: id, status, model, age, completion tokens, what there is to say."""
    tokens = str(job.usage.completion_tokens) if job.usage else ""
    return job.job_id, job.status, job.model, age_text(job.created_at_ms, now_ms), tokens, _about(job)


def job_pairs(job: JobView, now_ms: int) -> list[Pair]:
    """A job in full, but for its output."""
    pairs = [
        ("job", job.job_id),
        ("status", job.status),
        ("kind", job.kind if job.kind != "generate" else ""),
        ("model", job.model),
        ("sha256", job.model_sha256 or ""),
        ("priority", job.priority),
        ("session", job.session_id or ""),
        ("seed", str(job.seed)),
        ("created", f"{moment_text(job.created_at_ms)}, {age_text(job.created_at_ms, now_ms)} ago"),
        ("deadline", moment_text(job.deadline_at_ms)),
        ("started", moment_text(job.started_at_ms)),
        ("ended", moment_text(job.ended_at_ms)),
        ("events", str(job.last_seq)),
        ("about", _about(job)),
    ]
    if job.output and isinstance(job.output, tuple):
        pairs.append(("finish", "; ".join(_finish(choice.finish_reason) for choice in job.output)))
    if job.usage:
        usage = job.usage
        counted = f"{usage.prompt_tokens} prompt ({usage.cached_tokens} cached), {usage.completion_tokens} completion"
        pairs.append(("tokens", counted))
    if job.timings and job.timings.total_ms is not None:
        pairs.append(("took", duration_text(job.timings.total_ms / 1000)))
    pairs += [(f"attempt {attempt.epoch}", attempt_text(attempt)) for attempt in job.attempts]
    return [(name, value) for name, value in pairs if value]


def pool_row(pool: PoolView) -> tuple[str, ...]:
    """A pool in one line: id, state, endpoint, devices, models, workers, age of its last heartbeat."""
    return (
        pool.pool_id,
        f"{pool.state}, drained" if pool.drains else pool.state,
        pool.endpoint,
        devices_text(pool.devices),
        str(len(pool.models)),
        str(len(pool.workers)),
        duration_text(pool.last_heartbeat_age_ms / 1000),
    )


def devices_text(devices: Sequence[Device]) -> str:
    """Which devices there are; several of one kind are counted."""
    kinds = Counter(device.backend for device in devices)
    names = {device.backend: device.device_id for device in devices}
    return ", ".join(names[kind] if count == 1 else f"{count} {kind}" for kind, count in kinds.items())


def device_row(pool_id: str, device: Device) -> tuple[str, ...]:
    """A device in one line: pool, id, name, memory architecture, free, total, health."""
    health = "healthy" if device.healthy else (device.problem or "unhealthy")
    free, total = bytes_text(device.free_bytes), bytes_text(device.total_bytes)
    return pool_id, device.device_id, device.name, device.memory_architecture, free, total, health


def worker_row(pool_id: str, worker: WorkerFacts) -> tuple[str, ...]:
    """A worker in one line: pool, id, state, model, backend, slots, context per sequence, memory."""
    state = f"loading {worker.load_progress:.0%}" if worker.state == "loading" else worker.state
    safe = " (safe mode)" if worker.safe_mode else ""
    memory = bytes_text(worker.seen_bytes)
    return pool_id, worker.worker_id, state + safe, worker.model_ref, worker.backend, str(worker.slots), str(worker.ctx), memory


def model_row(model: ModelView) -> tuple[str, ...]:
    """A model in one line: names, abilities, architecture, parameters, quantisation, context, size, pools, ready workers."""
    facts = model.facts
    return (
        model_name(facts),
        ", ".join(facts.capabilities),
        facts.architecture,
        count_text(facts.parameters),
        facts.quantization,
        str(facts.context_length),
        bytes_text(facts.size_bytes),
        ", ".join(model.pools),
        str(model.ready_workers),
    )


def model_name(facts: ModelFacts) -> str:
    """How lists call a model: by its short names, where it has any."""
    # A reference to a hub that leaves the commit open says less than the one with it.
    return ", ".join(name for name in facts.aliases if not name.startswith("hf:")) or facts.ref


def age_text(then_ms: int, now_ms: int) -> str:
    """How long ago `then_ms` was; clocks of two machines may disagree, nothing is younger than now."""
    return duration_text(max(0, now_ms - then_ms) / 1000)


def moment_text(unix_ms: int | None) -> str:
    """A moment in UTC to the second, or nothing."""
    return "" if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _about(job: JobView) -> str:
    if job.error:
        return f"{job.error.code}: {job.error.message}"
    if job.waiting_for:
        return job.waiting_for
    return f"position {job.queue_position}" if job.queue_position else ""


def _finish(reason: FinishReason | None) -> str:
    return "length (cut at max_tokens or at the end of the context)" if reason == "length" else reason or ""


def attempt_text(attempt: AttemptView) -> str:
    """Where one try was made, why there, and what came of it."""
    reason = f": {attempt.reason}" if attempt.reason else ""
    why = f" ({attempt.why})" if attempt.why else ""
    return f"{attempt.outcome} on {attempt.worker_id} at {attempt.pool_id}{why}{reason}"
