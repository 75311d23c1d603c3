"""A failing world made small: fewer hosts, minutes, faults and jobs, as long as an invariant is violated in the same words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

WITHIN_S: Final = 60.0
OTHER_SEEDS: Final = 8
_LEAST_MINUTES: Final = 0.5
_STEPS: Final = (0.25, 0.5, 0.75, 0.9)
"""Parts of a number that are tried, the boldest first."""
_NAMES: Final = re.compile(r"[\w.:-]*\d[\w.:-]*")
"""Ids and numbers, which differ from world to world."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a world is made from, besides its seed."""

    hosts: int = 5
    minutes: float = 10.0
    faults: int | None = None
    """At most so many; None for no limit."""
    jobs: int | None = None

    @property
    def options(self) -> str:
        """As `python -m tests.simulation` takes them."""
        told = [f"--hosts {self.hosts}", f"--minutes {self.minutes:g}"]
        told += [] if self.faults is None else [f"--faults {self.faults}"]
        told += [] if self.jobs is None else [f"--jobs {self.jobs}"]
        return " ".join(told)


@dataclass(frozen=True, slots=True)
class Try:
    """How a world of some size ended: with which words, or well."""

    failure: str | None
    jobs: int
    faults: int


def shrink(seed: int, size: Size, run: Callable[[int, Size], Try], within_s: float = WITHIN_S) -> tuple[int, Size]:
    """The smallest world found that fails as that of `seed` and `size` does, when nothing smaller fails or after `within_s`.

    A smaller world draws other numbers, so each size is also tried with some other seeds.
    """
    until_s = time.monotonic() + within_s
    first = run(seed, size)
    if first.failure is None:
        return seed, size
    wanted = _gist(first.failure)
    size = replace(size, faults=first.faults, jobs=first.jobs)
    while (found := _fails_smaller(seed, size, run, wanted, until_s)) is not None:
        seed, size = found
    return seed, size


def _fails_smaller(seed: int, size: Size, run: Callable[[int, Size], Try], wanted: str, until_s: float) -> tuple[int, Size] | None:
    for smaller in _smaller(size):
        for other in dict.fromkeys((seed, *range(OTHER_SEEDS))):
            if time.monotonic() > until_s:
                return None
            tried = run(other, smaller)
            if tried.failure is not None and _gist(tried.failure) == wanted:
                # What it did not need is left out of the next one at once.
                assert smaller.faults is not None
                assert smaller.jobs is not None
                return other, replace(smaller, faults=min(smaller.faults, tried.faults), jobs=min(smaller.jobs, tried.jobs))
    return None


def _gist(failure: str) -> str:
    return _NAMES.sub("#", failure)


def _smaller(size: Size) -> Iterator[Size]:
    assert size.faults is not None
    assert size.jobs is not None
    for minutes in (size.minutes * part for part in _STEPS):
        if minutes >= _LEAST_MINUTES:
            yield replace(size, minutes=round(minutes, 2))
    for faults in _fewer(size.faults, least=0):
        yield replace(size, faults=faults)
    for jobs in _fewer(size.jobs, least=1):
        yield replace(size, jobs=jobs)
    for hosts in range(1, size.hosts):
        yield replace(size, hosts=hosts)


def _fewer(number: int, least: int) -> list[int]:
    """Smaller numbers, each once, the smallest first."""
    return sorted({max(least, min(int(number * part), number - 1)) for part in (0.0, *_STEPS, 1.0)} - {number})
