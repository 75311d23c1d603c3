"""`llorch models download`: orcd chooses the pool where nobody names one, and the pools that hold a model give it to the others.

Two real pool daemons on hosts of their own, one orchestrator, and after the first download no hub at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.home import Daemon, Finished, Home, free_port, wait_until
from tests.support.hub import Hub
from tests.support.hub_user import refusal, sha256
from tests.support.raw_http import request
from tests.support.tiny_gguf import write_tiny_gguf

REPO = "org/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"
NOWHERE = "http://127.0.0.1:1"


class Cluster:
    """An orchestrator and its pools, each on a host of its own."""

    def __init__(self, first: Home, second: Home) -> None:
        self.homes = {"attic": first, "cellar": second}
        self.pools: dict[str, Daemon] = {}
        self.orcd = first.serve_orcd()
        second.url = first.url

    def start(self, name: str, hub_url: str = NOWHERE) -> Daemon:
        home = self.homes[name]
        (home.folder / "models").mkdir(exist_ok=True)
        environ = {
            "RBEES_POOLD_POOL_ID": name,
            "RBEES_POOLD_MODEL_DIRS": str(home.folder / "models"),
            "HF_HOME": str(home.folder / "hf"),
            "HF_ENDPOINT": hub_url,
        }
        daemon = self.pools[name] = home.serve_poold(free_port(), environ=environ)
        self.wait(name, lambda pool: True)
        return daemon

    def wait(self, name: str, check: Any) -> dict[str, Any]:
        """Until orcd's picture of the pool is as wanted; that picture."""

        def seen() -> dict[str, Any] | None:
            pools = json.loads(self.llorch("pool", "list", "--json").stdout)["pools"]
            return next((pool for pool in pools if pool["pool_id"] == name and check(pool)), None)

        found: dict[str, Any] | None = wait_until(seen, self.orcd, f"see {name}")
        assert found is not None
        return found

    def llorch(self, *words: str) -> Finished:
        return self.homes["attic"].llorch(*words)

    def download(self, *words: str) -> list[dict[str, Any]]:
        done = self.llorch("models", "download", *words, "--json")
        assert done.returncode == 0, done.said
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def cluster(home: Home) -> Iterator[Cluster]:
    with Home() as second:
        yield Cluster(home, second)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_tiny_gguf(tmp_path_factory.mktemp("hub") / "tiny.gguf", layers=2, width=64, heads=4, heads_kv=2)
    return path.read_bytes()


def test_a_model_goes_to_the_pool_that_takes_work_and_stays_where_it_is(cluster: Cluster, tiny: bytes) -> None:
    refusal(cluster.llorch("models", "download", "mine"), "POOL_NOT_FOUND", 1)
    with Hub() as hub:
        hub.add(REPO, {FILE: tiny})
        for name in ("attic", "cellar"):
            cluster.start(name, hub.url)
        assert cluster.llorch("pool", "drain", "attic").returncode == 0
        first = cluster.llorch("models", "download", f"hf:{REPO}")
        assert first.returncode == 0, first.said
        assert "on cellar: it is the only one that takes work" in first.stderr
        ref = first.stdout.strip()
        assert ref.startswith(f"hf:{REPO}@")
    assert cluster.llorch("pool", "resume", "attic").returncode == 0
    cluster.wait("cellar", lambda pool: any(model["ref"] == ref for model in pool["models"]))
    chosen, *_, done = cluster.download(f"hf:{REPO}")
    assert (chosen["type"], chosen["pool_id"], chosen["why"]) == ("chosen", "cellar", "it has the model already")
    assert (done["model_ref"], done["sha256"], done["fetched_bytes"]) == (ref, sha256(tiny), 0)
    assert "was here already" in cluster.llorch("models", "download", ref).stderr


def test_what_a_download_through_orcd_is_refused_with(cluster: Cluster) -> None:
    pool = cluster.start("attic")
    url = f"{cluster.homes['attic'].url}/v2/models/download"
    answer = request("POST", url, {"model_ref": "hf:a/../b"})
    assert (answer.status, answer.error["code"]) == (400, "INVALID_REQUEST")
    answer = request("POST", url, {"model_ref": "mine", "sources": ["http://169.254.169.254"]})
    assert "event: failed" in answer.body.decode() or answer.status == 400
    assert "INVALID_REQUEST" in answer.body.decode()
    assert "registered pools only" in answer.body.decode()
    named = request(
        "POST", f"{cluster.homes['attic'].url}/v2/pools/attic/models/download", {"model_ref": "x", "sources": ["http://a"]}
    )
    assert (named.status, named.error["details"]["field"]) == (400, "sources")
    assert "did you mean" in refusal(cluster.llorch("models", "download", "tinylama"), "MODEL_NOT_FOUND", 1)
    refusal(cluster.llorch("models", "download", f"hf:{REPO}"), "DOWNLOAD_FAILED", 69)
    assert "Traceback" not in pool.said + cluster.orcd.said
