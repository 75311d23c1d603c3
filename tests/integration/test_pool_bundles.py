"""`rbees-pool models export|import` between hosts that share no network: with and without a daemon, down a pipe, killed, by SSH."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_ctl_reach_ssh import configure, trust
from tests.support.home import Daemon, Home, entry_point, wait_until
from tests.support.hub import Hub
from tests.support.hub_user import User, refusal, sha256
from tests.support.sshd import Sshd
from tests.support.tiny_gguf import split_gguf, write_tiny_gguf

REPO = "org/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("hub") / "tiny.gguf", layers=2, width=64, heads=4, heads_kv=2)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of some size, so that copying it can be interrupted."""
    return write_tiny_gguf(tmp_path_factory.mktemp("hub") / "wide.gguf", layers=8, width=1024, heads=4, heads_kv=2)


@pytest.fixture
def user(home: Home, tiny: Path) -> User:
    """Somebody whose host has fetched `mine`, and from here on has no hub."""
    with Hub() as hub:
        hub.add(REPO, {FILE: tiny.read_bytes()})
        (home.folder / "models.toml").write_text(f'[models.mine]\nhub = "hf:{REPO}"\n')
        user = User(home, hub)
        assert user.download("mine").returncode == 0
    user.environ["HF_ENDPOINT"] = "http://127.0.0.1:1"
    return user


@pytest.fixture
def other() -> Iterator[User]:
    """Somebody at a host that has never had a network."""
    with Home() as home, Hub() as hub:
        other = User(home, hub)
        other.environ["HF_ENDPOINT"] = "http://127.0.0.1:1"
        yield other


def models_of(user: User) -> list[dict[str, Any]]:
    listed = user.run("list", "--json")
    assert listed.returncode == 0, listed.said
    return [model for model in listed.json["models"] if model["ref"] != "haiku"]


@pytest.mark.parametrize("name", ["stick", "mine.tar"])
def test_a_model_is_the_same_on_the_other_side(user: User, other: User, tmp_path: Path, name: str) -> None:
    (tmp_path / "stick").mkdir()
    exported = user.run("export", "mine", "--to", str(tmp_path / name))
    assert exported.returncode == 0, exported.said
    place = exported.stdout.strip()
    assert place == str(tmp_path / ("stick/mine" if name == "stick" else name))
    imported = other.run("import", place)
    assert imported.returncode == 0, imported.said
    (before,), (after,) = models_of(user), models_of(other)
    assert (imported.stdout.strip(), after["sha256"]) == (before["ref"], before["sha256"])
    assert set(before["aliases"]) == set(after["aliases"]), "`mine` too, which only this user's catalogue has"
    assert other.run("verify", "mine").returncode == 0
    again = other.run("import", place, "--json")
    assert [json.loads(line) for line in again.stdout.splitlines()][-1]["fetched_bytes"] == 0
    assert "already" in refusal(user.run("export", "mine", "--to", place), "INVALID_REQUEST", 2)
    # What came goes the way of everything else.
    assert other.run("delete", "mine", "--yes").returncode == 0
    assert models_of(other) == []


def test_a_download_finds_what_was_imported(user: User, other: User, tiny: Path, tmp_path: Path) -> None:
    assert user.run("export", "mine", "--to", str(tmp_path / "x")).returncode == 0
    assert other.run("import", str(tmp_path / "x")).returncode == 0
    held = other.fetched(f"hf:{REPO}")[-1]
    assert (held["sha256"], held["fetched_bytes"]) == (sha256(tiny.read_bytes()), 0)


def test_a_name_that_came_with_an_import_is_here_already(user: User, other: User, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.gguf").write_bytes(tiny.read_bytes())
    assert user.run("register", str(tmp_path / "alone.gguf"), "--name", "alone").returncode == 0
    assert user.run("export", "alone", "--to", str(tmp_path / "x")).returncode == 0
    ref = other.run("import", str(tmp_path / "x")).stdout.strip()
    here = other.download("alone")
    assert (here.stdout.strip(), "was here already" in here.stderr) == (ref, True), here.said
    Path(ref.removeprefix("file:")).unlink()
    refusal(other.download("alone"), "MODEL_NOT_FOUND", 1)


def test_down_a_pipe(user: User, other: User) -> None:
    (tool,) = entry_point("rbees-pool")
    sending = subprocess.Popen(
        [tool, "models", "export", "mine", "--to", "-"], stdout=subprocess.PIPE, env=user.home.environ(**user.environ)
    )
    taking = subprocess.run(
        [tool, "models", "import", "-", "--json"],
        stdin=sending.stdout,
        capture_output=True,
        env=other.home.environ(**other.environ),
        timeout=60,
        check=False,
    )
    assert sending.stdout is not None
    sending.stdout.close()
    assert (sending.wait(60), taking.returncode) == (0, 0), taking.stderr
    events = [json.loads(line) for line in taking.stdout.splitlines()]
    assert (events[0]["type"], events[-1]["type"], events[-1]["model_ref"]) == ("planned", "done", models_of(user)[0]["ref"])


def test_a_reader_that_leaves_ends_the_export(user: User) -> None:
    (tool,) = entry_point("rbees-pool")
    reading, writing = os.pipe()
    os.close(reading)
    sending = subprocess.run(
        [tool, "models", "export", "mine", "--to", "-"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=user.home.environ(**user.environ),
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert sending.returncode == 141
    assert "Traceback" not in sending.stderr


def test_a_model_in_parts_and_a_registered_file(user: User, other: User, tiny: Path, tmp_path: Path) -> None:
    parts = split_gguf(tiny, tmp_path / "parts", 3)
    named = [part.rename(part.with_name(f"big-Q8_0-{number:05d}-of-00003.gguf")) for number, part in enumerate(parts, 1)]
    assert user.run("register", str(named[0]), "--name", "huge").returncode == 0
    assert user.run("export", "huge", "--to", str(tmp_path / "huge.tar")).returncode == 0
    assert other.run("import", str(tmp_path / "huge.tar")).returncode == 0
    (model,) = models_of(other)
    assert "huge" in model["aliases"]
    assert model["ref"].startswith(f"file:{other.home.folder}/poold/models/")
    assert model["size_bytes"] == sum(part.stat().st_size for part in named)


def test_names_that_are_taken_are_said_and_stay(user: User, other: User, tiny: Path, tmp_path: Path) -> None:
    own = write_tiny_gguf(tmp_path / "own.gguf", seed=7)
    assert other.run("register", str(own), "--name", "mine").returncode == 0
    assert user.run("export", "mine", "--to", str(tmp_path / "x")).returncode == 0
    imported = other.run("import", str(tmp_path / "x"))
    assert imported.returncode == 0
    assert f"the name mine is file:{own}'s on this host" in imported.stderr
    assert other.run("info", "mine").stdout.splitlines()[0].endswith(f"file:{own}")


def test_folders_of_a_users_own(user: User, other: User, tmp_path: Path) -> None:
    assert user.run("export", "mine", "--to", str(tmp_path / "x")).returncode == 0
    done = other.run("import", str(tmp_path / "x"), "--local-dir", str(tmp_path / "local"))
    assert done.stdout.strip() == f"file:{tmp_path}/local/{FILE}"
    done = other.run("import", str(tmp_path / "x"), RBEES_MODELS_DIR=str(tmp_path / "models"))
    assert done.stdout.strip() == f"file:{tmp_path}/models/tiny-GGUF/{FILE}"
    (tmp_path / "local" / FILE).write_text("another one")
    refusal(other.run("import", str(tmp_path / "x"), "--local-dir", str(tmp_path / "local")), "INVALID_REQUEST", 2)
    assert (tmp_path / "local" / FILE).read_text() == "another one"


def test_a_running_daemon_serves_what_came(user: User, other: User, tmp_path: Path) -> None:
    poold = other.home.serve_poold(int(other.environ["RBEES_POOLD_PORT"]), environ=other.environ)
    assert user.run("export", "mine", "--to", str(tmp_path / "x.tar")).returncode == 0
    assert other.run("import", str(tmp_path / "x.tar")).returncode == 0
    assert "mine" in other.run("list", "--poold-url", poold.url).stdout, "it was told, and did not have to find it"
    assert other.run("export", "mine", "--to", str(tmp_path / "back.tar")).returncode == 0
    assert (tmp_path / "back.tar").read_bytes() == (tmp_path / "x.tar").read_bytes()


def test_what_cannot_be_exported_or_imported(user: User, other: User, tmp_path: Path) -> None:
    assert "ships with rbees" in refusal(user.run("export", "haiku", "--to", str(tmp_path / "x")), "INVALID_REQUEST", 2)
    assert "did you mean mine" in refusal(user.run("export", "mina", "--to", str(tmp_path / "x")), "MODEL_NOT_FOUND", 1)
    refusal(user.run("export", "mine", "--to", str(tmp_path / "none" / "x")), "CONFIGURATION", 78)
    assert user.run("export", "mine").returncode == 2
    assert "leave `--json` out" in user.run("export", "mine", "--to", "-", "--json").stderr
    refusal(other.run("import", str(tmp_path / "none")), "MODEL_NOT_FOUND", 1)
    refusal(other.run("import", "-"), "CHECKSUM_MISMATCH", 74)
    (tmp_path / "x.tar").write_bytes(b"PK" + bytes(4096))
    assert "no bundle" in refusal(other.run("import", str(tmp_path / "x.tar")), "INVALID_REQUEST", 2)
    next(user.cache.glob("models--*/blobs/*")).write_bytes(b"broken")
    assert user.run("export", "mine", "--to", str(tmp_path / "y")).returncode != 0
    assert not (tmp_path / "y").exists()


def copying(user: User, *words: str) -> Daemon:
    """The command, killed while it copied or, where it was faster, once it was done."""
    running = user.home.start("models", *words, "--json", program="rbees-pool", environ=user.environ)
    wait_until(lambda: re.search(r'"done_bytes":[1-9]', running.stdout) or running.process.poll() is not None, what="begin")
    with contextlib.suppress(ProcessLookupError):
        running.kill()
    return running


@pytest.mark.parametrize("name", ["x", "x.tar"])
def test_what_was_killed_is_asked_for_again(user: User, other: User, wide: Path, tmp_path: Path, name: str) -> None:
    assert user.run("register", str(wide), "--name", "wide").returncode == 0
    place = tmp_path / "to" / name
    place.parent.mkdir()
    killed = copying(user, "export", "wide", "--to", str(place))
    if killed.process.returncode == -signal.SIGKILL:
        assert not place.exists(), "nothing unfinished has the name"
        assert user.run("export", "wide", "--to", str(place)).returncode == 0
    assert os.listdir(place.parent) == [name]
    killed = copying(other, "import", str(place))
    if killed.process.returncode == -signal.SIGKILL:
        assert models_of(other) == []
    done = other.run("import", str(place))
    assert done.returncode == 0, done.said
    (model,) = models_of(other)
    assert model["sha256"] == sha256(wide.read_bytes())
    folder = Path(model["ref"].removeprefix("file:")).parent
    assert os.listdir(folder) == ["wide.gguf"]


def test_two_imports_at_once_are_one(user: User, other: User, wide: Path, tmp_path: Path) -> None:
    assert user.run("register", str(wide), "--name", "wide").returncode == 0
    assert user.run("export", "wide", "--to", str(tmp_path / "x.tar")).returncode == 0
    words = ("models", "import", str(tmp_path / "x.tar"), "--json")
    both = [other.home.start(*words, program="rbees-pool", environ=other.environ) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0], both[0].said + both[1].said
    assert len(models_of(other)) == 1


def test_by_ssh_both_ways(user: User, other: User, tmp_path: Path) -> None:
    with Sshd(user.home.folder / "mac", {**user.environ, "RBEES_HOME": str(user.home.folder)}) as server:
        configure(user.home, server)
        trust(user.home, server)
        (tool,) = entry_point("rbees-pool")
        settings = user.home.folder / "config.toml"
        settings.write_text(settings.read_text().replace(f"{server.folder}/rbees-pool", tool))

        def llorch(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
            command = [*entry_point("llorch"), "pool", "models", *words]
            return subprocess.run(command, input=stdin, capture_output=True, env=user.home.environ(), timeout=120, check=False)

        sent = llorch("export", "mine", "--to", "-", "--host", "mac")
        assert sent.returncode == 0, sent.stderr
        assert user.run("export", "mine", "--to", str(tmp_path / "x.tar")).returncode == 0
        assert sent.stdout == (tmp_path / "x.tar").read_bytes()
        assert user.run("delete", "mine", "--yes").returncode == 0
        taken = llorch("import", "-", "--host", "mac", stdin=sent.stdout)
        assert taken.returncode == 0, taken.stderr
        assert len(models_of(user)) == 1
        cut = llorch("import", "-", "--host", "mac", stdin=sent.stdout[:100])
        assert (cut.returncode, b"[CHECKSUM_MISMATCH]" in cut.stderr) == (74, True)
        forced = llorch("export", "mine", "--to", "x", "--host", "mac", "--via", "http")
        assert (forced.returncode, b"needs the host itself" in forced.stderr) == (2, True)
        several = llorch("export", "mine", "--to", "-", "--host", "mac,attic")
        assert (several.returncode, b"name only one" in several.stderr) == (2, True)
