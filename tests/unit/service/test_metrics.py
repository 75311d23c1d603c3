"""Figures: the prefix, the labels, a registry of one's own."""

from __future__ import annotations

from rbees.service.metrics import Metrics


def test_figures_are_rendered_with_the_prefix() -> None:
    metrics = Metrics("orcd")
    metrics.counter("jobs_total", "Jobs.", ("status",)).labels("completed").inc(2)
    metrics.gauge("queue_length", "Waiting jobs.").set(3)
    metrics.histogram("wait_seconds", "Time in the queue.", buckets=(1, 2)).observe(1.5)
    text = metrics.render().decode()
    for line in ('rbees_jobs_total{status="completed"} 2.0', "rbees_queue_length 3.0", 'rbees_wait_seconds_bucket{le="2.0"} 1.0'):
        assert line in text
    assert 'role="orcd"' in text


def test_two_roles_in_one_process_do_not_meet() -> None:
    first, second = Metrics("a"), Metrics("b")
    first.counter("x_total", "X.").inc()
    second.counter("x_total", "X.")
    assert "rbees_x_total 1.0" in first.render().decode()
    assert "rbees_x_total 0.0" in second.render().decode()
