"""What the daemons cost while nothing happens: resident memory and processor time, both from the operating system (Linux)."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples
from tests.support.home import Home, wait_until
from tests.support.raw_http import request

MEMORY_GOALS_MB = {"orcd": 90.0, "poold": 70.0}
CPU_GOAL_PERCENT = 0.5
SETTLE_S = 5.0


def measure(short: bool) -> list[Row]:
    """orcd and a registered poold, after they have served one job and its worker idles beside them."""
    windows, window_s = (1, 10.0) if short else (3, 40.0)
    with Home() as home:
        home.serve_orcd()
        home.serve_poold()
        wait_until(lambda: request("GET", f"{home.url}/v2/pools").json["pools"], what="register its pool")
        done = home.llorch("jobs", "submit", "--model", "haiku", "--prompt", "a haiku about rain")
        assert done.returncode == 0, done.said
        time.sleep(SETTLE_S)
        processes = {role: home.of_role(role) for role in MEMORY_GOALS_MB}
        cpu = _cpu_percent(processes, windows, window_s)
        memory = {role: _memory_mb(process.pid) for role, process in processes.items()}
    return [row for role in processes for row in _rows(role, cpu[role], memory[role], window_s)]


def _rows(role: str, cpu: Samples, memory: tuple[float, float], window_s: float) -> list[Row]:
    resident, proportional = memory
    return [
        at_most(
            f"spine.{role}_idle_memory",
            resident,
            "MB",
            MEMORY_GOALS_MB[role],
            f"resident memory of {role} after one job ({proportional:.0f} MB where shared pages count in parts)",
        ),
        at_most(
            f"spine.{role}_idle_cpu",
            cpu.median,
            "%",
            CPU_GOAL_PERCENT,
            f"processor time of idle {role} in windows of {window_s:.0f} s, a worker idling beside it",
            spread=cpu.spread,
        ),
    ]


def _cpu_percent(processes: dict[str, psutil.Process], windows: int, window_s: float) -> dict[str, Samples]:
    """Of one core, for each process, in the same windows."""
    found: dict[str, list[float]] = {role: [] for role in processes}
    for _ in range(windows):
        before = {role: _cpu_ns(process.pid) for role, process in processes.items()}
        begun = time.perf_counter_ns()
        time.sleep(window_s)
        passed = time.perf_counter_ns() - begun
        for role, process in processes.items():
            found[role].append((_cpu_ns(process.pid) - before[role]) / passed * 100)
    return {role: Samples(tuple(values)) for role, values in found.items()}


def _cpu_ns(pid: int) -> int:
    """Nanoseconds on a processor, over all threads. The tick counters of /proc/PID/stat would be too coarse for half a percent."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def _memory_mb(pid: int) -> tuple[float, float]:
    """Resident and proportional set size in units of 1 000 000 bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) * 1024 / 1e6 for name, _, rest in (line.partition(":") for line in lines)}
    return sizes["Rss"], sizes["Pss"]
