"""How far the estimate of a worker's memory is from what llama.cpp takes: over many shapes that it lays out, and in real loads."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rbees.workerd.memory import ask
from tests.bench.rows import Row, at_most
from tests.support.fit_error import SERVINGS, Compared, buffers_bytes, expected, facts_of, spec_of, ways_of
from tests.support.sparse_gguf import SHAPES, SparseShape, write_sparse_gguf

P95_GOAL_PERCENT: Final = 5.0
OF_GOAL_PERCENT: Final = 100.0
WAYS_EACH: Final = 6
LOADS_EACH: Final = 2
MOST_TOKENS: Final = 64_000
MOST_EXPERTS: Final = 32
LOAD_S: Final = 300.0
_MIB: Final = 1 << 20


def measure(short: bool) -> list[Row]:
    """Beside what the library lays out without loading."""
    chosen = _chosen(3 if short else len(SHAPES), 2 if short else WAYS_EACH)
    with tempfile.TemporaryDirectory() as folder:
        found = list(_laid_out(Path(folder), chosen))
    about = f"{len(chosen)} shapes of published models at full size, each in {WAYS_EACH} of {len(SERVINGS)} ways"
    return [
        at_most(
            "host.fit_error", _p95(found, lambda one: 100 * one.off_share), "%", P95_GOAL_PERCENT,
            f"error of the estimated memory of a worker beside what llama.cpp lays out, p95 of {len(found)}: {about}; "
            f"{_spread(found)}",
        ),
        at_most(
            "host.fit_error_of_goal", 100 * max(one.of_goal for one in found), "%", OF_GOAL_PERCENT,
            "the largest of these errors as a share of what is allowed to each: 5 % or 100 MiB, whichever is more",
        ),
    ]  # fmt: skip


def measure_loads(short: bool) -> list[Row]:
    """Beside what loads of the same shapes with fewer layers take."""
    chosen = _chosen(3 if short else len(SHAPES), 1 if short else LOADS_EACH)
    with tempfile.TemporaryDirectory() as folder:
        loads = list(_loads(Path(folder), chosen))
    found, grown = [one for one, _ in loads], [one for _, one in loads]
    return [
        at_most(
            "host.fit_error_loaded", 100 * max(one.of_goal for one in found), "%", OF_GOAL_PERCENT,
            f"the same beside the buffers of {len(found)} real loads of these shapes with few layers, the largest error as a share "
            f"of what is allowed; {_spread(found)}",
        ),
        at_most(
            "host.fit_above_resident", _p95(grown, lambda one: one.off_bytes / _MIB), "MiB", None,
            "by how much the estimate exceeds what the process grew by in these loads, p95; at least "
            f"{min(one.off_bytes for one in grown) / _MIB:.0f} MiB (a part of the buffers is touched later)",
        ),
    ]  # fmt: skip


def _chosen(shapes: int, ways_each: int) -> dict[str, list[str]]:
    """The first shapes, each in as many ways, which go round so that every way comes with several shapes."""
    chosen = {}
    for i, name in enumerate(list(SHAPES)[:shapes]):
        ways = ways_of(SHAPES[name])
        chosen[name] = [ways[(i + step * len(ways) // ways_each) % len(ways)] for step in range(ways_each)]
    return chosen


def _laid_out(folder: Path, chosen: dict[str, list[str]]) -> Iterator[Compared]:
    for name, ways in chosen.items():
        path = write_sparse_gguf(folder / f"{name}.gguf", SHAPES[name])
        facts = facts_of(path)
        for way in ways:
            taken = ask(spec_of(path, SERVINGS[way])).total_bytes
            yield Compared(buffers_bytes(expected(facts, SERVINGS[way])), taken, f"{name}, {way}")
        path.unlink()


def _loads(folder: Path, chosen: dict[str, list[str]]) -> Iterator[tuple[Compared, Compared]]:
    """The estimate beside the library's buffers, and the estimate with the process beside what that grew by."""
    for name, ways in chosen.items():
        path = write_sparse_gguf(folder / f"small-{name}.gguf", _smaller(SHAPES[name]))
        facts = facts_of(path)
        for way in ways:
            taken = _load(path, way)
            needed, what = expected(facts, SERVINGS[way]), f"{name}, {way}"
            yield Compared(buffers_bytes(needed), taken["buffers"], what), Compared(needed.total_bytes, taken["grown"], what)
        path.unlink()


def _smaller(shape: SparseShape) -> SparseShape:
    """Of the same widths, so that a call takes as much; with few layers, experts and tokens, so that a load takes 2 GB at most."""
    if shape.latent:
        # The library knows the kind of model by its count of layers.
        return replace(shape, vocabulary=min(shape.vocabulary, MOST_TOKENS), experts=shape.experts_used)
    layers = max(shape.attends[:1], default=1) + 1
    return replace(shape, layers=layers, vocabulary=min(shape.vocabulary, MOST_TOKENS), experts=min(shape.experts, MOST_EXPERTS))


def _load(path: Path, way: str) -> dict[str, int]:
    words = [sys.executable, "-m", "tests.bench.host.loading", str(path), way]
    environ = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=LOAD_S, check=True, env=environ)
    taken: dict[str, int] = json.loads(done.stdout)
    return taken


def _p95(found: Sequence[Compared], of: Callable[[Compared], float]) -> float:
    return statistics.quantiles([of(one) for one in found], n=20, method="inclusive")[-1]


def _spread(found: Sequence[Compared]) -> str:
    worst = max(found, key=lambda one: one.off_share)
    largest = max(found, key=lambda one: abs(one.off_bytes))
    over = sum(one.off_bytes >= 0 for one in found) / len(found)
    return (
        f"median {100 * statistics.median(one.off_share for one in found):.2f} %, largest {100 * worst.off_share:.1f} % "
        f"({worst.what}) and {largest.off_bytes / _MIB:+.0f} MiB ({largest.what}); {100 * over:.0f} % of them on the large side"
    )
