"""What `llorch top` shows: the cluster as lines that fit a width and a height. Reads no clock and knows no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rbees.protocol.cluster import ClusterStatus, PoolGlance, RunningGlance, WaitingGlance, WorkerGlance
from rbees.protocol.pools import Device
from rbees.terminal.columns import Column, Line, Style
from rbees.terminal.layout import beside, cut, fitted
from rbees.terminal.quantities import bytes_text, count_text, duration_text, share_text
from rbees.terminal.text import printable

Order = Literal["name", "busy", "memory"]
ORDERS: Final[tuple[Order, ...]] = ("name", "busy", "memory")

_POOL_COLUMNS: Final = (
    Column("POOL", least=12),
    Column("STATE"),
    Column("DEVICE", rank=1),
    Column("NAME", rank=6, least=8),
    Column("USED", right=True),
    Column("", rank=7),
    Column("LOAD", rank=4, right=True),
    Column("TEMP", rank=5, right=True),
    Column("HEARD", rank=3, right=True),
    Column("ABOUT", rank=2, least=12),
)
_WORKER_COLUMNS: Final = (
    Column("WORKER", rank=5, least=9, tail=True),
    Column("POOL", least=12),
    Column("MODEL", least=18),
    Column("STATE", rank=2),
    Column("DEVICES", rank=7, least=6),
    Column("SLOTS", right=True),
    Column("TOKENS/S", rank=1, right=True),
    Column("MEMORY", rank=4, right=True),
    Column("CONTEXT", rank=6, right=True),
    Column("ABOUT", rank=3, least=12),
)
_WAITING_COLUMNS: Final = (
    Column("WAITS: MODEL", least=16),
    Column("PRIORITY", rank=2),
    Column("JOBS", right=True),
    Column("OLDEST", rank=3, right=True),
    Column("FOR", rank=1, least=12),
)
_RUNNING_COLUMNS: Final = (
    Column("RUNS: MODEL", least=16),
    Column("JOB", rank=2, least=9, tail=True),
    Column("POOL", least=8),
    Column("WORKER", rank=5, least=9, tail=True),
    Column("STATUS", rank=3),
    Column("PRIORITY", rank=6),
    Column("TRY", rank=4, right=True),
    Column("TOKENS", right=True),
    Column("FOR", right=True),
)
_BAR_CELLS: Final = 10


@dataclass(frozen=True, slots=True)
class View:
    """What is looked at, and how."""

    url: str
    order: Order = "name"
    pool_id: str | None = None
    """The one pool that is looked at; None for all."""
    state: str = "live"
    """Whether the picture moves: `live`, `paused`, or why not."""
    is_moving: bool = True
    since_s: float = 0.0
    """Since orcd said so."""
    keys: str = ""


@dataclass(frozen=True, slots=True)
class _Section:
    columns: tuple[Column, ...]
    rows: tuple[tuple[tuple[str, ...], Style], ...]
    noun: str
    first: int = 0
    """The row that has to be seen."""

    @property
    def wanted(self) -> int:
        return len(self.rows) + 1 if self.rows else 1


def picture(cluster: ClusterStatus, view: View, width: int, height: int | None = None) -> list[Line]:
    """Lines no wider than `width` and no more than `height`; without a height, all there is to say."""
    head, sections = _head(cluster, view, width), _sections(cluster, view)
    foot = [Line(cut(view.keys, width), "quiet")] if view.keys else []
    if height is None:
        return [*head, *(line for section in sections for line in (Line(""), *_lines(section, width, section.wanted)))]
    room = max(0, height - len(head) - len(foot))
    spaced = sum(section.wanted for section in sections) + len(sections) <= room
    shares = shared_out([section.wanted for section in sections], room)
    body = [
        line
        for section, share in zip(sections, shares, strict=True)
        for line in ((Line(""),) if spaced else ()) + tuple(_lines(section, width, share))
    ]
    return [*[*head, *body, *[Line("")] * (room - len(body))][: height - len(foot)], *foot][:height]


def shared_out(wanted: Sequence[int], room: int) -> list[int]:
    """How many lines each gets: those that want little get it, the others share the rest."""
    given = [0] * len(wanted)
    for done, index in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        given[index] = min(wanted[index], room // (len(wanted) - done))
        room -= given[index]
    return given


def pool_ids(cluster: ClusterStatus, order: Order) -> list[str]:
    """The pools in the order in which they are shown."""
    return [pool.pool_id for pool in _ordered_pools(cluster, order)]


# ---- the head ----------------------------------------------------------------------------------------------------------


def _head(cluster: ClusterStatus, view: View, width: int) -> list[Line]:
    overview = cluster.overview
    jobs, rates = overview.jobs, overview.rates
    first = beside(f"rbees {printable(overview.version)} at {printable(view.url)}", printable(view.state), width)
    said = (
        f"{jobs.running} running",
        *([f"{jobs.dispatched} starting"] if jobs.dispatched else []),
        f"{jobs.queued} queued",
        f"{rates.tokens_per_s:.0f} tokens/s",
        f"{rates.jobs_per_s:.1f} jobs/s",
        _count(overview.pools, "pool"),
        f"up {duration_text(overview.uptime_s)}",
    )
    lines = [Line(first, "heading" if view.is_moving else "trouble"), Line(cut(", ".join(said), width))]
    return [*lines, Line(cut(printable(overview.problem), width), "trouble")] if overview.problem else lines


# ---- the sections ------------------------------------------------------------------------------------------------------


def _sections(cluster: ClusterStatus, view: View) -> list[_Section]:
    looked_at = [pool for pool in cluster.pools if view.pool_id in (None, pool.pool_id)]
    workers = [(pool.pool_id, worker) for pool in looked_at for worker in pool.workers]
    running = [job for job in cluster.overview.running if view.pool_id in (None, job.pool_id)]
    return [
        _pool_section(cluster, view),
        _Section(
            _WORKER_COLUMNS, tuple(_worker_row(pool_id, worker) for pool_id, worker in _ordered(workers, view.order)), "worker"
        ),
        _Section(_WAITING_COLUMNS, tuple(_waiting_row(one) for one in cluster.overview.waiting), "waiting job"),
        _Section(_RUNNING_COLUMNS, tuple(_running_row(job) for job in running), "running job"),
    ]


def _pool_section(cluster: ClusterStatus, view: View) -> _Section:
    rows: list[tuple[tuple[str, ...], Style]] = []
    first = 0
    for pool in _ordered_pools(cluster, view.order):
        if pool.pool_id == view.pool_id:
            first = len(rows)
        heard_s = max(0.0, cluster.overview.uptime_s - pool.heard_at_s + view.since_s)
        rows += _pool_rows(pool, heard_s, is_chosen=pool.pool_id == view.pool_id)
    return _Section(_POOL_COLUMNS, tuple(rows), "pool", first)


def _pool_rows(pool: PoolGlance, heard_s: float, *, is_chosen: bool) -> list[tuple[tuple[str, ...], Style]]:
    """One for each device; the pool itself stands in the first."""
    state = f"{pool.state}, drained" if pool.drains else pool.state
    own = (f"> {pool.pool_id}" if is_chosen else pool.pool_id, state)
    heard = duration_text(heard_s)
    if not pool.devices:
        return [((*own, "", "", "", "", "", "", heard, "no device has been measured"), _style(is_chosen, pool.state == "live"))]
    rows = []
    for number, device in enumerate(pool.devices):
        beginning, end = (own, heard) if number == 0 else (("", ""), "")
        is_well = pool.state == "live" and device.healthy
        rows.append(((*beginning, *_device_cells(device), end, _about_device(device)), _style(is_chosen, is_well)))
    return rows


def _device_cells(device: Device) -> tuple[str, ...]:
    used = max(0, device.total_bytes - device.free_bytes)
    full = round(_BAR_CELLS * used / device.total_bytes) if device.total_bytes else 0
    load = "" if device.utilization is None else f"{device.utilization:.0%}"
    temperature = "" if device.temperature_celsius is None else f"{device.temperature_celsius:.0f} C"
    return (
        device.device_id,
        device.name,
        share_text(used, device.total_bytes),
        "#" * full + "." * (_BAR_CELLS - full),
        load,
        temperature,
    )


def _about_device(device: Device) -> str:
    return "" if device.healthy else device.problem or "unhealthy"


def _worker_row(pool_id: str, worker: WorkerGlance) -> tuple[tuple[str, ...], Style]:
    state = f"loading {worker.load_progress:.0%}" if worker.state == "loading" else worker.state
    about = [worker.doubt] if worker.doubt else []
    about += ["safe mode"] if worker.safe_mode else []
    cells = (
        worker.worker_id,
        pool_id,
        short_model(worker.model),
        state,
        ",".join(worker.devices),
        f"{worker.slots_busy}/{worker.slots}",
        f"{worker.tokens_per_s:.1f}",
        bytes_text(worker.memory_bytes),
        "" if worker.ctx is None else str(worker.ctx),
        "; ".join(about),
    )
    return cells, "plain" if worker.doubt is None and worker.state != "failed" else "trouble"


def _waiting_row(one: WaitingGlance) -> tuple[tuple[str, ...], Style]:
    oldest = "" if one.oldest_s is None else duration_text(one.oldest_s)
    return (short_model(one.model), one.priority, str(one.jobs), oldest, one.waiting_for or ""), "plain"


def _running_row(job: RunningGlance) -> tuple[tuple[str, ...], Style]:
    running = "" if job.running_s is None else duration_text(job.running_s)
    cells = (
        short_model(job.model),
        job.job_id,
        job.pool_id,
        job.worker_id,
        job.status,
        job.priority,
        str(job.attempt),
        count_text(job.tokens),
        running,
    )
    return cells, "plain"


def short_model(reference: str) -> str:
    """The part of a reference that tells models apart: the file, or the repository."""
    return reference.rpartition("::file=")[2].rpartition("/")[2] or reference


# ---- lines -------------------------------------------------------------------------------------------------------------


def _lines(section: _Section, width: int, share: int) -> list[Line]:
    """A section in `share` lines."""
    if not section.rows:
        return [Line(cut(f"no {section.noun}s", width), "quiet")] if share else []
    if share < 2:
        return [Line(cut(_count(len(section.rows), section.noun), width), "quiet")] if share else []
    rows = section.rows
    is_all = len(rows) < share
    room = len(rows) if is_all else max(1, share - 2)
    start = 0 if is_all else min(section.first, len(rows) - room)
    # Widths are those of all rows, so that nothing jumps while somebody scrolls.
    table = fitted(section.columns, [tuple(map(printable, cells)) for cells, _ in rows], width)
    styled = [Line(text, style) for text, (_, style) in zip(table.lines, rows, strict=True)]
    more = [] if is_all or share < 3 else [Line(cut(_rest(start, len(rows) - start - room), width), "quiet")]
    return [Line(table.heading, "heading"), *styled[start : start + room], *more]


def _rest(above: int, below: int) -> str:
    return ", ".join([*([f"{above} above"] if above else []), *([f"{below} more"] if below else [])])


def _style(is_chosen: bool, is_well: bool) -> Style:
    return "chosen" if is_chosen else "plain" if is_well else "trouble"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# ---- order -------------------------------------------------------------------------------------------------------------


def _ordered_pools(cluster: ClusterStatus, order: Order) -> list[PoolGlance]:
    match order:
        case "name":
            return list(cluster.pools)
        case "busy":
            return sorted(cluster.pools, key=lambda pool: -sum(worker.slots_busy for worker in pool.workers))
        case "memory":
            return sorted(cluster.pools, key=lambda pool: min(map(_free_share, pool.devices), default=1.0))


def _free_share(device: Device) -> float:
    return device.free_bytes / device.total_bytes if device.total_bytes else 1.0


def _ordered(workers: Sequence[tuple[str, WorkerGlance]], order: Order) -> list[tuple[str, WorkerGlance]]:
    match order:
        case "name":
            return list(workers)
        case "busy":
            return sorted(workers, key=lambda one: (-one[1].tokens_per_s, -one[1].slots_busy))
        case "memory":
            return sorted(workers, key=lambda one: -one[1].memory_bytes)
