"""How a download looks: lines for a log, JSON for programs, figures for people."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

import pytest

from rbees.protocol.downloads import DownloadDone, DownloadEvent, DownloadPlanned, DownloadProgress, PoolChosen
from rbees.terminal import downloads
from rbees.terminal.downloads import show_download

MIB = 1 << 20


async def events(fetched_bytes: int = 400 * MIB) -> AsyncGenerator[DownloadEvent]:
    yield DownloadPlanned(model_ref="hf:a/b@c::file=x", files=("x.gguf",), total_bytes=400 * MIB, why="y does not fit this host")
    for done in range(0, 401, 10):
        yield DownloadProgress(done_bytes=done * MIB, total_bytes=400 * MIB, bytes_per_s=10.0 * MIB, left_s=(400 - done) / 10)
    yield DownloadProgress(done_bytes=400 * MIB, total_bytes=400 * MIB, waiting=True)
    yield DownloadDone(model_ref="hf:a/b@c::file=x", sha256="ab" * 32, paths=("/x.gguf",), fetched_bytes=fetched_bytes)


async def test_a_log_gets_a_line_for_each_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    await show_download(events(), "mine", as_json=False)
    said = capsys.readouterr()
    assert said.out == "hf:a/b@c::file=x\n"
    lines = said.err.splitlines()
    assert lines[:2] == ["asking for mine", "taking x.gguf: y does not fit this host"]
    assert [line for line in lines if line.startswith("downloading")] == [
        f"downloading mine {share}%" for share in (0, 25, 50, 75, 100)
    ]
    assert "another process downloads mine 100%" in lines
    assert lines[-1] == "fetched 400.0 MiB; sha256 abababababababab… is right; /x.gguf"


async def test_what_was_here_is_said_to_have_been(capsys: pytest.CaptureFixture[str]) -> None:
    await show_download(events(fetched_bytes=0), "mine", as_json=False)
    assert "was here already" in capsys.readouterr().err


async def test_the_pool_that_was_chosen_and_those_that_give_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    async def told() -> AsyncGenerator[DownloadEvent]:
        yield PoolChosen(pool_id="mac", why="metal:0 there has 20.0 GiB free")
        yield DownloadPlanned(model_ref="x", files=("x.gguf",), total_bytes=4, sources=("http://a:9200", "http://b:9200"))
        yield DownloadDone(model_ref="x", sha256="ab" * 32, paths=("/x.gguf",), fetched_bytes=4, by_source={"http://b:9200": 4})

    await show_download(told(), "mine", as_json=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:3] == ["on mac: metal:0 there has 20.0 GiB free", "from http://a:9200, http://b:9200"]
    assert "4 B from http://b:9200" in lines[-1]


async def test_programs_get_every_event(capsys: pytest.CaptureFixture[str]) -> None:
    await show_download(events(), "mine", as_json=True)
    said = capsys.readouterr()
    kinds = [json.loads(line)["type"] for line in said.out.splitlines()]
    assert (kinds[0], kinds[-1], set(kinds[1:-1]), said.err) == ("planned", "done", {"progress"}, "")


async def test_people_see_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(downloads, "is_live", lambda _stream: True)
    await show_download(events(), "mine", as_json=False)
    assert "downloading mine: 100.0 MiB of 400.0 MiB, 10.0 MiB/s, 30.0 s left" in capsys.readouterr().err
