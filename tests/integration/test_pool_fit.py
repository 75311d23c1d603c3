"""`rbees-pool fit` without a daemon, through one, and from another host: the same answer, and every refusal in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbees.pool.fit import COLUMNS
from rbees.terminal.columns import Page, Sheet
from rbees.terminal.pages import page_lines
from tests.integration.test_ctl_reach_ssh import pool
from tests.support.fake_orcd import FakeOrcd
from tests.support.home import Finished, Home, entry_point, free_port, wait_until
from tests.support.pool_host import PoolHost
from tests.support.raw_http import request
from tests.support.screens import OnScreen
from tests.support.sparse_gguf import SHAPES, SparseShape, write_sparse_gguf
from tests.support.tiny_gguf import write_tiny_gguf

HUGE = SparseShape(
    architecture="llama",
    layers=400,
    width=32_768,
    feed_forward=131_072,
    heads=64,
    heads_kv=8,
    head_width=512,
    vocabulary=512,
    context=8_192,
)
"""Some terabytes, of which the disk holds none."""


@pytest.fixture
def host(home: Home) -> Iterator[PoolHost]:
    with FakeOrcd() as orcd:
        yield PoolHost(home, orcd)


def ask(home: Home, *words: str, **environ: str) -> Finished:
    # A port of its own, so that no daemon of somebody else is taken for this host's.
    return home.run("fit", *words, program="rbees-pool", environ={"RBEES_POOLD_PORT": str(free_port()), **environ})


def refused(done: Finished, code: str, exit_code: int) -> str:
    assert (done.returncode, f"[{code}]" in done.stderr) == (exit_code, True), done.said
    return done.stderr


def test_a_host_without_a_daemon_says_it_itself(home: Home) -> None:
    shown = ask(home, "haiku", "--slots", "2", "--ctx", "512")
    assert shown.returncode == 0, shown.said
    assert "2 sequences of at most 512 tokens" in shown.stdout
    head, row, empty, rate = shown.stdout.splitlines()[-4:]
    assert head.split() == ["DEVICE", "LAYERS", "WEIGHTS", "KV", "BUFFERS", "NEEDED", "TO", "GIVE"]
    assert row.startswith("cpu")
    assert row.endswith("fits; a spawn takes it")
    assert (empty, rate) == ("", "expected rate  not known: no worker here has served on such a device yet")
    found = ask(home, "haiku", "--json").json
    (place,) = found["seats"][found["chosen"]]["places"]
    assert place["needed_bytes"] == place["weights_bytes"] + place["kv_bytes"] + place["buffers_bytes"]
    assert place["layers"] == found["model"]["layers"]
    assert found["seats"][0]["rate"] is None, "nobody has measured anything"


def test_a_worker_that_still_loads_counts_without_a_daemon_too(host: PoolHost) -> None:
    """Of what it will take nothing shows in what is free."""
    host.configure()
    host.script(load_seconds=300)
    command = host.home.start("worker", "spawn", "--model", "bees", program="rbees-pool")
    wait_until(lambda: "is loading" in command.said, command, "start it")
    (facts,) = host.listed().values()
    found = host.home.run("fit", "haiku", "--json", program="rbees-pool").json
    (place,) = found["seats"][found["chosen"]]["places"]
    assert place["held_bytes"] == facts["memory_bytes"] > 0
    (worker,) = host.home.workers()
    command.kill()
    worker.kill()


def test_a_file_needs_no_name(home: Home, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "new.gguf")
    assert ask(home, str(path), "--json").json["model"]["ref"] == f"file:{path}"
    tokens = ask(home, str(path), "--ctx", "9000")
    assert tokens.returncode == 0, tokens.said
    assert "trained for 2048 tokens of context and 9000 were asked for" in tokens.stderr


def test_a_model_that_nothing_here_holds_says_by_how_much(home: Home, tmp_path: Path) -> None:
    path = write_sparse_gguf(tmp_path / "huge.gguf", HUGE)
    done = ask(home, str(path))
    said = refused(done, "INSUFFICIENT_VRAM", 1)
    assert " too few" in done.stdout
    assert "MiB too few. Ask for a smaller context" in said
    as_json = ask(home, str(path), "--json")
    found, error = json.loads(as_json.stdout), json.loads(as_json.stderr)["error"]
    (place,) = found["seats"][0]["places"]
    assert (found["chosen"], as_json.returncode, error["code"]) == (None, 1, "INSUFFICIENT_VRAM")
    assert error["details"]["missing_bytes"] == place["missing_bytes"] == place["needed_bytes"] - place["available_bytes"]


def test_on_a_terminal_it_is_a_table(home: Home) -> None:
    words = [*entry_point("rbees-pool"), "fit", "haiku"]
    with OnScreen(words, home.environ(RBEES_POOLD_PORT=str(free_port()), TERM="xterm"), columns=80) as shown:
        assert shown.end() == 0
    lines = shown.picture.plain.splitlines()
    assert all(len(line) <= 80 for line in lines)
    row = next(line for line in lines if line.startswith("cpu"))
    assert row.endswith("fits; a spawn takes it")
    assert "no room for: buffers" in lines


def test_no_verdict_is_cut_where_room_is_short() -> None:
    sizes = ["32", "281.8 MiB", "320.0 MiB", "172.8 MiB", "900.8 MiB", "900.8 MiB"]
    verdicts = ["900.8 MiB too few", "fits; a spawn takes it", "fits with --device cuda:0,cuda:1", "fits with --gpu-layers 28"]
    rows = [["+ cuda:0", *sizes, verdict] for verdict in verdicts]
    for width in (70, 80, 100):
        texts = [line.text for line in page_lines(Page(sheets=(Sheet(COLUMNS, rows, ""),)), width)]
        assert all(len(text) <= width for text in texts)
        assert [text.endswith(verdict) for text, verdict in zip(texts[1:], verdicts, strict=False)] == [True] * 4, texts


def test_what_cannot_be_looked_at_is_refused_in_a_sentence(home: Home, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("A letter to a friend, much longer than the head of a model's file would be.")
    assert "does not begin with the letters `GGUF`" in refused(ask(home, str(tmp_path / "text.gguf")), "MODEL_INCOMPATIBLE", 1)
    assert "name a GGUF file" in refused(ask(home, str(tmp_path / "none.gguf")), "MODEL_NOT_FOUND", 1)
    assert "is a folder" in refused(ask(home, str(tmp_path)), "MODEL_NOT_FOUND", 1)
    assert "did you mean haiku?" in refused(ask(home, "haikku"), "MODEL_NOT_FOUND", 1)
    assert "has no device 'cpu:7'. It has: cpu" in refused(ask(home, "haiku", "--device", "cpu:7"), "INVALID_REQUEST", 2)
    for words in (("--backend", "metal"), ("--backend", "metal", "--gpu", "3"), ("--device", "metal:3")):
        assert "for the backend metal. It has: cpu" in refused(ask(home, "haiku", *words), "BACKEND_UNAVAILABLE", 69)
    wrong = ask(home, "haiku", "--kv-type-v", "q8_0", "--flash-attention", "off")
    assert "only with flash attention" in refused(wrong, "INVALID_REQUEST", 2)
    for words in (("--ctx", "5"), ("--slots", "0"), ("--gpu", "1")):
        done = ask(home, "haiku", *words)
        assert done.returncode == 2, words
        assert words[0] != "--gpu" or "cuda or metal as --backend" in done.stderr


def test_a_daemon_counts_what_its_workers_hold_and_have_measured(host: PoolHost) -> None:
    host.script()
    write_tiny_gguf(host.models / "tiny.gguf")
    daemon = host.serve()
    before = ask(host.home, "tiny", "--json", "--poold-url", daemon.url).json
    facts = host.ready()
    ready = host.orcd.wait("/workers/ready")["ready"]
    body = {"job_id": "job-01m85v0jsd2kta03kbjw9kfphe", "epoch": 1, "prompt": "Bees", "max_tokens": 20}
    answer = request("POST", f"{ready['uri']}/execute", body, headers={"Authorization": f"Bearer {ready['secret']}"})
    assert answer.status == 200, answer.body
    after = ask(host.home, "tiny", "--json", "--poold-url", daemon.url).json
    (first,), (second,) = before["seats"][0]["places"], after["seats"][0]["places"]
    assert first["held_bytes"] == 0 < second["held_bytes"]
    assert after["seats"][0]["rate"] is None, "a scripted worker says nothing of how fast others are"
    assert "expected rate  not known: no worker here" in ask(host.home, "tiny", "--poold-url", daemon.url).stdout
    found = ask(host.home, "bees", "--json", "--poold-url", daemon.url).json
    rate = found["seats"][0]["rate"]
    assert (rate["source"], rate["worker_id"]) == ("measured", facts["worker_id"])
    assert rate["decode_tokens_per_second"] > 0
    shown = ask(host.home, "bees", "--poold-url", daemon.url)
    assert "expected rate" in shown.stdout
    assert f"measured by {facts['worker_id']}" in shown.stdout
    assert "are set aside for workers that run" in shown.stderr
    unknown = ask(host.home, "tinny", "--poold-url", daemon.url)
    assert "did you mean tiny?" in refused(unknown, "MODEL_NOT_FOUND", 1)
    # The worker stays when the daemon goes, and says it to a command too.
    daemon.stop()
    host.configure()
    assert ask(host.home, "bees", "--json").json["seats"][0]["rate"] == rate


def test_a_file_here_is_reckoned_with_by_the_daemon_here(host: PoolHost, tmp_path: Path) -> None:
    daemon = host.serve()
    path = write_sparse_gguf(tmp_path / "model.gguf", SHAPES["tinyllama-1.1b"])
    found = ask(host.home, str(path), "--json", "--poold-url", daemon.url).json
    assert found["seats"][0]["places"][0]["weights_bytes"] == path.stat().st_size


def test_another_host_is_asked_as_all_commands_ask_it(host: PoolHost) -> None:
    host.script()
    host.serve()
    (host.home.folder / "config.toml").write_text(f'[hosts.attic]\nurl = "http://127.0.0.1:{host.port}"\nssh = "127.0.0.1:1"\n')
    done = pool(host.home, "fit", "bees", "--host", "attic", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seats"][0]["backend"] == "scripted"
    assert pool(host.home, "fit", "bees", "--host", "attic", "--device", "cpu:7").returncode == 2


def test_the_route_refuses_what_it_does_not_know(host: PoolHost) -> None:
    host.script()
    host.serve()
    for body, status in (({}, 400), ({"model_ref": "bees", "ctx": 3}, 400), ({"model_ref": "none"}, 404)):
        assert host.call("POST", "/models/fit", body).status == status, body
