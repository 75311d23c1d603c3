"""Models from pool to pool: real daemons on loopback without a hub, over links that are slow, break off or end."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.certificates import make_certificate
from tests.support.home import Home, wait_until
from tests.support.hub import Hub
from tests.support.hub_user import refusal
from tests.support.lan_hosts import COMMIT, LanHost, events_of, sha256, spoil
from tests.support.links import Link
from tests.support.raw_http import request
from tests.support.scripted_models import write_script
from tests.support.strange_pools import StrangePool
from tests.support.tiny_gguf import split_gguf, write_tiny_gguf

TOKEN = "rbk_" + "t" * 43
REPO = "org/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"
REF = f"hf:{REPO}@{COMMIT}::file={FILE}"
SLOW = 2_000_000
"""So slow that it is seen to come; what need not be seen goes at full speed."""
PART = 5_000_000
"""A quarter of the model; behind it a link is so slow that a busy machine starts what it has to meanwhile."""

NewHost = Callable[..., LanHost]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real model of some twenty pieces."""
    path = write_tiny_gguf(tmp_path_factory.mktemp("lan") / "tiny.gguf", layers=2, width=768, heads=4, heads_kv=2)
    return path.read_bytes()


@pytest.fixture
def new_host() -> Iterator[NewHost]:
    with contextlib.ExitStack() as homes:
        yield lambda **environ: LanHost(homes.enter_context(Home()), **environ)


@pytest.fixture
def source(new_host: NewHost, model: bytes) -> LanHost:
    """A pool that has the model."""
    host = new_host()
    host.cached(REPO, FILE, model)
    return host.serve()


def kinds(events: list[dict[str, object]]) -> list[object]:
    return list(dict.fromkeys(event["type"] for event in events if event["type"] != "progress"))


def test_a_model_goes_by_the_same_names_on_the_new_pool(source: LanHost, new_host: NewHost, model: bytes) -> None:
    host = new_host().serve()
    events = host.fetched(f"hf:{REPO}", source.url)
    assert kinds(events) == ["planned", "done"]
    assert events[0]["sources"] == [source.url]
    assert (events[-1]["model_ref"], events[-1]["sha256"]) == (REF, sha256(model))
    assert events[-1]["by_source"] == {source.url: len(model)}
    assert host.facts(REF) == source.facts(REF)
    assert {f"hf:{REPO}", f"hf:{REPO}@main::file={FILE}", "tiny-Q4_K_M"} <= set(host.facts(REF)["aliases"])
    path = host.cache / "models--org--tiny-GGUF" / "snapshots" / COMMIT / FILE
    assert (path.is_symlink(), path.read_bytes() == model, host.blobs) == (True, True, [sha256(model)])
    assert kinds(again := host.fetched(REF, source.url)) == ["planned", "done"]
    assert again[-1]["fetched_bytes"] == 0
    # It gives what it has got, and a third one takes from both.
    third = new_host().serve()
    assert third.fetched("tiny-Q4_K_M", host.url, source.url, more=("--quant", "q4_k_m"))[-1]["model_ref"] == REF
    assert third.facts("tiny-Q4_K_M") == source.facts(REF)


def test_models_of_no_repository_keep_their_short_names(new_host: NewHost, model: bytes, tmp_path: Path) -> None:
    source = new_host()
    (source.models / "mine.gguf").write_bytes(model)
    write_script(source.models, "bees")
    split_gguf(source.models / "mine.gguf", source.models / "parts", 3)
    (tmp_path / "elsewhere.gguf").write_bytes(model + bytes(32))
    assert source.run("register", str(tmp_path / "elsewhere.gguf"), "--name", "named").returncode == 0
    source.serve()
    host = new_host().serve()
    for name in ("mine", "bees", "part", "named"):
        there = source.facts(name)
        done = host.fetched(name, source.url)[-1]
        here = host.facts(name)
        assert done["model_ref"] == here["ref"]
        assert here["ref"].startswith(f"file:{host.home.folder}")
        assert (here["sha256"], name in here["aliases"]) == (there["sha256"], True)
        assert host.fetched(there["ref"], source.url)[-1]["fetched_bytes"] == 0
    by_name = host.call("GET", "/models").json["models"]
    assert len([facts for facts in by_name if facts["ref"] != "haiku"]) == 4


def test_bytes_are_given_by_sum_and_range_and_nothing_else(source: LanHost, model: bytes) -> None:
    blob = f"/models/{sha256(model)}/blob"
    head = source.call("HEAD", blob)
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(model)), b"")
    assert source.call("GET", blob).body == model
    part = source.call("GET", blob, Range="bytes=1000-1999")
    assert (part.status, part.body) == (206, model[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(model)}"
    assert source.call("GET", blob, Range="bytes=-10").body == model[-10:]
    assert source.call("GET", blob, Range="bytes=0-0", If_Range='"other"').body == model
    for asked in (f"bytes={len(model)}-", "bytes=9-3", "bytes=0-1,3-4", "lines=1-2"):
        answer = source.call("GET", blob, Range=asked)
        assert (answer.status, answer.error["code"]) == (416, "RANGE_NOT_SATISFIABLE"), asked
    for path in (f"/models/{'0' * 64}/blob", "/models/..%2F..%2Fetc%2Fpasswd/blob", f"/models/{'0' * 64}/pieces"):
        assert source.call("GET", path).error["code"] == "MODEL_NOT_FOUND"
    assert source.offer("file:/etc/passwd").error["code"] == "MODEL_NOT_FOUND"
    assert source.offer(f"hf:{REPO}::file=Q8_0").status == 404
    assert source.offer(f"hf:{REPO}::file=Q4_K").json["model_ref"] == REF
    pieces = source.call("GET", f"/models/{sha256(model)}/pieces").json
    assert pieces["pieces"][1] == sha256(model[1 << 20 : 2 << 20])
    assert "held" not in pieces or pieces["held"] is None


def test_the_parts_of_a_model_are_given_by_their_own_sums(new_host: NewHost, model: bytes, tmp_path: Path) -> None:
    source = new_host()
    (tmp_path / "whole.gguf").write_bytes(model)
    parts = split_gguf(tmp_path / "whole.gguf", source.models / "parts", 2)
    source.serve()
    facts = source.facts("part")
    answer = source.call("GET", f"/models/{facts['sha256']}/blob")
    assert (answer.status, answer.error["details"]["parts"]) == (404, [sha256(part.read_bytes()) for part in parts])
    assert source.call("GET", f"/models/{sha256(parts[1].read_bytes())}/blob").body == parts[1].read_bytes()


def test_who_gives_other_bytes_than_it_says_is_dropped(source: LanHost, new_host: NewHost, model: bytes) -> None:
    liar = new_host()
    liar.cached(REPO, FILE, model)
    liar.serve()
    liar.facts(REF)
    assert liar.call("GET", f"/models/{sha256(model)}/pieces").status == 200
    spoil(liar.cache / "models--org--tiny-GGUF" / "blobs" / sha256(model))
    host = new_host().serve()
    with Link(source.url, bytes_per_s=SLOW) as slow:
        events = host.fetched(REF, liar.url, slow.url)
    (dropped,) = [event for event in events if event["type"] == "source_dropped"]
    assert (dropped["source"], "not the file's" in dropped["why"]) == (liar.url, True)
    assert events[-1]["sha256"] == sha256(model)
    assert host.blobs == [sha256(model)]
    assert host.poold is not None
    assert "model_source_dropped" in host.poold.said


def test_who_has_another_file_under_the_sum_is_found_out_at_the_end(source: LanHost, new_host: NewHost, model: bytes) -> None:
    liar = new_host()
    liar.cached(REPO, FILE, model)
    liar.serve()
    liar.facts(REF)
    spoil(liar.cache / "models--org--tiny-GGUF" / "blobs" / sha256(model))
    host = new_host().serve()
    alone = host.run("download", REF, "--from", liar.url, "--json")
    assert "another sha256 than it says" in alone.stdout
    assert (alone.returncode, '"DOWNLOAD_FAILED"' in alone.stderr) == (69, True), alone.said
    assert not [name for name in host.blobs if not name.endswith(".incomplete")]
    events = host.fetched(REF, liar.url, source.url)
    assert [event["source"] for event in events if event["type"] == "source_dropped"] == [liar.url]
    assert host.blobs == [sha256(model)]


def test_a_link_that_breaks_off_again_and_again(source: LanHost, new_host: NewHost, model: bytes) -> None:
    host = new_host().serve()
    with Link(source.url) as link:
        # The first connections ask what there is; those after them bring bytes.
        link.cut_after = [*[1 << 30] * 2, *[3_000_000] * 6]
        events = host.fetched(REF, link.url)
    assert events[-1]["sha256"] == sha256(model)
    assert kinds(events) == ["planned", "done"]


def test_a_source_that_dies_half_way_is_done_without(source: LanHost, new_host: NewHost, model: bytes) -> None:
    other = new_host()
    other.cached(REPO, FILE, model)
    other.serve().facts(REF)
    host = new_host().serve()
    with Link(source.url, SLOW, slow_after=PART) as first, Link(other.url, SLOW, slow_after=PART) as second:
        download = host.start(REF, first.url, second.url)
        wait_until(lambda: first.carried_bytes > 2_000_000 and second.carried_bytes > 2_000_000, download, "fetch from both")
        assert source.poold is not None
        source.poold.kill()
        second.bytes_per_s = None
        assert download.wait(120) == 0, download.said
    events = events_of(download)
    assert events[-1]["sha256"] == sha256(model)
    assert min(events[-1]["by_source"].values()) > 0
    assert len(events[-1]["by_source"]) == 2


def test_a_source_that_stands_still_keeps_nobody_waiting(source: LanHost, new_host: NewHost, model: bytes) -> None:
    other = new_host()
    other.cached(REPO, FILE, model)
    other.serve().facts(REF)
    host = new_host().serve()
    with Link(source.url, SLOW, slow_after=PART) as first, Link(other.url, SLOW, slow_after=PART) as second:
        download = host.start(REF, first.url, second.url)
        wait_until(lambda: first.carried_bytes > 2_000_000 and second.carried_bytes > 2_000_000, download, "fetch from both")
        assert source.poold is not None
        source.poold.send(signal.SIGSTOP)
        second.bytes_per_s = None
        try:
            assert download.wait(120) == 0, download.said
        finally:
            source.poold.send(signal.SIGCONT)
    assert events_of(download)[-1]["sha256"] == sha256(model)


def test_a_killed_pool_goes_on_from_what_it_has(source: LanHost, new_host: NewHost, model: bytes) -> None:
    host = new_host().serve()
    with Link(source.url, SLOW, slow_after=PART) as link:
        download = host.start(REF, link.url)
        wait_until(lambda: link.carried_bytes > PART, download, "fetch a part")
        assert host.poold is not None
        children = psutil.Process(host.poold.pid).children(recursive=True)
        host.poold.kill()
        assert download.wait() != 0
        psutil.wait_procs(children, timeout=20)
        (left,) = host.blobs
        assert left == f"{sha256(model)}.pieces.incomplete"
        link.bytes_per_s = None
        host.serve()
        done = host.fetched(REF, link.url)[-1]
    assert 0 < done["fetched_bytes"] < len(model) - 2_000_000
    assert host.blobs == [sha256(model)]
    assert host.facts(REF)["sha256"] == sha256(model)


def test_a_pool_gives_what_it_has_of_what_it_still_fetches(source: LanHost, new_host: NewHost, model: bytes) -> None:
    middle, last = new_host().serve(), new_host().serve()
    with Link(source.url, SLOW, slow_after=PART) as link:
        first = middle.start(REF, link.url)
        held = middle.call("GET", f"/models/{sha256(model)}/pieces").json["held"]
        assert held is not None
        missing = middle.call("GET", f"/models/{sha256(model)}/blob", Range=f"bytes={len(model) - 10}-")
        assert (missing.status, missing.error["code"]) == (503, "MODEL_LOADING")
        second = last.start(f"hf:{REPO}", middle.url)
        assert first.process.poll() is None, "the first one was still fetching"
        link.bytes_per_s = None
        assert (first.wait(120), second.wait(120)) == (0, 0), first.said + second.said
    assert events_of(second)[-1]["by_source"] == {middle.url: len(model)}
    assert link.carried_bytes < len(model) * 1.5
    assert last.facts(REF) == source.facts(REF)


def test_the_hub_goes_on_where_the_pools_end(source: LanHost, new_host: NewHost, model: bytes) -> None:
    with Hub() as hub, Link(source.url, SLOW, slow_after=PART) as link:
        repository = hub.add(REPO, {FILE: model})
        host = new_host(HF_ENDPOINT=hub.url)
        source.cached(REPO, FILE, model, repository.commit)
        ref = f"hf:{REPO}@{repository.commit}::file={FILE}"
        source.facts(ref)
        host.serve()
        download = host.start(ref, link.url)
        wait_until(lambda: link.carried_bytes > PART, download, "fetch a part")
        assert source.poold is not None
        source.poold.kill()
        assert download.wait(120) == 0, download.said
        events = events_of(download)
        assert kinds(events) == ["planned", "source_dropped", "done"]
        assert [event["sources"] for event in events if event["type"] == "planned"] == [[link.url], []]
        assert hub.sent_bytes(FILE)[0].first_byte > 1 << 20
    assert host.blobs == [sha256(model)]


def test_a_second_request_joins_the_first(source: LanHost, new_host: NewHost, model: bytes) -> None:
    host = new_host().serve()
    with Link(source.url, SLOW, slow_after=PART) as link:
        first, second = host.start(REF, link.url), host.begin(REF, link.url)
        wait_until(lambda: '"waiting":true' in second.stdout, second, "wait")
        link.bytes_per_s = None
        assert (first.wait(120), second.wait(120)) == (0, 0), first.said + second.said
        assert link.carried_bytes < len(model) * 1.5
    assert sorted(events_of(one)[-1]["fetched_bytes"] for one in (first, second)) == [0, len(model)]


def test_a_terminal_fetches_without_a_daemon(source: LanHost, new_host: NewHost, model: bytes, tmp_path: Path) -> None:
    host = new_host()
    done = host.run("download", f"hf:{REPO}", "--from", f"{source.url}/")
    assert (done.returncode, done.stdout.strip()) == (0, REF), done.said
    assert f"from {source.url}" in done.stderr
    assert (
        host.fetched(REF, source.url, more=("--local-dir", str(tmp_path / "here")))[-1]["model_ref"]
        == f"file:{tmp_path}/here/{FILE}"
    )
    assert [path.name for path in (tmp_path / "here").iterdir()] == [FILE]
    assert host.run("verify", REF).returncode == 0


def test_the_cluster_s_token_goes_to_the_source_by_tls(new_host: NewHost, model: bytes, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    source = new_host()
    source.cached(REPO, FILE, model)
    files = {"TLS_CERT_FILE": cert, "TLS_KEY_FILE": key, "TLS_CA_FILE": cert, "TOKEN_FILE": token}
    own = {f"RBEES_POOLD_{name}": str(path) for name, path in files.items()}
    daemon = source.home.start("poold", "serve", environ={**source.environ, **own})
    wait_until(lambda: "daemon_ready" in daemon.said, daemon, "become ready")
    url = f"https://127.0.0.1:{source.port}"
    host = new_host(RBEES_POOLD_TLS_CA_FILE=str(cert), RBEES_POOLD_TOKEN_FILE=str(token)).serve()
    assert host.fetched(REF, url)[-1]["by_source"] == {url: len(model)}
    assert host.poold is not None
    assert TOKEN not in host.poold.said + daemon.said
    stranger = new_host(RBEES_POOLD_TLS_CA_FILE=str(cert)).serve()
    assert "token is asked for" in refusal(stranger.run("download", "tiny-Q4_K_M", "--from", url), "DOWNLOAD_FAILED", 69)
    # A host of the settings gets the token that they name for it, and is known by the authority that they name for it.
    guest = new_host()
    (guest.home.folder / "config.toml").write_text(f'[hosts.mac]\nurl = "{url}"\ntoken_file = "{token}"\ntls_ca_file = "{cert}"\n')
    assert guest.fetched(REF, f"{url}/")[-1]["by_source"] == {url: len(model)}
    said = refusal(host.run("download", REF, "--from", "http://mac.home.arpa:9200"), "CONFIGURATION", 78)
    assert "readable" in said


def offered(ref: str, size_bytes: int = 7) -> dict[str, object]:
    """What a pool says that need not have anything."""
    total = "e" * 64
    return {
        "model_ref": ref,
        "sha256": total,
        "files": [{"path": ref.rpartition("=")[2], "size_bytes": size_bytes, "sha256": total}],
    }


def test_who_offers_something_else_than_was_asked_for_is_dropped(new_host: NewHost, model: bytes) -> None:
    with Hub() as hub:
        commit = hub.add(REPO, {FILE: model}).commit
        ref = f"hf:{REPO}@{commit}::file={FILE}"
        with (
            StrangePool(offered(f"hf:{REPO}@{'f' * 40}::file={FILE}")) as old,
            StrangePool(offered(f"hf:{REPO}@{commit}::file=evil-{FILE}")) as strange,
            StrangePool(offered(f"hf:{REPO}@{commit}::file=evil-Q8_0.gguf")) as other,
            StrangePool(offered(ref, 1 << 60)) as endless,
        ):
            urls = [pool.url for pool in (old, strange, other, endless)]
            events = new_host(HF_ENDPOINT=hub.url).fetched(ref, *urls)
            assert [event["source"] for event in events if event["type"] == "source_dropped"] == urls
            assert (events[-1]["model_ref"], events[-1]["sha256"]) == (ref, sha256(model))
            # A part of a name is enough where no commit is named, and is one all the same.
            part = new_host(HF_ENDPOINT=hub.url).fetched(f"hf:{REPO}::file=q4_k", other.url)
            assert (kinds(part), part[-1]["model_ref"]) == (["source_dropped", "planned", "done"], ref)


def test_who_offers_more_than_the_disk_takes_keeps_nobody_from_it(source: LanHost, new_host: NewHost, model: bytes) -> None:
    too_much = shutil.disk_usage(source.home.folder).free + (1 << 40)
    with Hub() as hub:
        commit = hub.add(REPO, {FILE: model}).commit
        ref = f"hf:{REPO}@{commit}::file={FILE}"
        with StrangePool(offered(ref, too_much)) as liar, StrangePool(offered(REF, too_much)) as twin:
            alone = new_host(HF_ENDPOINT=hub.url).fetched(ref, liar.url)
            assert (kinds(alone), alone[-1]["sha256"]) == (["source_dropped", "planned", "done"], sha256(model))
            beside = new_host().fetched(REF, twin.url, source.url)
            assert (beside[0]["source"], beside[-1]["by_source"]) == (twin.url, {source.url: len(model)})
            refusal(new_host().run("download", REF, "--from", twin.url), "STORAGE_FULL", 74)
            refusal(new_host().run("download", "mine", "--from", twin.url), "STORAGE_FULL", 74)


def test_what_no_pool_can_give_is_said_in_one_sentence(source: LanHost, new_host: NewHost) -> None:
    host = new_host().serve()
    refused = refusal(host.run("download", "nobodys", "--from", source.url), "MODEL_NOT_FOUND", 1)
    assert source.url in refused
    gone = refusal(host.run("download", "nobodys", "--from", "http://127.0.0.1:9"), "DOWNLOAD_FAILED", 69)
    assert "connection refused" in gone
    both = refusal(host.run("download", f"hf:{REPO}", "--quant", "Q8_0", "--from", source.url), "DOWNLOAD_FAILED", 69)
    assert "hub" in both
    for bad in ("mac", "ftp://mac", "http://user:secret@mac", "http://mac?x=1"):
        said = refusal(host.run("download", REF, "--from", bad), "INVALID_REQUEST", 2)
        assert "secret" not in said
    body = {"model_ref": REF, "sources": [source.url], "sha256": "0" * 64}
    answer = request("POST", f"{host.url}/models/download", body)
    # The hub is asked after all, which takes a while to say that it is not there.
    kinds_told = [line for line in answer.body.decode().splitlines() if line.startswith("event: ")]
    assert kinds_told == ["event: source_dropped", "event: failed"]
    body["model_ref"] = "nobodys"
    assert request("POST", f"{host.url}/models/download", body).status == 404
    body["sources"] = ["http://a/b"]
    assert request("POST", f"{host.url}/models/download", body).status == 400
