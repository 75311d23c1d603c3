"""From texts to token ids that the embedder computes, and from its vectors to answers: what `/embed` and `/rerank` do.

A text is a text: a control token that is spelled out in it stays one, unlike in a raw prompt. Whoever wants other tokens sends
ids. Everything that can be wrong with a request is told before anything of it is computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Protocol

import numpy as np

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Embedding, Ranked, Result, Usage
from rbees.protocol.vectors import (
    Capability,
    EmbedAnswer,
    EmbedRequest,
    RerankAnswer,
    RerankRequest,
    check_result_size,
    embedding_events,
)
from rbees.workerd.engine.backend import Backend, Embedder, EmbedderFacts, Ids
from rbees.workerd.engine.embedding import EmbedWork
from rbees.workerd.engine.outputs import Embedded, Failed
from rbees.workerd.pairs import Pairs
from rbees.workerd.vector_numbers import numbers, scaled

Outcome = Embedded | Failed
VectorRequest = EmbedRequest | RerankRequest
_CUT: Final = "shorten it, or send `truncate` to have it cut"


class EmbedDoor(Protocol):
    """What is asked of the engine's thread."""

    def embed(self, work: EmbedWork) -> None:
        """Begin."""

    def cancel_embed(self, key: str) -> None:
        """Forget."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is to be computed for one request."""

    ids: tuple[Ids, ...] = field(repr=False)
    truncated: tuple[bool, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all inputs together."""
        return sum(map(len, self.ids))


class VectorDesk:
    """Answers requests for vectors of one model."""

    def __init__(self, backend: Backend, engine: EmbedDoor, *, model_ref: str) -> None:
        self._backend = backend
        self._engine = engine
        self._model_ref = model_ref
        self._keys = count(1)
        self._pending: dict[str, asyncio.Future[Outcome]] = {}

    @property
    def pending(self) -> int:
        """Requests that are being computed."""
        return len(self._pending)

    async def embed(self, request: EmbedRequest) -> EmbedAnswer:
        """The answer to `POST /embed`. Whoever stops waiting ends the computing.

        Raises:
            RbeesError: INVALID_REQUEST, CONTEXT_EXCEEDED, MODEL_INCOMPATIBLE, INTERNAL
        """
        inputs = await self.inputs(request)
        embeddings = await self.embeddings(request, inputs, await self.compute(inputs))
        return EmbedAnswer(model=self._model_ref, embeddings=embeddings, usage=usage_of(inputs))

    async def rerank(self, request: RerankRequest) -> RerankAnswer:
        """The answer to `POST /rerank`. Raises as `embed`."""
        inputs = await self.inputs(request)
        ranking = self.ranking(request, inputs, await self.compute(inputs))
        return RerankAnswer(model=self._model_ref, results=ranking, usage=usage_of(inputs))

    async def inputs(self, request: VectorRequest) -> Inputs:
        """The request as token ids, all of which can be computed.

        Raises:
            RbeesError: INVALID_REQUEST, CONTEXT_EXCEEDED, MODEL_INCOMPATIBLE
        """
        if isinstance(request, RerankRequest):
            facts = ranker_of(self._backend).facts
            return await asyncio.to_thread(_pairs, self._backend, facts, request)
        facts = embedder_of(self._backend).facts
        check_result_size(len(request.input), self.dimensions(request), request.encoding)
        return await asyncio.to_thread(_texts, self._backend, facts, request)

    def dimensions(self, request: EmbedRequest) -> int:
        """Numbers of each vector that the request asks for. Raises RbeesError INVALID_REQUEST for more than there are."""
        whole = embedder_of(self._backend).facts.dimensions
        if request.dimensions is not None and request.dimensions > whole:
            message = f"The model's vectors have {whole} numbers; ask for at most so many `dimensions`."
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="dimensions", model_dimensions=whole)
        return request.dimensions or whole

    async def compute(self, inputs: Inputs) -> Embedded:
        """The vectors of all inputs. Raises RbeesError MODEL_INCOMPATIBLE, INTERNAL."""
        key = f"vectors-{next(self._keys)}"
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._pending[key] = done
        self._engine.embed(EmbedWork(key, inputs.ids))
        try:
            outcome = await done
        finally:
            del self._pending[key]
            if done.cancelled():
                self._engine.cancel_embed(key)
        if isinstance(outcome, Failed):
            raise RbeesError.from_body(outcome.error)
        return outcome

    def waits_for(self, key: str) -> bool:
        """Whether an outcome of this key would be for somebody here."""
        return key in self._pending

    def deliver(self, outcome: Outcome) -> None:
        """What came out of the engine; nobody may wait for it any more."""
        done = self._pending.get(outcome.key)
        if done is not None and not done.done():
            done.set_result(outcome)

    async def results(self, request: VectorRequest, inputs: Inputs, computed: Embedded) -> list[Result]:
        """What came of an attempt, as the events that say so."""
        if isinstance(request, RerankRequest):
            return [Result(ranking=self.ranking(request, inputs, computed))]
        embeddings = await self.embeddings(request, inputs, computed)
        return list(embedding_events(embeddings, self.dimensions(request), request.encoding))

    async def embeddings(self, request: EmbedRequest, inputs: Inputs, computed: Embedded) -> tuple[Embedding, ...]:
        """The vectors in the form that the request asks for."""

        def written() -> tuple[Embedding, ...]:
            vectors = scaled(computed.vectors[:, : self.dimensions(request)], normalize=request.normalize)
            rows = numbers(vectors, request.encoding)
            return tuple(
                Embedding(index=index, embedding=row, tokens=len(ids), truncated=truncated)
                for index, (row, ids, truncated) in enumerate(zip(rows, inputs.ids, inputs.truncated, strict=True))
            )

        return await asyncio.to_thread(written)

    @property
    def _scores_are_probabilities(self) -> bool:
        embedder = self._backend.embedder
        return embedder is not None and embedder.facts.scores_are_probabilities

    def ranking(self, request: RerankRequest, inputs: Inputs, computed: Embedded) -> tuple[Ranked, ...]:
        """The documents, best first; of equal ones the earlier first."""
        scores = computed.vectors[:, 0]
        best = np.argsort(-scores, kind="stable")[: request.top_n]
        return tuple(
            Ranked(
                index=index,
                relevance_score=float(scores[index]),
                is_probability=self._scores_are_probabilities,
                tokens=len(inputs.ids[index]),
                truncated=inputs.truncated[index],
            )
            for index in best.tolist()
        )


def capabilities_of(backend: Backend) -> tuple[Capability, ...]:
    """What a worker with this backend can do."""
    facts, embedder = backend.facts, backend.embedder
    able: dict[Capability, bool] = {
        "generate": facts.generates,
        "chat": facts.generates and facts.chat_template is not None,
        "embed": embedder is not None and embedder.facts.pooling != "rank",
        "rerank": embedder is not None and embedder.facts.pooling == "rank",
    }
    return tuple(name for name, can in able.items() if can)


def embedder_of(backend: Backend) -> Embedder:
    """What makes embeddings. Raises RbeesError MODEL_INCOMPATIBLE where the model makes none."""
    embedder = backend.embedder
    if embedder is None:
        message = (
            "This model's header does not say how to make embeddings; start its worker with `--pooling mean`, `cls` or `last`, "
            "or choose an embedding model."
        )
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, message)
    if embedder.facts.pooling == "rank":
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, "This model ranks documents and makes no embeddings; send it `rerank`.")
    return embedder


def ranker_of(backend: Backend) -> Embedder:
    """What ranks documents. Raises RbeesError MODEL_INCOMPATIBLE where the model ranks none."""
    embedder = backend.embedder
    if embedder is None or embedder.facts.pooling != "rank":
        message = "This model cannot rank documents; choose one whose header says so (`pooling_type` rank), such as a reranker."
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, message)
    return embedder


def usage_of(inputs: Inputs) -> Usage:
    """Tokens of a request that makes no text."""
    return Usage(prompt_tokens=inputs.tokens, cached_tokens=0, completion_tokens=0)


def _texts(backend: Backend, facts: EmbedderFacts, request: EmbedRequest) -> Inputs:
    ids, truncated = [], []
    for index, given in enumerate(request.input):
        if isinstance(given, str):
            tokens: Sequence[int] = backend.tokenize(given, add_special=True, parse_special=False)
            kept = len(facts.closing)
            if len(tokens) <= len(facts.opening) + kept:
                raise RbeesError(ErrorCode.INVALID_REQUEST, f"Input {index} is empty; send some text.", field=f"input[{index}]")
        else:
            tokens, kept = given, 0
            _check_vocabulary(tokens, backend.facts.vocabulary_size, index)
        too_long = len(tokens) > facts.ctx
        if too_long and not request.truncate:
            raise _exceeded("Input", index, len(tokens), facts.ctx)
        ids.append(_cut(tokens, facts.ctx, kept) if too_long else np.array(tokens, dtype=np.int32))
        truncated.append(too_long)
    return Inputs(tuple(ids), tuple(truncated))


def _pairs(backend: Backend, facts: EmbedderFacts, request: RerankRequest) -> Inputs:
    pairs = Pairs(backend, facts, request.query)
    ids, truncated = [], []
    for index, document in enumerate(request.documents):
        tokens = pairs.of(document, index)
        too_long = len(tokens) > facts.ctx
        if too_long and not (request.truncate and pairs.room > 0):
            advice = _CUT if pairs.room > 0 else "shorten the query, which is never cut and leaves no room for a document"
            raise _exceeded("The query with document", index, len(tokens), facts.ctx, advice)
        ids.append(pairs.cut(tokens) if too_long else tokens)
        truncated.append(too_long)
    return Inputs(tuple(ids), tuple(truncated))


def _check_vocabulary(tokens: Sequence[int], size: int, index: int) -> None:
    if max(tokens) >= size:
        message = f"Token ids must lie between 0 and {size - 1}."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field=f"input[{index}]", vocabulary_size=size)


def _cut(tokens: Sequence[int], ctx: int, kept: int) -> Ids:
    """As many tokens as fit, with the `kept` last ones, which close a text."""
    return np.array([*tokens[: ctx - kept], *tokens[len(tokens) - kept :]], dtype=np.int32)


def _exceeded(what: str, index: int, tokens: int, ctx: int, advice: str = _CUT) -> RbeesError:
    return RbeesError(
        ErrorCode.CONTEXT_EXCEEDED,
        f"{what} {index} has {tokens} tokens, but the context holds {ctx}; {advice}.",
        index=index,
        prompt_tokens=tokens,
        ctx_tokens=ctx,
    )
