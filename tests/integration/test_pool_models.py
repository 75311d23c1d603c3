"""`rbees-pool models` on a host without a daemon: what is here, whether it is right, what it takes, and how it goes away."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.home import Home
from tests.support.hub import Hub
from tests.support.hub_user import User, refusal, sha256
from tests.support.tiny_gguf import split_gguf, write_tiny_gguf

REPO = "org/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("hub") / "tiny.gguf", layers=2, width=64, heads=4, heads_kv=2)


@pytest.fixture
def user(home: Home, tiny: Path) -> Iterator[User]:
    with Hub() as hub:
        hub.add(REPO, {FILE: tiny.read_bytes()})
        (home.folder / "models.toml").write_text(f'[models.mine]\nhub = "hf:{REPO}"\nabout = "My own."\n')
        yield User(home, hub)


def test_what_is_known_of_a_model_that_was_fetched(user: User, tiny: Path) -> None:
    rows = {row["name"]: row for row in user.run("catalog", "--json").json}
    assert (rows["mine"]["source"], rows["mine"]["about"]) == (f"hf:{REPO}", "My own.")
    assert rows["tinyllama"]["source"].startswith("hf:TheBloke/")
    assert user.download("mine").returncode == 0
    shown = user.run("info", "mine", "--ctx", "512", "--slots", "2", "--metadata").stdout
    path = next(user.cache.glob("models--*/snapshots/*/*.gguf"))
    for words in (
        str(path),
        sha256(tiny.read_bytes()),
        "llama, 2 layers",
        "F16",
        "2048 tokens",
        "memory for 2 × 512 tokens",
        "fits ",
    ):
        assert words in shown, words
    assert "llama.context_length" in shown
    assert "tokenizer.ggml.tokens" in shown
    too_much = user.run("info", "mine", "--slots", "256", "--ctx", "2048")
    assert ("on this host" in too_much.stdout, too_much.stderr) == (True, "")
    beyond = user.run("info", "mine", "--ctx", "4096")
    assert "memory for 1 × 2048 tokens" in beyond.stdout
    assert "trained for 2048 tokens of context and 4096 were asked for" in beyond.stderr


def test_verify_tells_right_from_wrong(user: User, tiny: Path) -> None:
    assert user.download("mine").returncode == 0
    right = user.run("verify", "mine", "--json").json
    assert right == [{"model": right[0]["model"], "right": True, "problem": None}]
    blob = next(user.cache.glob("models--*/blobs/*"))
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    said = user.run("verify")
    assert sha256(tiny.read_bytes())[:16] in said.stdout
    assert "haiku" in said.stdout
    assert right[0]["model"] in refusal(said, "CHECKSUM_MISMATCH", 74)
    assert "not those that the hub promised" in user.run("list").stderr
    assert user.run("delete", "mine", "--yes").returncode == 0
    assert user.download("mine").returncode == 0
    assert user.run("verify", "mine").returncode == 0


def test_delete_asks_and_takes_everything_with_it(user: User, tiny: Path) -> None:
    assert user.download("mine").returncode == 0
    usage = user.run("disk-usage", "--json").json
    size = tiny.stat().st_size
    assert [count for ref, count in usage["models"].items() if REPO in ref] == [size]
    assert "say `--yes`" in refusal(user.run("delete", "mine"), "INVALID_REQUEST", 2)
    assert user.run("delete", "mine", "--json").returncode == 2
    assert user.run("delete", "mine", "--yes", "--json").json["freed_bytes"] == size
    assert not list(user.cache.glob("models--*"))
    refusal(user.run("delete", "mine", "--yes"), "MODEL_NOT_FOUND", 1)
    assert "ships with rbees" in refusal(user.run("delete", "haiku", "--yes"), "FORBIDDEN", 77)
    assert "did you mean haiku" in refusal(user.run("delete", "haiko", "--yes"), "MODEL_NOT_FOUND", 1)


def test_unfinished_downloads_show_in_disk_usage(user: User) -> None:
    partial = user.cache / "models--org--tiny-GGUF" / "blobs" / f"{'0' * 64}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(2048))
    of_import = left_by_an_import(user)
    assert user.run("disk-usage", "--json").json["unfinished"] == {str(partial): 2048, str(of_import): 1024}
    assert "2.0 KiB" in user.run("disk-usage").stdout


def left_by_an_import(user: User) -> Path:
    left = user.home.folder / "poold" / "models" / ("0" * 16) / f".mine.gguf.{'0' * 16}.incomplete"
    for folder in reversed(left.parents):
        folder.mkdir(mode=0o700, exist_ok=True)
    left.write_bytes(bytes(1024))
    return left


@pytest.mark.parametrize("with_daemon", [False, True])
def test_what_is_unfinished_is_deleted_by_its_path(user: User, with_daemon: bool) -> None:
    precious = user.home.folder / "precious.incomplete"
    precious.write_bytes(b"mine")
    if with_daemon:
        user.home.serve_poold(int(user.environ["RBEES_POOLD_PORT"]), user.environ)
    left = left_by_an_import(user)
    with left.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "being written" in refusal(user.run("delete", str(left), "--yes"), "DEVICE_BUSY", 75)
    assert user.run("delete", str(left), "--yes", "--json").json == {"model_ref": str(left), "freed_bytes": 1024}
    assert not left.parent.exists()
    refusal(user.run("delete", str(left), "--yes"), "MODEL_NOT_FOUND", 1)
    refusal(user.run("delete", str(precious), "--yes"), "MODEL_NOT_FOUND", 1)
    assert precious.exists()


def test_a_file_that_is_already_there_is_registered_and_forgotten(user: User, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "My Model.gguf"
    path.write_bytes(tiny.read_bytes())
    assert "--name" in refusal(user.run("register", str(path)), "INVALID_REQUEST", 2)
    assert user.run("register", str(path), "--name", "own").stdout.strip() == "own"
    listed = user.run("list", "--json").json["models"]
    assert [model["aliases"] for model in listed if model["ref"] == f"file:{path}"] == [["own"]]
    here = user.download("own")
    assert (here.returncode, here.stdout.strip()) == (0, f"file:{path}")
    assert f"was here already; sha256 {sha256(tiny.read_bytes())[:16]}… is right; {path}" in here.stderr
    assert user.download("own", "--quant", "Q2_K").returncode == 1
    assert "ships with rbees" in refusal(user.download("haiku"), "INVALID_REQUEST", 2)
    assert "haiku's already" in refusal(user.run("register", str(path), "--name", "haiku"), "INVALID_REQUEST", 2)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"PK" + bytes(100))
    assert "not GGUF" in refusal(user.run("register", str(broken)), "MODEL_INCOMPATIBLE", 1)
    assert "broken" not in user.run("list").said
    refusal(user.run("register", str(tmp_path / "none.gguf")), "MODEL_NOT_FOUND", 1)
    assert "the file stays" in user.run("delete", "own", "--yes").stderr
    assert path.exists()
    assert "own" not in user.run("list").stdout


def test_a_model_in_parts_is_fetched_and_listed_as_one(user: User, tiny: Path, tmp_path: Path) -> None:
    parts = split_gguf(tiny, tmp_path / "parts", 3)
    named = {f"big-Q8_0-{number:05d}-of-00003.gguf": part.read_bytes() for number, part in enumerate(parts, 1)}
    hub_files = {**named, "big-Q2_K.gguf": tiny.read_bytes()}
    user.hub.add("org/big-GGUF", hub_files)
    done = user.fetched("hf:org/big-GGUF", "--quant", "Q8_0")[-1]
    assert [os.path.basename(path) for path in done["paths"]] == list(named)
    (model,) = [model for model in user.run("list", "--json").json["models"] if "org/big" in model["ref"]]
    assert model["sha256"] == done["sha256"]
    assert model["size_bytes"] == sum(map(len, named.values()))
    assert user.run("verify", "big-Q8_0").returncode == 0
    assert user.run("delete", "big-Q8_0", "--yes").returncode == 0
    assert not list(user.cache.glob("models--org--big*"))
