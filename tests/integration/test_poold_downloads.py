"""Models fetched by a pool for its callers: over HTTP, through orcd, from two sides at once, and what ends that too early."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from tests.integration.test_ctl_reach_ssh import configure, pool, trust
from tests.support.home import Daemon, Finished, Home, entry_point, wait_until
from tests.support.hub import Hub
from tests.support.hub_user import TOKEN, User, refusal, sha256
from tests.support.raw_http import request
from tests.support.scripted_models import write_script
from tests.support.sshd import Sshd
from tests.support.tiny_gguf import write_tiny_gguf

REPO = "org/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_tiny_gguf(tmp_path_factory.mktemp("hub") / "tiny.gguf", layers=2, width=512, heads=4, heads_kv=2)
    return path.read_bytes()


class Host(User):
    """A host whose pool daemon knows the hub, and its operator, whose own terminal does not."""

    def __init__(self, home: Home, hub: Hub, content: bytes) -> None:
        super().__init__(home, hub)
        hub.add(REPO, {FILE: content})
        (home.folder / "models.toml").write_text(f'[models.mine]\nhub = "hf:{REPO}"\n')
        (home.folder / "models").mkdir()
        self.poold = home.serve_poold(
            int(self.environ["RBEES_POOLD_PORT"]),
            environ={**self.environ, "RBEES_POOLD_MODEL_DIRS": str(home.folder / "models"), "HF_TOKEN": TOKEN},
        )
        self.tool = ["--poold-url", self.poold.url]

    def ask(self, *words: str) -> Finished:
        return self.home.run("models", *words, *self.tool, program="rbees-pool")

    def begin(self, *words: str) -> Daemon:
        started = self.home.start("models", "download", *words, "--json", *self.tool, program="rbees-pool")
        wait_until(lambda: re.search(r'"done_bytes":[1-9]', started.stdout), started, "fetch a part")
        return started

    def fetching(self) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.poold.pid).children() if _fetches(child)]


def _fetches(process: psutil.Process) -> bool:
    try:
        return "rbees.host.model_fetch" in process.cmdline()
    except psutil.Error:
        return False  # It has just ended.


@pytest.fixture
def host(home: Home, tiny: bytes) -> Iterator[Host]:
    with Hub() as hub:
        yield Host(home, hub, tiny)


def test_a_pool_fetches_lists_and_removes(host: Host, tiny: bytes) -> None:
    done = host.ask("download", "mine", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (events[0]["type"], events[-1]["type"]) == ("planned", "done"), done.said
    assert events[-1]["sha256"] == sha256(tiny)
    ref = events[-1]["model_ref"]
    assert "mine" in host.ask("list").stdout
    assert "fits cpu" in host.ask("info", "mine").stdout
    assert TOKEN not in host.poold.said
    assert "model_downloaded" in host.poold.said
    answer = request("DELETE", f"{host.poold.url}/models/{quote(ref, safe='')}")
    assert (answer.status, answer.json) == (200, {"model_ref": ref, "freed_bytes": len(tiny)})
    assert ref not in host.ask("list").stdout
    assert host.ask("download", "mine").returncode == 0
    assert host.ask("delete", "mine", "--yes", "--json").json == {"model_ref": ref, "freed_bytes": len(tiny)}
    for name, status, code in ((ref, 404, "MODEL_NOT_FOUND"), ("haiku", 403, "FORBIDDEN")):
        answer = request("DELETE", f"{host.poold.url}/models/{quote(name, safe='')}")
        assert (answer.status, answer.error["code"]) == (status, code)


def test_what_refuses_a_download_has_its_own_status(host: Host) -> None:
    def refused(ref: str, **more: object) -> tuple[int, str]:
        answer = request("POST", f"{host.poold.url}/models/download", {"model_ref": ref, **more})
        return answer.status, answer.error["code"]

    assert refused("minne") == (404, "MODEL_NOT_FOUND")
    assert refused("hf:org/none") == (404, "MODEL_NOT_FOUND")
    assert refused("file:/etc/passwd") == (400, "INVALID_REQUEST")
    assert refused("hf:a/../b") == (400, "INVALID_REQUEST")
    assert refused("mine", local_dir="/etc") == (400, "INVALID_REQUEST")
    assert refused("mine", quantization="Q9") == (404, "MODEL_NOT_FOUND")
    host.hub.faults[FILE].wrong = 1
    assert FILE in refusal(host.ask("download", "mine"), "CHECKSUM_MISMATCH", 74)


def test_orcd_passes_a_download_on_and_knows_the_model_then(home: Home, tiny: bytes) -> None:
    # No heartbeat is due before the test ends.
    rare = {"HEARTBEAT_INTERVAL_S": "600", "SUSPECT_AFTER_S": "1200", "LOST_AFTER_S": "1800"}
    home.serve_orcd(environ={f"RBEES_ORCD_{name}": value for name, value in rare.items()})
    with Hub() as hub:
        host = Host(home, hub, tiny)
        wait_until(lambda: "bench" in home.llorch("pool", "list").stdout, host.poold, "register")
        done = home.llorch("models", "download", "mine", "--host", "bench")
        assert done.returncode == 0, done.said
        assert done.stdout.startswith(f"hf:{REPO}@")
        assert "mine" in home.llorch("models", "list", "--json").stdout, "known when the download ends, not a heartbeat later"
        assert "did you mean mine" in refusal(home.llorch("models", "download", "minne"), "MODEL_NOT_FOUND", 1)
        refusal(home.llorch("models", "download", "mine", "--host", "nobody"), "POOL_NOT_FOUND", 1)
        answer = request("POST", f"{home.url}/v2/pools/nobody/models/download", {"model_ref": "mine"})
        assert (answer.status, answer.error["code"]) == (404, "POOL_NOT_FOUND")
        assert host.ask("delete", "mine", "--yes").returncode == 0
        assert "mine" not in home.llorch("models", "list", "--json").stdout
        # What a command brings is told by the time it ends.
        file = home.folder / "elsewhere.gguf"
        file.write_bytes(tiny)
        assert host.run("register", str(file), "--name", "brought").returncode == 0
        assert "brought" in home.llorch("models", "list", "--json").stdout
        assert host.run("delete", "brought", "--yes").returncode == 0
        assert "brought" not in home.llorch("models", "list", "--json").stdout
        assert host.run("download", f"hf:{REPO}", HF_TOKEN=TOKEN).returncode == 0
        assert "mine" in home.llorch("models", "list", "--json").stdout
        # What the pool finds by itself is not left to the next heartbeat either.
        write_script(home.folder / "models", "bees")
        wait_until(lambda: "bees" in home.llorch("models", "list", "--json").stdout, host.poold, "tell what it found")


def test_another_host_fetches_whatever_is_set_here(host: Host, tmp_path: Path) -> None:
    (host.home.folder / "config.toml").write_text(f'[hosts.attic]\nurl = "{host.poold.url}"\n')
    here = {"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path), "RBEES_MODELS_DIR": str(tmp_path)}
    done = host.home.run("pool", "models", "download", "mine", "--host", "attic", program="llorch", environ=here)
    assert done.returncode == 0, done.said
    assert host.blobs
    assert not list(tmp_path.iterdir())


def test_a_folder_is_one_of_the_host(host: Host, tiny: bytes) -> None:
    home = host.home
    with Sshd(home.folder / "attic", {**host.environ, "RBEES_HOME": str(home.folder)}) as sshd:
        configure(home, sshd)
        trust(home, sshd)
        settings = home.folder / "config.toml"
        text = settings.read_text().replace(f"{sshd.folder}/rbees-pool", entry_point("rbees-pool")[0])
        settings.write_text(f'{text}url = "{host.poold.url}"\n')
        words = ["models", "download", "mine", "--local-dir", f"{home.folder}/there", "--host", "attic"]
        # Only the daemon and the sessions of the SSH server know the hub.
        done = pool(home, *words)
        assert done.returncode == 0, done.stderr
        assert (home.folder / "there" / FILE).read_bytes() == tiny
        forced = pool(home, *words, "--via", "http")
        assert (forced.returncode, "`--local-dir` needs the host itself" in forced.stderr) == (2, True), forced.stderr
        assert (
            pool(home, "models", "download", "mine", f"--local-dir={home.folder}/x", "--host", "attic", "--via", "http").returncode
            == 2
        )
    assert "no daemon takes it" in refusal(
        host.ask("download", "mine", "--local-dir", str(home.folder / "x")), "INVALID_REQUEST", 2
    )
    assert not (home.folder / "x").exists()


def test_sources_are_asked_by_the_host_that_is_named(host: Host) -> None:
    (host.home.folder / "config.toml").write_text(f'[hosts.attic]\nurl = "{host.poold.url}"\n')
    done = pool(host.home, "models", "download", "mine", "--from", "http://127.0.0.1:1", "--host", "attic")
    assert done.returncode == 0, done.stderr
    assert "without http://127.0.0.1:1" in done.stderr
    assert "model_source_dropped" in host.poold.said
    assert host.blobs


def test_a_name_is_never_taken_from_this_host_in_place_of_another(host: Host, tiny: bytes) -> None:
    file = host.home.folder / "own.gguf"
    file.write_bytes(tiny)
    assert host.run("register", str(file)).returncode == 0
    wait_until(lambda: "own" in host.ask("list").stdout, host.poold, "find it")
    assert "only on its host" in refusal(host.ask("delete", "own", "--yes"), "FORBIDDEN", 77)
    assert "the file stays" in host.run("delete", "own", "--yes").stderr


def test_a_pool_and_a_terminal_share_one_transfer(host: Host, tiny: bytes) -> None:
    host.hub.faults[FILE].hold()
    first = host.begin("mine")
    # The first one is not done before the second one, which takes a while to start, waits for it.
    second = host.start("mine")
    wait_until(lambda: '"waiting":true' in second.stdout, second, "wait")
    host.hub.faults[FILE].let_go()
    assert (first.wait(), second.wait()) == (0, 0), first.said + second.said
    assert len(host.hub.sent_bytes(FILE)) == 1
    assert host.blobs == [sha256(tiny)]


def test_a_caller_that_leaves_ends_the_transfer_and_keeps_what_came(host: Host, tiny: bytes) -> None:
    host.hub.faults[FILE].hold()
    first = host.begin("mine")
    assert len(host.fetching()) == 1
    first.kill()
    wait_until(lambda: not host.fetching(), host.poold, "end the transfer")
    assert host.blobs == [f"{sha256(tiny)}.incomplete"]
    host.hub.faults[FILE].let_go()
    assert host.ask("download", "mine").returncode == 0
    assert host.hub.sent_bytes(FILE)[-1].first_byte > 0


def test_a_caller_may_leave_before_anything_is_known(host: Host) -> None:
    host.hub.listing_takes_s = 7.0
    with socket.create_connection(("127.0.0.1", int(host.environ["RBEES_POOLD_PORT"]))) as caller:
        body = b'{"model_ref": "mine"}'
        head = f"POST /models/download HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        caller.sendall(f"{head}\r\n\r\n".encode() + body)
        wait_until(host.fetching, host.poold, "ask the hub")
    wait_until(lambda: not host.fetching(), host.poold, "stop asking")
    assert "Traceback" not in host.poold.said
    # A listing that takes long begins the stream first, so that nobody gives up waiting for it.
    assert host.ask("download", "mine").returncode == 0


def test_a_pool_that_ends_says_so(host: Host) -> None:
    host.hub.faults[FILE].hold()
    first = host.begin("mine")
    (child,) = host.fetching()
    assert host.poold.stop() == 0
    assert first.wait() == 69
    assert "DRAINING" in first.said
    assert not psutil.pid_exists(child.pid)


def test_a_model_that_is_served_stays(host: Host) -> None:
    path = write_script(host.home.folder / "models", "bees")
    wait_until(lambda: "bees" in host.ask("list").stdout, host.poold, "find it")
    spawned = host.home.run("worker", "spawn", "--model", "bees", *host.tool, program="rbees-pool")
    assert spawned.returncode == 0, spawned.said
    url = f"{host.poold.url}/models/bees"
    answer = request("DELETE", url)
    assert (answer.status, answer.error["code"]) == (409, "DEVICE_BUSY")
    assert "serves" in refusal(
        host.run("delete", "bees", "--yes", RBEES_POOLD_MODEL_DIRS=str(Path(path).parent)), "DEVICE_BUSY", 75
    )
    assert host.home.run("worker", "stop", spawned.stdout.strip(), *host.tool, program="rbees-pool").returncode == 0
    assert request("DELETE", url).status == 200
    assert not Path(path).exists()
