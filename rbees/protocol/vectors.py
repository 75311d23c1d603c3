"""Embeddings and ranks: what is asked for, what comes of it, and how a result is cut into events of bounded size.

The same requests stand in a job (`embed`, `rerank`), in an attempt at it, and by themselves at a worker's own routes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from rbees.protocol.codec import Message, Request
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Embedding, Ranked, Result, Usage

MAX_INPUTS: Final = 2_048
MAX_DIMENSIONS: Final = 32_768
MAX_RESULT_BYTES: Final = 16 * 1024 * 1024
"""Of all vectors of one request together, as JSON: a client may ask for more in several requests."""
RESULT_EVENT_BYTES: Final = 256 * 1024
"""Of the vectors in one event; a single larger vector has an event of its own."""
NUMBER_BYTES: Final = {"float": 20, "base64": 16 / 3}
"""The most that one number of a vector takes in JSON, with what follows it; nine digits say a 32-bit float exactly."""
ENTRY_BYTES: Final = 96
"""The most that stands around a vector in a result."""

Pooling = Literal["mean", "cls", "last", "rank"]
"""How the vectors of a text's tokens become one: their mean, the first, the last, or a score by the model's classifier."""
Capability = Literal["generate", "chat", "embed", "rerank"]
"""What a model can do: make text, apply its chat template, make embeddings, rank documents."""
Encoding = Literal["float", "base64"]
"""How a vector is written: a list of numbers, or base64 of its 32-bit floats, lowest byte first."""

Text = Annotated[str, msgspec.Meta(min_length=1)]
TokenIds = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(min_length=1)]


class EmbedRequest(Request, frozen=True, kw_only=True):
    """`POST /embed`: one vector for each of `input`, in their order."""

    private: ClassVar[frozenset[str]] = frozenset({"input"})
    input: Annotated[
        tuple[Text | TokenIds, ...],
        msgspec.Meta(min_length=1, max_length=MAX_INPUTS, description="Texts, or lists of token ids, which are taken as they are."),
    ]
    normalize: Annotated[bool, msgspec.Meta(description="Scale each vector to length 1.")] = True
    dimensions: (
        Annotated[
            int,
            msgspec.Meta(
                ge=1, le=MAX_DIMENSIONS, description="Keep so many of the first numbers, for models that were trained for that."
            ),
        ]
        | None
    ) = None
    truncate: Annotated[bool, msgspec.Meta(description="Cut an input that is longer than the model's context.")] = False
    encoding: Encoding = "float"


class RerankRequest(Request, frozen=True, kw_only=True):
    """`POST /rerank`: how well each of `documents` answers `query`, the best first."""

    private: ClassVar[frozenset[str]] = frozenset({"query", "documents"})
    query: Text
    documents: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=MAX_INPUTS)]
    top_n: Annotated[int, msgspec.Meta(ge=1, description="Only so many of the best. Default: all.")] | None = None
    truncate: Annotated[bool, msgspec.Meta(description="Cut a document that does not fit the context beside the query.")] = False


class Embeddings(Message, frozen=True, kw_only=True, tag_field="type", tag="embeddings"):
    """What came of an `EmbedRequest`, in the order of its inputs."""

    embeddings: tuple[Embedding, ...]


class Ranking(Message, frozen=True, kw_only=True, tag_field="type", tag="ranking"):
    """What came of a `RerankRequest`, the best document first."""

    results: tuple[Ranked, ...]


class EmbedAnswer(Message, frozen=True, kw_only=True):
    """The answer to `POST /embed`."""

    model: str
    embeddings: tuple[Embedding, ...]
    usage: Usage


class RerankAnswer(Message, frozen=True, kw_only=True):
    """The answer to `POST /rerank`."""

    model: str
    results: tuple[Ranked, ...]
    usage: Usage


def check_result_size(count: int, dimensions: int, encoding: Encoding) -> None:
    """Refuse a request whose `count` vectors would be too large together.

    Raises:
        RbeesError: INVALID_REQUEST with the numbers.
    """
    size = _vector_bytes(dimensions, encoding) * count
    if size > MAX_RESULT_BYTES:
        most = MAX_RESULT_BYTES // _vector_bytes(dimensions, encoding)
        smaller = "send" if encoding == "base64" else "ask for `base64`, or send"
        raise RbeesError(
            ErrorCode.INVALID_REQUEST,
            f"{count} vectors of {dimensions} numbers would be too large an answer; {smaller} at most {most} inputs at a time.",
            field="input",
            result_bytes=size,
            limit_bytes=MAX_RESULT_BYTES,
        )


def embedding_events(embeddings: Sequence[Embedding], dimensions: int, encoding: Encoding) -> Iterator[Result]:
    """The vectors as events. The cuts depend on sizes alone, so that every attempt at a job makes the same."""
    count = max(1, RESULT_EVENT_BYTES // _vector_bytes(dimensions, encoding))
    for start in range(0, len(embeddings), count):
        yield Result(index=start, embeddings=tuple(embeddings[start : start + count]))


def _vector_bytes(dimensions: int, encoding: Encoding) -> int:
    return int(NUMBER_BYTES[encoding] * dimensions) + ENTRY_BYTES
