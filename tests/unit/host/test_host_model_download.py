"""What a name means for a download, what the downloading process may know, and how the time left is reckoned."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rbees.host.fetch_process import FIXED_ENVIRONMENT, environment
from rbees.host.model_download import Pace, hub_reference
from rbees.host.partial_file import PartialFile, sum_of
from rbees.protocol.downloads import DownloadProgress, HubFile
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import HubRef
from rbees.service.catalog import load_catalog
from rbees.service.clock import ManualClock


def test_a_name_means_a_repository() -> None:
    catalog = load_catalog()
    hub, folder = hub_reference("tinyllama", catalog)
    assert (hub, folder) == (catalog["tinyllama"].hub, "tinyllama")
    assert hub_reference("hf:org/repo@v1::file=x.gguf", catalog) == (HubRef("org/repo", "v1", "x.gguf"), "repo")


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("tinylama", ErrorCode.MODEL_NOT_FOUND, "did you mean tinyllama"),
        ("zzzzz", ErrorCode.MODEL_NOT_FOUND, "models catalog"),
        ("haiku", ErrorCode.INVALID_REQUEST, "ships with rbees"),
        ("file:/x.gguf", ErrorCode.INVALID_REQUEST, "nothing to download"),
        ("hf:../x", ErrorCode.INVALID_REQUEST, "hf:org/repo"),
    ],
)
def test_what_means_none_is_refused(name: str, code: ErrorCode, words: str) -> None:
    with pytest.raises(RbeesError) as caught:
        hub_reference(name, load_catalog())
    assert (caught.value.code, words in caught.value.message) == (code, True), caught.value.message


def test_the_process_gets_what_the_library_needs_and_nothing_else() -> None:
    own = {
        "PATH": "/bin",
        "HF_TOKEN": "t",
        "HTTPS_PROXY": "p",
        "RBEES_X": "1",
        "AWS_SECRET": "s",
        "PYTHONPATH": "/evil",
        "LC_ALL": "C",
    }
    given = environment(own)
    assert given == {"PATH": "/bin", "HF_TOKEN": "t", "HTTPS_PROXY": "p", "LC_ALL": "C", **FIXED_ENVIRONMENT}


async def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = ManualClock()
    pace = Pace(clock)

    async def at(seconds: float, done_bytes: int) -> DownloadProgress:
        await clock.advance(seconds - clock.monotonic())
        return pace.with_rate(DownloadProgress(done_bytes=done_bytes, total_bytes=10_000))

    first = await at(0, 2_000)
    assert (first.bytes_per_s, first.left_s) == (None, None)
    second = await at(1, 2_100)
    assert (second.bytes_per_s, second.left_s) == (100.0, 79.0)
    for seconds in range(2, 40):
        last = await at(seconds, 2_100 + (seconds - 1) * 200)
    assert last.bytes_per_s == pytest.approx(200.0)
    again = await at(41, 0)
    assert again.bytes_per_s is None


def test_a_partial_file_goes_on_or_starts_over(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20
    expected = HubFile(path="x", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    path = tmp_path / "x.incomplete"
    path.write_bytes(content[:1000])
    told: list[int] = []
    with path.open("ab+") as file:
        partial = PartialFile(file, expected, told.append)
        partial.take_in()
        assert (partial.tell(), partial.is_right()) == (1000, False)
        partial.write(content[1000:])
        assert partial.is_right()
        assert partial.seek(0) == partial.truncate() == 0
        partial.write(content)
        assert partial.is_right()
    assert path.read_bytes() == content
    assert told[-1] == len(content)
    assert sum_of(path, expected, told.append) == expected.sha256
    path.write_bytes(content + b"more")
    assert sum_of(path, expected, told.append) is None
    with path.open("ab+") as file:
        partial = PartialFile(file, expected, told.append)
        partial.take_in()
        assert partial.tell() == 0
