"""`llorch pool worker … --host mac` by SSH to a host without a daemon: the real tool behind a real OpenSSH server."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil
import pytest

from tests.support.fake_orcd import FakeOrcd
from tests.support.home import Finished, Home, entry_point, wait_until
from tests.support.pool_host import PoolHost, is_gone
from tests.support.sshd import Sshd


@pytest.fixture
def mac(home: Home) -> Iterator[PoolHost]:
    """A host that `home` logs in to; nothing of rbees runs there."""
    with Home() as there, FakeOrcd() as orcd:
        host = PoolHost(there, orcd)
        host.configure()
        with Sshd(home.folder / "mac", {"RBEES_HOME": str(there.folder)}) as sshd:
            (home.folder / "config.toml").write_text(
                f'[ctl]\nssh_config_file = "{home.folder}/ssh_config"\nknown_hosts_file = "{home.folder}/known_hosts"\n'
                f'[hosts.mac]\nurl = "http://127.0.0.1:{host.port}"\nssh = "mac"\nprogram = "{entry_point("rbees-pool")[0]}"\n'
            )
            (home.folder / "ssh_config").write_text(
                f"Host mac\n  HostName 127.0.0.1\n  Port {sshd.port}\n  IdentityFile {sshd.user_key}\n  IdentitiesOnly yes\n"
            )
            (home.folder / "known_hosts").write_text(sshd.known_line)
            yield host


def worker(home: Home, *words: str) -> Finished:
    return home.run("pool", "worker", *words, "--host", "mac", program="llorch", timeout_s=90)


def test_a_worker_outlives_the_login_in_which_it_was_started(home: Home, mac: PoolHost) -> None:
    mac.script(load_seconds=0.2)
    spawned = worker(home, "spawn", "--model", "bees")
    assert spawned.returncode == 0, spawned.said
    worker_id = spawned.stdout.strip()
    facts = mac.listed()[worker_id]
    assert (facts["state"], os.getsid(facts["pid"])) == ("ready", facts["pid"])
    assert worker_id in worker(home, "list").stdout
    assert "model_loaded" in worker(home, "logs", worker_id).stdout

    following = home.start("pool", "worker", "logs", worker_id, "-f", "--host", "mac", program="llorch")
    wait_until(lambda: "model_loaded" in following.stdout, following, "follow the log")
    assert worker(home, "stop", worker_id).returncode == 0
    assert following.wait() == 0
    assert is_gone(facts["pid"])
    assert worker(home, "show", worker_id).returncode == 0


def test_it_goes_on_where_a_daemon_came_in_between(home: Home, mac: PoolHost) -> None:
    mac.script()
    worker_id = worker(home, "spawn", "--model", "bees").stdout.strip()
    pid = mac.listed()[worker_id]["pid"]
    mac.serve()
    assert worker_id in worker(home, "list", "--via", "http").stdout
    assert worker(home, "stop", worker_id, "--via", "http").returncode == 0
    assert not psutil.pid_exists(pid) or is_gone(pid)


def test_refusals_come_through_with_their_codes(home: Home, mac: PoolHost) -> None:
    mac.script()
    done = worker(home, "spawn", "--model", "beees")
    assert (done.returncode, "[MODEL_NOT_FOUND]" in done.stderr, "did you mean bees" in done.stderr) == (1, True, True), done.said
