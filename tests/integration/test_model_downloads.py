"""Models from a hub: the real command, the real client of the hub, a hub on loopback with every fault that real ones have."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rbees.protocol.downloads import DownloadPlanned
from rbees.protocol.errors import ErrorCode
from tests.support.home import Home, wait_until
from tests.support.hub import Hub
from tests.support.hub_user import TOKEN, User, refusal, sha256
from tests.support.tiny_gguf import write_tiny_gguf

REPO = "org/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real model of some megabytes."""
    path = write_tiny_gguf(tmp_path_factory.mktemp("hub") / "tiny.gguf", layers=2, width=512, heads=4, heads_kv=2)
    return path.read_bytes()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def user(home: Home, hub: Hub) -> User:
    return User(home, hub)


def test_a_model_comes_into_the_shared_cache_and_is_served_by_its_names(user: User, hub: Hub, tiny: bytes) -> None:
    repository = hub.add(REPO, {FILE: tiny, "README.md": b"hello"}, small=frozenset({"README.md"}))
    done = user.download(f"hf:{REPO}")
    ref = f"hf:{REPO}@{repository.commit}::file={FILE}"
    assert (done.returncode, done.stdout.strip()) == (0, ref), done.said
    assert sha256(tiny)[:16] in done.stderr
    snapshot = user.cache / "models--org--tiny-GGUF" / "snapshots" / repository.commit / FILE
    assert snapshot.is_symlink()
    assert snapshot.read_bytes() == tiny
    assert snapshot.resolve().name == sha256(tiny)
    (model,) = [model for model in user.run("list", "--json").json["models"] if model["ref"] == ref]
    assert model["sha256"] == sha256(tiny)
    assert {f"hf:{REPO}", f"hf:{REPO}::file={FILE}", f"hf:{REPO}@main::file={FILE}", "tiny-Q4_K_M"} <= set(model["aliases"])
    events = user.fetched(f"hf:{REPO}")
    assert [event["type"] for event in events] == ["planned", "done"]
    assert events[-1]["fetched_bytes"] == 0
    assert len(hub.sent_bytes(FILE)) == 1


def test_the_librarys_own_client_finds_what_was_fetched(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    path = user.fetched(f"hf:{REPO}")[-1]["paths"][0]
    theirs = subprocess.run(
        ["python", "-c", f"from huggingface_hub import hf_hub_download as d; print(d({REPO!r}, {FILE!r}))"],
        env=user.home.environ(**user.environ, HF_HUB_OFFLINE="1", PATH=str(Path(sys.executable).parent)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert theirs.stdout.strip() == path


def test_a_name_of_the_users_catalogue_with_a_token(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny}, token=TOKEN)
    (user.home.folder / "models.toml").write_text(f'[models.mine]\nhub = "hf:{REPO}"\n')
    assert "mine" in user.run("catalog").stdout
    assert "private" in refusal(user.download("mine"), "MODEL_NOT_FOUND", 1)
    done = user.download("mine", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.said
    assert TOKEN not in done.said
    assert "mine" in user.run("list").stdout
    # The host of the large files is another one, to which no token may go.
    assert hub.asked_for_bytes
    assert not [asked for asked in hub.asked_for_bytes if "authorization" in asked.headers]
    assert TOKEN not in "".join(path.read_text(errors="replace") for path in user.home.folder.rglob("*.json"))


def test_a_connection_that_breaks_off_goes_on_where_it_was(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    hub.faults[FILE].cut_after = [1_500_000, 1_300_000]
    events = user.fetched(f"hf:{REPO}")
    assert events[-1]["sha256"] == sha256(tiny)
    starts = [asked.first_byte for asked in hub.sent_bytes(FILE)]
    assert len(starts) == 3
    assert starts == sorted(set(starts))
    assert starts[1] >= 1 << 20


def test_trouble_of_the_hub_passes(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    hub.faults[FILE].statuses = [429, 503]
    assert user.fetched(f"hf:{REPO}")[-1]["sha256"] == sha256(tiny)


def test_a_killed_download_is_resumed(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    hub.faults[FILE].hold()
    first = user.start(f"hf:{REPO}")
    partial = user.cache / "models--org--tiny-GGUF" / "blobs" / f"{sha256(tiny)}.incomplete"
    wait_until(lambda: partial.exists() and partial.stat().st_size >= 1 << 20, first, "fetch a part")
    children = psutil.Process(first.pid).children(recursive=True)
    assert children
    first.kill()
    psutil.wait_procs(children, timeout=30)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    kept = partial.stat().st_size
    assert 0 < kept < len(tiny)
    assert user.run("list", "--json").json["models"] == [
        m for m in user.run("list", "--json").json["models"] if REPO not in m["ref"]
    ]
    hub.faults[FILE].let_go()
    events = user.fetched(f"hf:{REPO}")
    assert events[-1]["fetched_bytes"] == len(tiny) - kept
    assert hub.sent_bytes(FILE)[-1].first_byte == kept
    assert user.blobs == [sha256(tiny)]


def test_the_downloading_process_itself_may_be_killed(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    hub.faults[FILE].hold()
    first = user.start(f"hf:{REPO}")
    wait_until(lambda: '"progress"' in first.stdout, first, "begin")
    (child,) = psutil.Process(first.pid).children()
    child.kill()
    assert first.wait() == 69
    assert "SIGKILL" in first.said


def test_ctrl_c_ends_both_and_keeps_what_came(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    hub.faults[FILE].hold()
    first = user.start(f"hf:{REPO}")
    wait_until(lambda: '"progress"' in first.stdout, first, "begin")
    (child,) = psutil.Process(first.pid).children()
    assert first.stop(signal.SIGINT) == 130
    assert not psutil.pid_exists(child.pid)
    assert [name for name in user.blobs if name.endswith(".incomplete")]


def test_a_second_request_joins_the_first_and_takes_over_where_it_dies(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    hub.faults[FILE].hold()
    first = user.start(f"hf:{REPO}")
    wait_until(lambda: '"progress"' in first.stdout, first, "begin")
    second, third = user.start(f"hf:{REPO}"), user.start(f"hf:{REPO}")
    wait_until(lambda: '"waiting":true' in second.stdout and '"waiting":true' in third.stdout, second, "wait")
    assert len(hub.sent_bytes(FILE)) == 1
    first.kill()
    hub.faults[FILE].let_go()
    assert [second.wait(), third.wait()] == [0, 0], second.said + third.said
    ends = [json.loads(daemon.stdout.splitlines()[-1]) for daemon in (second, third)]
    assert [end["sha256"] for end in ends] == [sha256(tiny)] * 2
    assert min(end["fetched_bytes"] for end in ends) == 0
    assert user.blobs == [sha256(tiny)]


def test_wrong_bytes_never_get_a_name(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    hub.faults[FILE].wrong = 1
    said = refusal(user.download(f"hf:{REPO}"), "CHECKSUM_MISMATCH", 74)
    assert FILE in said
    assert user.blobs == []
    assert not list(user.cache.glob("models--*/snapshots/*/*"))
    assert user.download(f"hf:{REPO}").returncode == 0


def test_a_wrong_remainder_is_fetched_once_more_from_the_start(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    partial = user.cache / "models--org--tiny-GGUF" / "blobs" / f"{sha256(tiny)}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 1000)
    assert user.fetched(f"hf:{REPO}")[-1]["fetched_bytes"] == len(tiny)
    assert [asked.first_byte for asked in hub.sent_bytes(FILE)] == [1000, 0]


def test_a_server_without_ranges_sends_all_again(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    hub.faults[FILE].cut_after = [1_500_000]
    hub.faults[FILE].ignores_ranges = True
    assert user.fetched(f"hf:{REPO}")[-1]["sha256"] == sha256(tiny)


def test_a_folder_of_its_own(user: User, hub: Hub, tiny: bytes, tmp_path: Path) -> None:
    hub.add(REPO, {f"deep/{FILE}": tiny})
    done = user.download(f"hf:{REPO}", "--local-dir", str(tmp_path / "here"))
    assert done.stdout.strip() == f"file:{tmp_path}/here/deep/{FILE}", done.said
    assert [path.name for path in (tmp_path / "here").rglob("*") if path.is_file()] == [FILE]
    assert not user.cache.exists()
    (user.home.folder / "models.toml").write_text(f'[models.mine]\nhub = "hf:{REPO}"\n')
    folder = tmp_path / "models"
    assert user.download("mine", RBEES_MODELS_DIR=str(folder)).returncode == 0
    assert (folder / "mine" / "deep" / FILE).read_bytes() == tiny
    assert "tiny-Q4_K_M" in user.run("list", RBEES_MODELS_DIR=str(folder)).stdout


def test_what_is_left_in_a_folder_of_its_own_is_known_and_goes(user: User, hub: Hub, tiny: bytes, tmp_path: Path) -> None:
    hub.add(REPO, {f"deep/{FILE}": tiny})
    hub.faults[f"deep/{FILE}"].statuses = [403, 403]
    refusal(user.download(f"hf:{REPO}", "--local-dir", str(tmp_path)), "MODEL_FORBIDDEN", 77)
    assert list((tmp_path / "deep").iterdir()) == [], "nothing came, so nothing is left"
    partial = tmp_path / "deep" / f".{FILE}.{sha256(tiny)[:16]}.incomplete"
    partial.write_bytes(tiny[:1000])
    refusal(user.download(f"hf:{REPO}", "--local-dir", str(tmp_path)), "MODEL_FORBIDDEN", 77)
    assert user.run("disk-usage", "--json").json["unfinished"] == {str(partial): 1000}
    assert user.run("delete").returncode == user.run("delete", "x", "--unfinished").returncode == 2
    assert "--yes" in refusal(user.run("delete", "--unfinished"), "INVALID_REQUEST", 2)
    removed = user.run("delete", "--unfinished", "--yes", "--json").json
    assert removed == {"removed": {str(partial): 1000}, "still_written": [], "freed_bytes": 1000}
    assert list((tmp_path / "deep").iterdir()) == []
    assert "removed 0 unfinished files" in user.run("delete", "--unfinished").stderr


def test_a_hub_that_means_ill_gets_nowhere(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny, f"../../{FILE}": tiny})
    hub.lies[FILE] = "../../../evil"
    assert "does not answer as a Hugging Face hub" in refusal(user.download(f"hf:{REPO}"), "DOWNLOAD_FAILED", 69)
    hub.lies.clear()
    hub.claimed[FILE] = len(tiny) - 100_000
    refusal(user.download(f"hf:{REPO}"), "CHECKSUM_MISMATCH", 74)
    assert user.blobs == []
    assert not list(user.home.folder.rglob("*evil*"))
    hub.claimed.clear()
    assert user.fetched(f"hf:{REPO}")[0]["files"] == [FILE]


def test_small_files_are_checked_by_gits_own_name(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny}, small=frozenset({FILE}))
    assert user.fetched(f"hf:{REPO}")[-1]["sha256"] == sha256(tiny)
    hub.add("org/other-GGUF", {"other.gguf": tiny + b"x"}, small=frozenset({"other.gguf"}))
    hub.faults["other.gguf"].wrong = 1
    refusal(user.download("hf:org/other-GGUF"), "CHECKSUM_MISMATCH", 74)


def test_a_revision_is_pinned_to_its_commit(user: User, hub: Hub, tiny: bytes) -> None:
    repository = hub.add(REPO, {FILE: tiny}, branches=("main", "v1"))
    done = user.fetched(f"hf:{REPO}@v1")[-1]
    assert done["model_ref"] == f"hf:{REPO}@{repository.commit}::file={FILE}"
    refs = user.cache / "models--org--tiny-GGUF" / "refs"
    assert (refs / "v1").read_text() == repository.commit
    assert not (refs / "main").exists()
    assert user.fetched(f"hf:{REPO}@{repository.commit}")[-1]["fetched_bytes"] == 0
    refusal(user.download(f"hf:{REPO}@v2"), "MODEL_NOT_FOUND", 1)


async def test_the_quantisation_that_is_usual_or_named(user: User, hub: Hub, tiny: bytes) -> None:
    names = ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-f16.gguf"]
    hub.add(REPO, {name: tiny + name.encode() for name in names})

    async def taken(ref: str, quantization: str | None = None, free_bytes: int = 1 << 40) -> tuple[str, ...]:
        planned, *_ = await user.events(ref, quantization, free_bytes=free_bytes)
        assert isinstance(planned, DownloadPlanned)
        return planned.files

    assert await taken(f"hf:{REPO}") == ("m-Q4_K_M.gguf",)
    assert await taken(f"hf:{REPO}", "q8_0") == ("m-Q8_0.gguf",)
    assert await taken(f"hf:{REPO}::file=m-Q2_K.gguf") == ("m-Q2_K.gguf",)
    several = await user.refused(f"hf:{REPO}::file=m-")
    assert (several.code, several.details["files"]) == (ErrorCode.INVALID_REQUEST, names[:3])
    none = await user.refused(f"hf:{REPO}", "Q5_K_M")
    assert (none.code, none.details["files"]) == (ErrorCode.MODEL_NOT_FOUND, ["Q2_K", "Q4_K_M", "Q8_0"])
    assert "m-Q2_K.gguf" in (await user.refused(f"hf:{REPO}::file=m-Q3.gguf")).message
    # The header of one of them was read: what is missing is more than the weights.
    small = await user.refused(f"hf:{REPO}", free_bytes=len(tiny))
    assert small.code is ErrorCode.INSUFFICIENT_VRAM
    assert small.details["kv_bytes"] > 0
    assert await taken(f"hf:{REPO}::file=m-Q4_K_M.gguf", free_bytes=0) == ("m-Q4_K_M.gguf",)
    # Of two models in one quantisation neither is more likely to be meant.
    hub.add(REPO, {name: tiny + name.encode() for name in [*names, "other-Q4_K_M.gguf", "other-Q8_0.gguf"]})
    for quantization in (None, "Q8_0"):
        several = await user.refused(f"hf:{REPO}", quantization)
        label = quantization or "Q4_K_M"
        assert (several.code, several.details["files"]) == (ErrorCode.INVALID_REQUEST, [f"m-{label}.gguf", f"other-{label}.gguf"])
    assert await taken(f"hf:{REPO}", "Q2_K") == ("m-Q2_K.gguf",)
    assert await taken(f"hf:{REPO}::file=other-Q8_0.gguf") == ("other-Q8_0.gguf",)


async def test_a_hub_that_refuses_for_now(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    hub.listing_statuses = [429, 500, 403, 418]
    many, broken, forbidden, odd = [await user.refused(f"hf:{REPO}") for _ in range(4)]
    assert (many.code, many.details) == (ErrorCode.DOWNLOAD_FAILED, {"retry_after_s": 7})
    assert (broken.code, broken.details) == (ErrorCode.DOWNLOAD_FAILED, {"status": 500})
    assert (forbidden.code, odd.code) == (ErrorCode.MODEL_FORBIDDEN, ErrorCode.DOWNLOAD_FAILED)
    assert len(hub.asked) == 4


async def test_what_cannot_be_had_is_said_in_one_sentence(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add("org/pictures", {"picture.png": b"x"})
    hub.add(REPO, {FILE: tiny}, gated=TOKEN)
    blocked = user.home.folder / "blocked"
    blocked.write_text("a file where a folder should be")
    for ref, code, words, environ in (
        ("hf:org/pictures", ErrorCode.MODEL_INCOMPATIBLE, "no GGUF", {}),
        ("hf:org/none", ErrorCode.MODEL_NOT_FOUND, "private", {}),
        (f"hf:{REPO}", ErrorCode.MODEL_FORBIDDEN, "accept its terms", {}),
        (f"hf:{REPO}", ErrorCode.MODEL_FORBIDDEN, "accept its terms", {"HF_TOKEN": "hf_another"}),
        (f"hf:{REPO}", ErrorCode.DOWNLOAD_FAILED, "HF_HUB_OFFLINE", {"HF_HUB_OFFLINE": "1"}),
        (f"hf:{REPO}", ErrorCode.DOWNLOAD_FAILED, "cannot be reached", {"HF_ENDPOINT": "http://127.0.0.1:9"}),
        (f"hf:{REPO}", ErrorCode.CONFIGURATION, str(blocked), {"HF_TOKEN": TOKEN, "HF_HOME": str(blocked)}),
    ):
        error = await user.refused(ref, environ=environ)
        assert (error.code, words in error.message) == (code, True), error.message
        assert TOKEN not in f"{error.message} {error.details}"
    assert "did you mean tinyllama" in refusal(user.download("tinylama"), "MODEL_NOT_FOUND", 1)
    assert "accept its terms" in refusal(user.download(f"hf:{REPO}"), "MODEL_FORBIDDEN", 77)
    assert user.run("disk-usage", "--json").json["unfinished"] == {}, "nothing came, so nothing is left"


def test_what_is_here_is_enough_while_the_hub_cannot_be_asked(user: User, hub: Hub, tiny: bytes) -> None:
    hub.add(REPO, {FILE: tiny})
    ref = user.fetched(f"hf:{REPO}")[-1]["model_ref"]
    for away in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        planned, done = user.fetched(f"hf:{REPO}", **away)
        assert "cannot be asked" in planned["why"]
        assert (done["model_ref"], done["fetched_bytes"]) == (ref, 0)


def test_a_file_that_the_disk_cannot_hold_is_not_begun(user: User, hub: Hub) -> None:
    count = psutil.disk_usage(str(user.home.folder)).free // (45 * 10**9) + 2
    parts = [f"big-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    hub.add(REPO, dict.fromkeys(parts, b"x"))
    hub.claimed = dict.fromkeys(parts, 45 * 10**9)
    said = refusal(user.download(f"hf:{REPO}"), "STORAGE_FULL", 74)
    assert "MiB free; free some" in said
    assert user.blobs == []
