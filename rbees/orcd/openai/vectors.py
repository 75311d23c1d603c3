"""PURE: `/v1/embeddings` as OpenAI has it, and `/v1/rerank` as Jina, Cohere and vLLM have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from rbees.orcd.door.collected import Collected
from rbees.orcd.door.foreign import Foreign, Refused, refusal
from rbees.orcd.openai.shared import AnyPriority, AnyTier, session_of, unmet_urgency, urgency
from rbees.protocol.codec import Message
from rbees.protocol.events import Ranked, Usage
from rbees.protocol.jobs import JobRequest
from rbees.protocol.vectors import MAX_DIMENSIONS, MAX_INPUTS, EmbedRequest, Encoding, RerankRequest, Text, TokenIds

_TokenId = Annotated[int, msgspec.Meta(ge=0)]


class VectorRequest(Foreign, frozen=True, kw_only=True):
    """Fields of both."""

    extras: ClassVar[frozenset[str]] = frozenset({"service_tier", "priority", "truncate", "cancel_on_disconnect"})
    model: Annotated[
        str, msgspec.Meta(min_length=1, max_length=1024, description="An alias, `hf:` or `file:` reference, sha256 or file name.")
    ]
    user: Annotated[str | None, msgspec.Meta(description="The job's session: where many wait, sessions take turns.")] = None
    service_tier: AnyTier = None
    priority: AnyPriority = None
    truncate: Annotated[bool | None, msgspec.Meta(description="Cut what is longer than the context; else it is refused.")] = None
    cancel_on_disconnect: Annotated[
        bool | None,
        msgspec.Meta(
            description="False: the job goes on when its client has left. Default: true, with an `Idempotency-Key` false."
        ),
    ] = None


class EmbeddingsRequest(VectorRequest, frozen=True, kw_only=True):
    """Texts to make vectors of."""

    private: ClassVar[frozenset[str]] = frozenset({"input"})
    extras: ClassVar[frozenset[str]] = VectorRequest.extras | {"normalize"}
    input: Annotated[
        Text | Annotated[tuple[Text | TokenIds | _TokenId, ...], msgspec.Meta(min_length=1)],
        msgspec.Meta(
            description=f"A text, an array of up to {MAX_INPUTS} texts, an array of token ids, or an array of such arrays."
        ),
    ]
    dimensions: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=MAX_DIMENSIONS)] | None,
        msgspec.Meta(description="The first so many numbers, for models that were trained for that."),
    ] = None
    encoding_format: Annotated[
        Encoding | None, msgspec.Meta(description="`float` (default), or `base64` of 32-bit floats, lowest byte first.")
    ] = None

    normalize: Annotated[bool | None, msgspec.Meta(description="False: vectors keep their length. Default: length 1.")] = None

    @property
    def inputs(self) -> tuple[str | tuple[int, ...], ...]:
        """One or more. Raises RbeesError INVALID_REQUEST for too many, or an array that mixes ids with texts."""
        if isinstance(self.input, str):
            return (self.input,)
        ids = tuple(part for part in self.input if isinstance(part, int))
        if ids and len(ids) < len(self.input):
            raise refusal("`input` mixes token ids with texts; send either.", "input")
        inputs = (ids,) if ids else tuple(part for part in self.input if not isinstance(part, int))
        if len(inputs) > MAX_INPUTS:
            raise refusal(f"`input` holds {len(inputs)} texts; send at most {MAX_INPUTS} at a time.", "input")
        return inputs


class DocumentText(Foreign, frozen=True, kw_only=True):
    """A document as an object, as Cohere's and Jina's clients may write it."""

    private: ClassVar[frozenset[str]] = frozenset({"text"})
    text: Text


class RankRequest(VectorRequest, frozen=True, kw_only=True):
    """Documents to order by how well they answer a query."""

    private: ClassVar[frozenset[str]] = frozenset({"query", "documents"})
    extras: ClassVar[frozenset[str]] = VectorRequest.extras | {"user"}
    refused: ClassVar[Mapping[str, Refused]] = {
        "max_chunks_per_doc": Refused("a document is ranked as one; split it, or send `truncate`.", (1,)),
        "max_tokens_per_doc": Refused("a document is cut where the context ends; send `truncate`."),
    }
    query: Annotated[Text, msgspec.Meta(description="What is looked for.")]
    documents: Annotated[
        Annotated[tuple[Text | DocumentText, ...], msgspec.Meta(min_length=1, max_length=MAX_INPUTS)],
        msgspec.Meta(description=f"Up to {MAX_INPUTS} texts, each as such or as `text` of an object."),
    ]
    top_n: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None, msgspec.Meta(description="Only so many of the best. Default: all.")
    ] = None
    return_documents: Annotated[bool | None, msgspec.Meta(description="Each result holds its document.")] = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The documents."""
        return tuple(document if isinstance(document, str) else document.text for document in self.documents)


class VectorUsage(Message, frozen=True, kw_only=True):
    """Tokens that were computed."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingObject(Message, frozen=True, kw_only=True):
    """One vector."""

    private: ClassVar[frozenset[str]] = frozenset({"embedding"})
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: tuple[float, ...] | str


class EmbeddingsAnswer(Message, frozen=True, kw_only=True):
    """Vectors in the order of the inputs."""

    object: Literal["list"] = "list"
    data: tuple[EmbeddingObject, ...]
    model: str
    usage: VectorUsage


class RankedResult(Message, frozen=True, kw_only=True):
    """One document's place."""

    private: ClassVar[frozenset[str]] = frozenset({"document"})
    index: int
    relevance_score: float
    """0 to 1."""
    document: dict[str, str] | UnsetType = UNSET


class RankAnswer(Message, frozen=True, kw_only=True):
    """The best document first."""

    object: Literal["list"] = "list"
    id: str
    model: str
    results: tuple[RankedResult, ...]
    usage: VectorUsage


def embeddings_job(request: EmbeddingsRequest) -> JobRequest:
    """The job. Raises RbeesError INVALID_REQUEST for inputs that do not go together."""
    embed = EmbedRequest(
        input=request.inputs,
        normalize=request.normalize is not False,
        dimensions=request.dimensions,
        truncate=bool(request.truncate),
        encoding=request.encoding_format or "float",
    )
    return JobRequest(
        kind="embed",
        model=request.model,
        priority=urgency(request.priority, request.service_tier),
        embed=embed,
        session_id=session_of(request.user),
        cancel_on_disconnect=request.cancel_on_disconnect is not False,
    )


def rank_job(request: RankRequest) -> JobRequest:
    """The job."""
    rerank = RerankRequest(query=request.query, documents=request.texts, top_n=request.top_n, truncate=bool(request.truncate))
    return JobRequest(
        kind="rerank",
        model=request.model,
        priority=urgency(request.priority, request.service_tier),
        rerank=rerank,
        session_id=session_of(request.user),
        cancel_on_disconnect=request.cancel_on_disconnect is not False,
    )


def unmet_of_vectors(request: VectorRequest) -> tuple[str, ...]:
    """Fields that are known, and whose value asks for what nobody does."""
    return unmet_urgency(request.priority)


def embeddings_answer(request: EmbeddingsRequest, collected: Collected) -> EmbeddingsAnswer:
    """The answer of a job that has ended well."""
    return EmbeddingsAnswer(
        data=tuple(EmbeddingObject(index=one.index, embedding=one.embedding) for one in collected.embeddings),
        model=request.model,
        usage=_usage(collected.usage),
    )


def rank_answer(request: RankRequest, id_: str, collected: Collected) -> RankAnswer:
    """The answer of a job that has ended well."""
    texts: Sequence[str] = request.texts
    return RankAnswer(
        id=id_,
        model=request.model,
        results=tuple(
            RankedResult(
                index=one.index,
                relevance_score=_probability(one),
                document={"text": texts[one.index]} if request.return_documents else UNSET,
            )
            for one in collected.ranking
        ),
        usage=_usage(collected.usage),
    )


def _probability(ranked: Ranked) -> float:
    """The score as clients of this route know it, whatever the model's own scale is."""
    score = ranked.relevance_score
    if ranked.is_probability:
        return score
    # Of two forms of the logistic function the one whose power cannot overflow.
    return 1 / (1 + exp(-score)) if score >= 0 else exp(score) / (1 + exp(score))


def _usage(usage: Usage | None) -> VectorUsage:
    assert usage is not None, "the job has ended well"
    return VectorUsage(prompt_tokens=usage.prompt_tokens, total_tokens=usage.prompt_tokens)
