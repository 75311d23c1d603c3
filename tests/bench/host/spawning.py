"""How long an operator waits for a worker, with a daemon on the host and without."""

from __future__ import annotations

import subprocess
import time

from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples
from tests.support.home import Home, entry_point, free_port

GOAL_S = 2.0
MODEL = "haiku"


def measure(short: bool) -> list[Row]:
    """`rbees-pool worker spawn` from its start until it prints the id of a worker that is ready, in turns by both ways."""
    port = str(free_port())
    served, alone = {"RBEES_POOLD_PORT": port}, {"RBEES_POOLD_PORT": str(free_port())}
    taken: dict[str, list[float]] = {"with": [], "without": []}
    with Home(served) as with_daemon, Home(alone) as without:
        with_daemon.serve_poold(int(port))
        for turn in range(1 + (3 if short else 7)):
            for name, home in (("with", with_daemon), ("without", without)):
                took_s = _spawn(home)
                if turn:
                    taken[name].append(took_s)
    rows = []
    for name, times in taken.items():
        samples = Samples(tuple(times))
        about = f"from calling `rbees-pool worker spawn` until the embedded model is ready, {name} a daemon on the host"
        rows.append(at_most(f"host.spawn_{name}_daemon", samples.median, "s", GOAL_S, about, spread=samples.spread))
    return rows


def _spawn(home: Home) -> float:
    """Seconds; the worker is stopped again."""
    tool = [*entry_point("rbees-pool"), "worker"]
    begun = time.perf_counter()
    done = subprocess.run(
        [*tool, "spawn", "cpu", "--model", MODEL], env=home.environ(), check=True, stdin=subprocess.DEVNULL, capture_output=True
    )
    took_s = time.perf_counter() - begun
    subprocess.run([*tool, "stop", done.stdout.decode().strip()], env=home.environ(), check=True, capture_output=True)
    return took_s
