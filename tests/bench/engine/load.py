"""The load generator: streaming requests over HTTP/1.1, and what came back when.

It knows neither server: an `Endpoint` turns an `Ask` into a body and frames into tokens. While a run goes on it only keeps the
chunks and the moments they came, because it shares the machine with what it measures; they are read afterwards.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Protocol

RECEIPT_EVERY_S: Final = 10.0
_NUMBER: Final = re.compile(rb"^id: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Ask:
    """One request: a prompt of token ids, answered with exactly `tokens` tokens unless something may end it before."""

    prompt: tuple[int, ...]
    tokens: int
    seed: int = 1
    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    schema: dict[str, Any] | None = None
    ends: bool = False
    """The model may end the answer sooner."""
    whole: bool = False
    """The answer's token ids are wanted, all of them, and its pace is not; a server that leaves some out of its stream may
    answer at once."""


@dataclass(frozen=True)
class Grown:
    """What one frame brought."""

    total: int
    """Tokens of the answer so far, held-back ones included."""
    token_ids: tuple[int, ...]
    text: str


class Endpoint(Protocol):
    """A server under load."""

    @property
    def host(self) -> str:
        """Its address."""

    @property
    def port(self) -> int:
        """Its port."""

    @property
    def path(self) -> str:
        """Where requests go."""

    @property
    def headers(self) -> dict[str, str]:
        """What it wants beside the body."""

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request in its words."""

    def grown(self, data: dict[str, Any]) -> Grown | None:
        """What the frame's object brings; None where it is no token. AssertionError where the server failed."""

    def receipt(self, body: dict[str, Any], number: int) -> tuple[str, dict[str, Any]] | None:
        """Path and body of the request that says that event `number` has arrived, where the server wants one."""


@dataclass(frozen=True)
class Answer:
    """One answered request; moments are those of `time.perf_counter`."""

    sent_s: float
    arrivals: tuple[tuple[float, int], ...]
    """When tokens came, and how many there were by then."""
    token_ids: tuple[int, ...]
    text: str

    @property
    def tokens(self) -> int:
        """How many tokens came."""
        return self.arrivals[-1][1]

    @property
    def first_s(self) -> float:
        """When the first token came."""
        return self.arrivals[0][0]

    @property
    def ttft_s(self) -> float:
        """From sending the request to the first token."""
        return self.first_s - self.sent_s

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first frame."""
        (first, had), (last, _) = self.arrivals[0], self.arrivals[-1]
        return (self.tokens - had) / (last - first)

    def gaps_s(self, begin: float, end: float) -> list[float]:
        """The times between two frames of tokens, of all pauses of which some part lies between `begin` and `end`."""
        moments = [at for at, _ in self.arrivals]
        return [after - before for before, after in pairwise(moments) if after > begin and before < end]


def total_rate(answers: Sequence[Answer]) -> float:
    """Tokens of all answers a second, from the first request to the last token."""
    begun = min(answer.sent_s for answer in answers)
    return sum(answer.tokens for answer in answers) / (max(answer.arrivals[-1][0] for answer in answers) - begun)


async def ask_all(endpoint: Endpoint, asks: Iterable[Ask]) -> list[Answer]:
    """All at once, each over a connection of its own."""
    return await asyncio.gather(*(ask_one(endpoint, ask) for ask in asks))


async def ask_one(endpoint: Endpoint, ask: Ask, begun: asyncio.Event | None = None) -> Answer:
    """Send one request and read its answer to the end; `begun` is set with the first token."""
    body = endpoint.body(ask)
    chunks: Chunks = []
    receipts = asyncio.create_task(_send_receipts(endpoint, body, chunks))
    try:
        sent_s = await _exchange(endpoint, endpoint.path, body, chunks, begun)
    finally:
        receipts.cancel()
    check_status(chunks, b"200")
    await _send_receipt(endpoint, body, chunks)
    return _answer(endpoint, sent_s, list(read_objects(chunks)))


async def _send_receipts(endpoint: Endpoint, body: dict[str, Any], chunks: Chunks) -> None:
    """Tell now and then what has arrived: a worker gives up a job of which nobody takes anything for a minute."""
    while True:
        await asyncio.sleep(RECEIPT_EVERY_S)
        await _send_receipt(endpoint, body, chunks)


async def _send_receipt(endpoint: Endpoint, body: dict[str, Any], chunks: Chunks) -> None:
    numbers = _NUMBER.findall(b"".join(data for _, data in chunks))
    receipt = endpoint.receipt(body, int(numbers[-1])) if numbers else None
    if receipt is not None:
        answered: Chunks = []
        await _exchange(endpoint, *receipt, answered)
        check_status(answered, b"204")


Chunks = list[tuple[float, bytes]]
"""What came, and when."""


async def _exchange(
    endpoint: Endpoint, path: str, body: dict[str, Any], chunks: Chunks, begun: asyncio.Event | None = None
) -> float:
    """One request over a connection of its own: when it was sent; what comes back goes into `chunks`."""
    content = json.dumps(body).encode()
    headers = {
        "Host": f"{endpoint.host}:{endpoint.port}",
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **endpoint.headers,
    }
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    loop = asyncio.get_running_loop()
    transport, reader = await loop.create_connection(lambda: _Reader(loop, chunks, begun), endpoint.host, endpoint.port)
    try:
        sent_s = time.perf_counter()
        transport.write("\r\n".join(lines).encode() + content)
        await reader.ended
    finally:
        transport.close()
    return sent_s


def check_status(chunks: Chunks, status: bytes) -> None:
    """AssertionError with the answer's beginning where its status is another."""
    raw = b"".join(data for _, data in chunks)
    assert raw.split(b" ", 2)[1:2] == [status], raw[:2000]


class _Reader(asyncio.Protocol):
    """Keeps what comes and when."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chunks: Chunks, begun: asyncio.Event | None) -> None:
        self.chunks = chunks
        self.ended: asyncio.Future[None] = loop.create_future()
        self._begun = begun

    def data_received(self, data: bytes) -> None:
        self.chunks.append((time.perf_counter(), data))
        if self._begun is not None and (b'"text":' in data or b'"content":' in data):
            self._begun.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None) if exc is None else self.ended.set_exception(exc)


def _answer(endpoint: Endpoint, sent_s: float, objects: list[tuple[float, dict[str, Any]]]) -> Answer:
    arrivals: list[tuple[float, int]] = []
    ids: list[int] = []
    text: list[str] = []
    for at_s, data in objects:
        grown = endpoint.grown(data)
        if grown is not None:
            ids += grown.token_ids
            text.append(grown.text)
            if grown.total > (arrivals[-1][1] if arrivals else 0):
                arrivals.append((at_s, grown.total))
    assert arrivals, "an answer without tokens"
    return Answer(sent_s, tuple(arrivals), tuple(ids), "".join(text))


def read_objects(chunks: Chunks) -> Iterator[tuple[float, dict[str, Any]]]:
    """The JSON objects of a stream of events, or the one that is the whole answer, and when each was complete."""
    raw = b"".join(data for _, data in chunks)
    head, _, body = raw.partition(b"\r\n\r\n")
    if b"text/event-stream" not in head.lower():
        yield chunks[-1][0], json.loads(body)
        return
    for at_s, event in _events(raw, len(head) + 4, _Moments(chunks)):
        data = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
        if data and data[0].strip() != b"[DONE]":
            yield at_s, json.loads(b"\n".join(data))


def _events(raw: bytes, place: int, moments: _Moments) -> Iterator[tuple[float, bytes]]:
    """The events of a chunked body that begins at `place`."""
    held = b""
    while True:
        line_end = raw.index(b"\r\n", place)
        size = int(raw[place:line_end], 16)
        if not size:
            return
        place = line_end + 2 + size
        *whole, held = (held + raw[line_end + 2 : place]).split(b"\n\n")
        at_s = moments.of(place)
        yield from ((at_s, event) for event in whole)
        place += 2


class _Moments:
    """When the bytes up to a position had come; asked about in rising order."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = iter(chunks)
        self._at_s, data = next(self._chunks)
        self._reached = len(data)

    def of(self, position: int) -> float:
        while self._reached < position:
            self._at_s, data = next(self._chunks)
            self._reached += len(data)
        return self._at_s
