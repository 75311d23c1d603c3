"""Figures for Prometheus: one registry per process, every name with the prefix `rbees_`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from rbees import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The registry of one role. Labels must come from closed sets: routes, codes, states; never ids or content."""

    def __init__(self, role: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.gauge("build_info", "Version and role of this process; always 1.", ("version", "role")).labels(__version__, role).set(
            1
        )

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter:
        """A figure that only grows."""
        return Counter(f"rbees_{name}", about, labels, registry=self.registry)

    def count_elsewhere(self, name: str, about: str, read: Callable[[], float]) -> None:
        """A figure that only grows and that something else counts: `read` is asked for it when the figures are."""
        self.registry.register(_Counted(f"rbees_{name}", about, read))

    def gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
        """A figure that goes up and down."""
        return Gauge(f"rbees_{name}", about, labels, registry=self.registry)

    def histogram(
        self, name: str, about: str, labels: Sequence[str] = (), buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS
    ) -> Histogram:
        """A distribution; the name ends with its unit."""
        return Histogram(f"rbees_{name}", about, labels, registry=self.registry, buckets=buckets)

    def render(self) -> bytes:
        """All figures in the text format of `CONTENT_TYPE`."""
        return generate_latest(self.registry)


class _Counted(Collector):
    def __init__(self, name: str, about: str, read: Callable[[], float]) -> None:
        self._family = name, about
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(*self._family, value=self._read())
