"""The mixed fleet of the bench, in short: hosts of invented hardware, and a rival's rules in the place of orcd's own."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.bench.orcd import real_fleet
from tests.simulation import rivals
from tests.simulation.fleet import DEVICE_BYTES, MODELS, SPEEDS, Order
from tests.support.home import Home, wait_until
from tests.support.jobs import wait_ended
from tests.support.raw_http import request

BY_NAME = {model.ref: model for model in MODELS}


def pools(home: Home) -> dict[str, dict[str, Any]]:
    return {pool["pool_id"]: pool for pool in request("GET", f"{home.url}/v2/pools").json["pools"]}


def firsts() -> list[Order]:
    """Two jobs of seed 0, the first for each model."""
    found: dict[str, Order] = {}
    for order in real_fleet.trace(0, 1.0):
        found.setdefault(order.spec.model, order)
    assert set(found) == set(BY_NAME)
    return list(found.values())


def run(home: Home, order: Order) -> dict[str, Any]:
    """The only attempt of a job, which nothing else disturbs."""
    ended = wait_ended(home.url, real_fleet.submit(home.url, order))
    assert ended["status"] == "completed"
    assert ended["usage"]["completion_tokens"] == max(1, round(real_fleet.SCALE * order.tokens))
    (attempt,) = ended["attempts"]
    assert isinstance(attempt, dict)
    return attempt


def holds_only(home: Home, pool_id: str, model: str, size_bytes: int) -> bool:
    """Whether a pool has one worker, for this model, which takes the memory that the model is said to take."""
    pool = pools(home)[pool_id]
    names = {known["sha256"]: alias for known in pool["models"] for alias in known["aliases"]}
    (device,) = pool["devices"]
    assert device["total_bytes"] == DEVICE_BYTES
    there = [names[worker["model_sha256"]] for worker in pool["workers"]]
    return there == [model] and device["free_bytes"] <= DEVICE_BYTES - size_bytes


def test_hosts_share_models_and_each_holds_one_at_a_time() -> None:
    with real_fleet.fleet(None) as home:
        known = [{model["sha256"]: model["size_bytes"] for model in pool["models"]} for pool in pools(home).values()]
        assert known == [known[0]] * len(SPEEDS), "a model is the same on every host"
        assert {model.size_bytes for model in MODELS} <= set(known[0].values())
        assert sum(model.size_bytes for model in MODELS) > DEVICE_BYTES
        for order in firsts():
            attempt, size = run(home, order), BY_NAME[order.spec.model].size_bytes
            assert attempt["why"].startswith("expected to be done in")
            wait_until(partial(holds_only, home, attempt["pool_id"], order.spec.model, size), what="hold that model and no other")


@pytest.mark.parametrize("rule", sorted(rivals.RIVALS))
def test_a_rival_decides_in_the_place_of_the_scheduler(rule: str, tmp_path: Path) -> None:
    look = tmp_path / "look.py"
    look.write_text("from rbees.orcd.scheduler import placement\nprint(placement._best_open.__module__)\n")
    words = [sys.executable, "-m", "tests.bench.orcd.stand_in", "rule", rule, str(look)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=real_fleet.ROOT, check=True)
    assert done.stdout.strip() == rivals.__name__


def test_orcd_serves_under_a_rival() -> None:
    with real_fleet.fleet("round_robin") as home:
        assert {run(home, order)["outcome"] for order in firsts()} == {"completed"}
