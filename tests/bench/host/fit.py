"""How far the estimate of a worker's memory is from what llama.cpp takes: over many shapes that it lays out, and in real loads."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rbees.workerd.memory import ask
from tests.bench.rows import Row, at_most
from tests.support.fit_error import SERVINGS, Compared, buffers_bytes, expected, facts_of, spec_of, ways_of
from tests.support.sparse_gguf import SHAPES, SparseShape, write_sparse_gguf

P95_GOAL_PERCENT: Final = 5.0
OF_GOAL_PERCENT: Final = 100.0
LOADED: Final = ("usual", "without flash attention", "eight bits", "vectors too")
LOAD_S: Final = 300.0
_MIB: Final = 1 << 20


def measure(short: bool) -> list[Row]:
    """What the library lays out without loading, then what loads of the same shapes with fewer layers take."""
    names = list(SHAPES)[:3] if short else list(SHAPES)
    most = 3 if short else len(SERVINGS)
    with tempfile.TemporaryDirectory() as folder:
        laid_out = list(_laid_out(Path(folder), names, most))
        loads = list(_loads(Path(folder), names, LOADED[:1] if short else LOADED))
    loaded, grown = [one for one, _ in loads], [one for _, one in loads]
    shapes = f"{len(names)} shapes of published models, at full size, in {most} ways"
    smaller = f"the same shapes with one to three layers, in {len(loaded) // len(names)} ways, in real loads"
    return [
        at_most(
            "host.fit_error", _p95(laid_out, lambda one: 100 * one.off_share), "%", P95_GOAL_PERCENT,
            f"error of the estimated memory of a worker beside what llama.cpp lays out, p95 of {len(laid_out)}: {shapes}; "
            f"{_spread(laid_out)}",
        ),
        at_most(
            "host.fit_error_of_goal", 100 * max(one.of_goal for one in laid_out), "%", OF_GOAL_PERCENT,
            "the largest of these errors as a share of what is allowed to each, 5 % or 100 MiB, whichever is more",
        ),
        at_most(
            "host.fit_error_loaded", 100 * max(one.of_goal for one in loaded), "%", OF_GOAL_PERCENT,
            f"the same beside the buffers that the library allocates, the largest of {len(loaded)}: {smaller}; {_spread(loaded)}",
        ),
        at_most(
            "host.fit_above_resident", _p95(grown, lambda one: one.off_bytes / _MIB), "MiB", None,
            "by how much the estimate exceeds what the process grew by in these loads, p95; at least "
            f"{min(one.off_bytes for one in grown) / _MIB:.0f} MiB (a part of the buffers is touched later)",
        ),
    ]  # fmt: skip


def _laid_out(folder: Path, names: Iterable[str], most: int) -> Iterable[Compared]:
    for name in names:
        path = write_sparse_gguf(folder / f"{name}.gguf", SHAPES[name])
        facts = facts_of(path)
        for way in ways_of(SHAPES[name])[:most]:
            taken = ask(spec_of(path, SERVINGS[way])).total_bytes
            yield Compared(buffers_bytes(expected(facts, SERVINGS[way])), taken, f"{name}, {way}")
        path.unlink()


def _loads(folder: Path, names: Iterable[str], ways: Sequence[str]) -> Iterable[tuple[Compared, Compared]]:
    """The estimate beside the library's buffers, and the estimate with the process beside what that grew by."""
    for name in names:
        path = write_sparse_gguf(folder / f"small-{name}.gguf", _smaller(SHAPES[name]))
        facts = facts_of(path)
        for way in ways:
            taken = _load(path, way)
            needed = expected(facts, SERVINGS[way])
            what = f"{name}, {way}"
            yield Compared(buffers_bytes(needed), taken["buffers"], what), Compared(needed.total_bytes, taken["grown"], what)
        path.unlink()


def _smaller(shape: SparseShape) -> SparseShape:
    """Of the same widths, so that a call takes as much; with few layers, experts and tokens, so that a load takes 1 GB at most."""
    layers = max(shape.attends[:1], default=1) + 1
    return replace(shape, layers=layers, vocabulary=min(shape.vocabulary, 64_000), experts=min(shape.experts, 32))


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
