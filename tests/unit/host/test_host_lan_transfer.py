"""One file from several sources, some of which lie, fail or have nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from rbees.host.lan_sources import Source
from rbees.host.lan_transfer import Transfer
from rbees.protocol import codec
from rbees.protocol.downloads import FilePieces, HubFile
from rbees.protocol.errors import ErrorCode, RbeesError

PIECE = 1 << 20
CONTENT = os.urandom(11 * PIECE + 5)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = HubFile(path="x.gguf", size_bytes=len(CONTENT), sha256=SHA256)
OTHER = CONTENT[: 5 * PIECE] + bytes([CONTENT[5 * PIECE] ^ 1]) + CONTENT[5 * PIECE + 1 :]


def sums_of(content: bytes) -> FilePieces:
    sums = tuple(hashlib.sha256(content[at : at + PIECE]).hexdigest() for at in range(0, len(content), PIECE))
    return FilePieces(sha256=SHA256, size_bytes=len(content), piece_bytes=PIECE, pieces=sums)


class QuickClock:
    """Time goes by only where somebody waits, and then at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def unix_ms(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@dataclass
class Pool:
    """A source as a client sees it."""

    url: str = "http://a"
    content: bytes = CONTENT
    says: FilePieces = field(default_factory=lambda: sums_of(CONTENT))
    answers: list[RbeesError] = field(default_factory=list)
    """To the first questions for sums."""
    short_by: int = 0
    fails: int = 0
    """So many requests for bytes break off after a while."""
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def pieces(self, sha256: str, max_bytes: int) -> FilePieces:
        assert sha256 == SHA256
        assert len(codec.encode(msgspec.structs.replace(self.says, held=tuple(range(len(self.says.pieces)))))) <= max_bytes
        if self.answers:
            raise self.answers.pop(0)
        return self.says

    @asynccontextmanager
    async def blob(self, sha256: str, first: int, length: int, idle_timeout_s: float) -> AsyncIterator[AsyncIterator[bytes]]:
        assert idle_timeout_s > 0
        assert sha256 == SHA256
        self.asked.append((first, length))
        yield self._chunks(self.content[first : first + length - self.short_by])

    async def _chunks(self, content: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(content), 300_000):
            await asyncio.sleep(0)
            yield content[at : at + 300_000]
            if self.fails:
                self.fails -= 1
                raise unreachable()


def unreachable() -> RbeesError:
    return RbeesError(ErrorCode.POOL_UNREACHABLE, "No pool daemon answers.", reason="the connection broke off")


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def there(path: Path) -> bytes:
    return path.read_bytes()


class Fetched:
    """A transfer, and what came of it."""

    def __init__(self, path: Path, *pools: Pool) -> None:
        self.path = path
        self.dropped: dict[str, str] = {}
        self.held: list[int] = []
        self.has_begun = asyncio.Event()
        self.sources = [Source(pool, self.dropped.__setitem__, QuickClock()) for pool in pools]

    async def run(self, flags: int = os.O_RDWR | os.O_CREAT) -> int:
        descriptor = os.open(self.path, flags, 0o600)
        try:
            return await Transfer(
                FILE,
                descriptor,
                self.sources,
                on_progress=lambda _: None,
                on_begun=lambda _: self.held.clear(),
                on_held=self._hold,
            ).run()
        finally:
            os.close(descriptor)

    def _hold(self, numbers: Sequence[int]) -> None:
        self.held += numbers
        self.has_begun.set()

    async def right(self) -> int:
        count = await self.run()
        assert there(self.path) == CONTENT
        assert sorted(self.held) == list(range(12))
        assert count == sum(source.came_bytes for source in self.sources)
        return count


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    return tmp_path / "draft"


async def test_several_give_a_part_each(draft: Path) -> None:
    fetched = Fetched(draft, Pool("http://a"), Pool("http://b"), Pool("http://c"))
    assert await fetched.right() >= len(CONTENT)
    assert all(source.came_bytes for source in fetched.sources)
    assert not fetched.dropped


async def test_what_is_there_and_right_is_not_fetched(draft: Path) -> None:
    put(draft, CONTENT[: 4 * PIECE] + bytes(PIECE) + CONTENT[5 * PIECE : 7 * PIECE] + b"half")
    pool = Pool()
    assert await Fetched(draft, pool).right() == len(CONTENT) - 6 * PIECE
    assert min(first for first, _ in pool.asked) == 4 * PIECE
    put(draft, CONTENT + b"too long")
    assert await Fetched(draft, pool).right() == 0


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (Pool(content=OTHER), "not the file's"),
        (Pool(content=bytes(len(CONTENT))), "not the file's"),
        (Pool(short_by=1), "less than it was asked for"),
        (Pool(fails=100), "3 times in a row"),
        (Pool(says=msgspec.structs.replace(sums_of(CONTENT), sha256="0" * 64)), "cannot be those"),
        (Pool(says=msgspec.structs.replace(sums_of(CONTENT), piece_bytes=2 * PIECE)), "cannot be those"),
        (Pool(says=msgspec.structs.replace(sums_of(CONTENT), pieces=())), "cannot be those"),
        (Pool(content=OTHER, says=sums_of(OTHER)), "another"),
        (Pool(answers=[RbeesError(ErrorCode.UNAUTHENTICATED, "The token is asked for.")]), "token"),
        (Pool(answers=[RbeesError(ErrorCode.MODEL_NOT_FOUND, "It is gone.")]), "gone"),
        (Pool(answers=[unreachable()] * 3), "broke off"),
        (Pool(answers=[RbeesError(ErrorCode.MODEL_LOADING, "Being summed.")] * 5_000), "Being summed"),
        (Pool(says=msgspec.structs.replace(sums_of(CONTENT), held=())), "nothing new"),
    ],
)
async def test_a_bad_source_is_dropped_and_the_others_give_the_rest(draft: Path, bad: Pool, why: str) -> None:
    alone = Fetched(draft, fresh(bad))
    with pytest.raises(RbeesError) as caught:
        await alone.run()
    assert caught.value.code is ErrorCode.DOWNLOAD_FAILED
    assert why in alone.dropped["http://a"]
    fetched = Fetched(draft, bad, Pool("http://good"))
    await fetched.right()
    assert "http://good" not in fetched.dropped


def fresh(pool: Pool) -> Pool:
    return Pool(pool.url, pool.content, pool.says, list(pool.answers), pool.short_by, pool.fails)


async def test_a_source_that_fails_now_and_then_stays(draft: Path) -> None:
    fetched = Fetched(draft, Pool(fails=1, answers=[unreachable(), RbeesError(ErrorCode.MODEL_LOADING, "Being summed.")]))
    await fetched.right()
    assert not fetched.dropped


async def test_most_may_lie(draft: Path) -> None:
    liars = [Pool(f"http://liar{number}", content=OTHER, says=sums_of(OTHER)) for number in range(2)]
    fetched = Fetched(draft, *liars, Pool("http://good"))
    await fetched.run()
    assert there(draft) == CONTENT
    assert sorted(fetched.dropped) == ["http://liar0", "http://liar1"]
    assert sorted(fetched.held) == list(range(12))


async def test_who_has_a_part_gives_that(draft: Path) -> None:
    part = Pool("http://part", says=msgspec.structs.replace(sums_of(CONTENT), held=(0, 1, 9)))
    fetched = Fetched(draft, part, Pool("http://whole"))
    await fetched.right()
    assert all(first in (0, PIECE, 9 * PIECE) for first, _ in part.asked)


async def test_a_file_that_cannot_be_written_ends_it(draft: Path) -> None:
    put(draft, b"")
    fetched = Fetched(draft, Pool())
    with pytest.raises(OSError, match="Bad file descriptor"):
        await fetched.run(os.O_RDONLY)
    assert not fetched.dropped


async def test_whoever_stops_it_leaves_only_what_is_right(draft: Path) -> None:
    fetched = Fetched(draft, Pool())
    running = asyncio.create_task(fetched.run())
    await fetched.has_begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    left = there(draft)
    assert left == CONTENT[: len(left)]
