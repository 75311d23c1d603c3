"""Chats, and the ways in which they can be asked for: through orcd, of its worker, of another server that speaks OpenAI's API.

Each chat has words of its own, so that no way finds in a cache what another has computed.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from tests.bench.api.kept import Kept, closing, posted
from tests.bench.engine import models
from tests.bench.engine.load import Chunks, check_status, read_objects
from tests.support.home import Home, wait_until
from tests.support.raw_http import request
from tests.support.worker_door import door_of

DISK: Final = "/tmp"
MEMORY: Final = "/dev/shm"
TEMPERATURE: Final = 0.7
_WORDS: Final = ("river", "stone", "winter", "harbour", "lantern", "meadow", "copper", "window", "garden", "silence", "bridge")

_NUMBER: Final = re.compile(rb"^id: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Chat:
    """One request; answered with exactly `tokens` tokens."""

    said: str
    tokens: int
    seed: int
    streams: bool

    @property
    def messages(self) -> list[dict[str, str]]:
        """As every API writes them."""
        return [{"role": "user", "content": self.said}]


def chat(number: int, tokens: int, *, words: int = 8, streams: bool = True) -> Chat:
    """Another one for each number."""
    drawn = random.Random(number)
    said = " ".join(drawn.choice(_WORDS) for _ in range(words))
    return Chat(f"write a haiku about {said}", tokens, number, streams)


class Way(Protocol):
    """Where a chat is sent and how it is written there."""

    @property
    def port(self) -> int:
        """Of the server."""

    @property
    def path(self) -> str:
        """Of the route."""

    @property
    def keeps(self) -> bool:
        """Whether it keeps a connection after a stream."""

    @property
    def headers(self) -> dict[str, str]:
        """What the server wants beside the body."""

    def body(self, chat: Chat) -> dict[str, Any]:
        """The request in its words."""

    def text(self, data: dict[str, Any]) -> str:
        """What a frame, or the whole answer, brings of the text."""

    def tokens(self, data: dict[str, Any]) -> int | None:
        """How many tokens the whole answer has, where the frame says it."""

    def receipt(self, body: dict[str, Any], number: int) -> tuple[str, dict[str, Any]] | None:
        """Path and body of what tells the server that event `number` has arrived, where it wants that."""


@dataclass(frozen=True)
class OpenAi:
    """A server that speaks OpenAI's API: orcd, LiteLLM's proxy, llama-server."""

    port: int
    model: str
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)
    keeps: bool = True

    def body(self, chat: Chat) -> dict[str, Any]:
        """As `Way.body`."""
        asked = {"model": self.model, "messages": chat.messages, "max_tokens": chat.tokens, "temperature": TEMPERATURE}
        form = {"stream": True, "stream_options": {"include_usage": True}} if chat.streams else {}
        return {**asked, "seed": chat.seed, "ignore_eos": True, **form}

    def text(self, data: dict[str, Any]) -> str:
        """As `Way.text`."""
        if not data["choices"]:
            return ""
        (choice,) = data["choices"]
        return (choice["delta"] if "delta" in choice else choice["message"]).get("content") or ""

    def tokens(self, data: dict[str, Any]) -> int | None:
        """As `Way.tokens`."""
        usage = data.get("usage")
        return usage["completion_tokens"] if usage else None

    def receipt(self, body: dict[str, Any], number: int) -> tuple[str, dict[str, Any]] | None:
        """As `Way.receipt`."""
        return None


@dataclass(frozen=True)
class BareWorker:
    """The route by which orcd gives a worker its jobs. It always streams."""

    port: int
    headers: dict[str, str]
    path: str = "/execute"
    keeps: bool = True
    _numbers: Any = field(default_factory=count)

    def body(self, chat: Chat) -> dict[str, Any]:
        """As `Way.body`."""
        sampling = {"temperature": TEMPERATURE, "seed": chat.seed, "ignore_eos": True}
        job = {"job_id": f"bench-{next(self._numbers)}", "epoch": 1, "messages": chat.messages}
        return {**job, "max_tokens": chat.tokens, "sampling": sampling}

    def text(self, data: dict[str, Any]) -> str:
        """As `Way.text`."""
        assert data["type"] != "error", data
        return data["text"] if data["type"] == "token" else ""

    def tokens(self, data: dict[str, Any]) -> int | None:
        """As `Way.tokens`."""
        return data["usage"]["completion_tokens"] if data["type"] == "end" else None

    def receipt(self, body: dict[str, Any], number: int) -> tuple[str, dict[str, Any]] | None:
        """As `Way.receipt`."""
        return f"/jobs/{body['job_id']}/ack", {"epoch": 1, "seq": number}


@dataclass(frozen=True)
class Heard:
    """One answered chat; moments are those of `time.perf_counter`."""

    sent_s: float
    first_s: float
    """When the first of its text came; the end, where it came whole."""
    ended_s: float
    tokens: int


async def ask_in_turn(way: Way, kept: Kept, chats: Sequence[Chat]) -> list[Heard]:
    """One after the other over one connection. AssertionError where one is refused or not as long as it should be."""
    raw: list[tuple[float, Chunks]] = []
    for one in chats:
        body = way.body(one)
        sent_s, chunks = await kept.exchange(posted(way.port, way.path, body, way.headers))
        raw.append((sent_s, chunks))
        numbers = _NUMBER.findall(b"".join(data for _, data in chunks))
        receipt = way.receipt(body, int(numbers[-1])) if numbers else None
        if receipt is not None:
            _, answered = await kept.exchange(posted(way.port, *receipt, way.headers))
            check_status(answered, b"204")
    return [_heard(way, one, sent_s, chunks) for one, (sent_s, chunks) in zip(chats, raw, strict=True)]


async def ask_together(way: Way, chats: Sequence[Sequence[Chat]]) -> list[Heard]:
    """Each row over a connection of its own, all rows at once; the connections are open before."""
    with closing([Kept(way.port, keeps=way.keeps) for _ in chats]) as connections:
        await asyncio.gather(*(kept.open() for kept in connections))
        rows = await asyncio.gather(*(ask_in_turn(way, kept, row) for kept, row in zip(connections, chats, strict=True)))
    return [heard for row in rows for heard in row]


def _heard(way: Way, chat: Chat, sent_s: float, chunks: Chunks) -> Heard:
    check_status(chunks, b"200")
    objects = list(read_objects(chunks))
    firsts = [at_s for at_s, data in objects if way.text(data)]
    counted = [tokens for _, data in objects if (tokens := way.tokens(data)) is not None]
    assert counted[-1:] == [chat.tokens], (counted, chat, chunks[-1])
    return Heard(sent_s, firsts[0] if firsts else chunks[-1][0], chunks[-1][0], chat.tokens)


@dataclass(frozen=True)
class Site:
    """orcd, a pool and its one worker, which has answered a chat already."""

    home: Home
    through_orcd: OpenAi
    bare: BareWorker
    orcd_pid: int


@contextmanager
def site(model: str, slots: int, ctx: int, parent: str = DISK) -> Iterator[Site]:
    """A fresh one that serves the model of this reference, its state below `parent`."""
    with Home(parent=parent) as home:
        daemon = home.serve_orcd()
        shape = {"RBEES_POOLD_DEFAULT_SLOTS": str(slots), "RBEES_POOLD_DEFAULT_CTX": str(ctx)}
        home.serve_poold(environ={"RBEES_POOLD_MODEL_DIRS": str(models.FOLDER.absolute()), **shape})
        wait_until(lambda: request("GET", f"{home.url}/v2/pools").json["pools"], what="register its pool")
        way = OpenAi(_port(home.url), model)
        # The checksum of a large file takes a while, in which its model is refused.
        wait_until(lambda: _answers(home, way), what="answer a chat")
        door = door_of(home)
        yield Site(home, way, BareWorker(_port(door.uri), dict(door.headers)), daemon.pid)


def _answers(home: Home, way: OpenAi) -> bool:
    first = request("POST", f"{home.url}{way.path}", way.body(chat(0, 2, streams=False)), timeout_s=120.0)
    assert first.status in {200, 503}, first.body
    return first.status == 200


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
