"""`llorch models download`: orcd chooses the pool where nobody names one, and the pools that hold a model give it to the others.

Two real pool daemons on hosts of their own, one orchestrator, and after the first download no hub at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.home import Finished, Home, wait_until
from tests.support.hub import Hub
from tests.support.hub_user import refusal
from tests.support.lan_hosts import LanHost, sha256
from tests.support.raw_http import request
from tests.support.tiny_gguf import write_tiny_gguf

REPO = "org/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"


class Cluster:
    """An orchestrator and its pools, each on a host of its own."""

    def __init__(self, first: Home, second: Home) -> None:
        self.home = first
        self.orcd = first.serve_orcd()
        second.url = first.url
        self.hosts = {name: LanHost(home, RBEES_POOLD_POOL_ID=name) for name, home in (("attic", first), ("cellar", second))}

    def serve(self, name: str, *models: str, **environ: str) -> LanHost:
        """Start a pool; orcd knows it and what it holds then."""
        host = self.hosts[name].serve(**environ)
        self.wait(name, *models)
        return host

    def wait(self, name: str, *models: str) -> None:
        """Until orcd knows of these models there, by reference or by name."""

        def holds(pool: dict[str, Any]) -> bool:
            known = {known for model in pool["models"] for known in (model["ref"], *model["aliases"])}
            return pool["pool_id"] == name and known.issuperset(models)

        wait_until(lambda: any(map(holds, self.llorch("pool", "list", "--json").json["pools"])), self.orcd, f"see {name}")

    def llorch(self, *words: str) -> Finished:
        return self.home.llorch(*words)

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
            cluster.serve(name, HF_ENDPOINT=hub.url)
        assert cluster.llorch("pool", "drain", "attic").returncode == 0
        first = cluster.llorch("models", "download", f"hf:{REPO}")
        assert first.returncode == 0, first.said
        assert "on cellar: it is the only one that takes work" in first.stderr
        ref = first.stdout.strip()
        assert ref.startswith(f"hf:{REPO}@")
    assert cluster.llorch("pool", "resume", "attic").returncode == 0
    cluster.wait("cellar", ref)
    chosen, *_, done = cluster.download(f"hf:{REPO}")
    assert (chosen["type"], chosen["pool_id"], chosen["why"]) == ("chosen", "cellar", "it has the model already")
    assert (done["model_ref"], done["sha256"], done["fetched_bytes"]) == (ref, sha256(tiny), 0)
    assert "was here already" in cluster.llorch("models", "download", ref).stderr


def test_what_a_download_through_orcd_is_refused_with(cluster: Cluster) -> None:
    pool = cluster.serve("attic").poold
    assert pool is not None
    url = f"{cluster.home.url}/v2/models/download"
    answer = request("POST", url, {"model_ref": "hf:a/../b"})
    assert (answer.status, answer.error["code"]) == (400, "INVALID_REQUEST")
    answer = request("POST", url, {"model_ref": "mine", "sources": ["http://169.254.169.254"]})
    assert "INVALID_REQUEST" in answer.body.decode()
    assert "registered pools only" in answer.body.decode()
    named = request("POST", f"{cluster.home.url}/v2/pools/attic/models/download", {"model_ref": "x", "sources": ["http://a"]})
    assert (named.status, named.error["details"]["field"]) == (400, "sources")
    assert "did you mean" in refusal(cluster.llorch("models", "download", "tinylama"), "MODEL_NOT_FOUND", 1)
    refusal(cluster.llorch("models", "download", f"hf:{REPO}"), "DOWNLOAD_FAILED", 69)
    assert "Traceback" not in pool.said + cluster.orcd.said


def test_pools_give_each_other_what_no_hub_does(cluster: Cluster, tiny: bytes) -> None:
    ref = cluster.hosts["attic"].cached(REPO, FILE, tiny)
    own = write_tiny_gguf(cluster.hosts["attic"].models / "own.gguf", seed=7)
    attic, cellar = cluster.serve("attic", ref, "own"), cluster.serve("cellar")
    for name, content in ((f"hf:{REPO}", tiny), ("own", own.read_bytes())):
        planned, *_, done = cluster.download(name, "--host", "cellar")
        assert planned["sources"] == [attic.url]
        assert (done["sha256"], done["by_source"]) == (sha256(content), {attic.url: len(content)})
        cluster.wait("cellar", name)
        assert cluster.download(name, "--host", "cellar")[-1]["fetched_bytes"] == 0
    assert cellar.facts(f"hf:{REPO}")["ref"] == ref, "the same commit as there"
    # The model is where it was, so a third host would have two sources.
    models = json.loads(cluster.llorch("models", "list", "--json").stdout)["models"]
    assert {tuple(model["pools"]) for model in models if model["facts"]["ref"] != "haiku"} == {("attic", "cellar")}


def test_only_the_pool_says_that_a_file_is_there(cluster: Cluster, tiny: bytes) -> None:
    """What was deleted a moment ago, which orcd does not know yet, is fetched again."""
    ref = cluster.hosts["attic"].cached(REPO, FILE, tiny)
    own = write_tiny_gguf(cluster.hosts["attic"].models / "own.gguf", seed=7)
    attic, cellar = cluster.serve("attic", ref, "own"), cluster.serve("cellar")
    paths = {}
    for name in (f"hf:{REPO}", "own"):
        done = cluster.download(name, "--host", "cellar")[-1]
        paths[name] = Path(done["paths"][0])
        cluster.wait("cellar", name)
    again = cluster.download("own", "--host", "cellar")[-1]
    assert (again["fetched_bytes"], again["paths"]) == (0, [str(paths["own"])])
    paths["own"].unlink()
    done = cluster.download("own", "--host", "cellar")[-1]
    assert (done["sha256"], done["by_source"]) == (sha256(own.read_bytes()), {attic.url: own.stat().st_size})
    assert paths["own"].exists()
    # The same where orcd chooses the pool, because it has the model already.
    assert cluster.llorch("pool", "drain", "attic").returncode == 0
    for name, path in paths.items():
        assert cluster.download(name)[-1]["fetched_bytes"] == 0

        def is_taken_at_its_word(name: str = name, path: Path = path) -> bool:
            path.resolve().unlink()
            chosen, *_, done = cluster.download(name)
            assert chosen["pool_id"] == "cellar"
            assert list(done["by_source"]) == [attic.url]
            assert path.exists()
            return bool(chosen["why"] == "it has the model already")

        # Every ten seconds the pool looks by itself, and may see that the file is gone before the command is there.
        wait_until(is_taken_at_its_word, what="choose a pool that does not know yet")
    assert cellar.poold is not None
    assert "Traceback" not in cellar.poold.said + cluster.orcd.said


def test_a_chosen_pool_gets_it_from_one_that_rests(cluster: Cluster, tiny: bytes) -> None:
    ref = cluster.hosts["attic"].cached(REPO, FILE, tiny)
    attic = cluster.serve("attic", ref)
    cluster.serve("cellar")
    assert cluster.llorch("pool", "drain", "attic").returncode == 0
    told = cluster.llorch("models", "download", f"hf:{REPO}")
    assert told.returncode == 0, told.said
    assert "on cellar: it is the only one that takes work: cpu there has" in told.stderr
    assert f"from {attic.url}" in told.stderr
    assert told.stdout.strip() == ref


def test_where_sources_fail_the_refusal_says_so(cluster: Cluster, tiny: bytes) -> None:
    ref = cluster.hosts["attic"].cached(REPO, FILE, tiny)
    attic = cluster.serve("attic", ref)
    cluster.serve("cellar")
    assert attic.poold is not None
    attic.poold.kill()
    # Orcd still counts on it, and the hub is nowhere.
    gone = cluster.llorch("models", "download", ref, "--host", "cellar")
    assert "without " + attic.url in gone.stderr
    refusal(gone, "DOWNLOAD_FAILED", 69)
