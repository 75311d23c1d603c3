"""Embeddings and ranks by llama.cpp: a context of their own, in which it pools the vectors of each sequence's tokens.

Models without a KV memory (BERT and its kin), and others whose attention is not causal, look at all tokens of a sequence at once
and make vectors only. All others can make text too, and their vectors are computed span by span.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import numpy as np

from rbees.protocol.demand import VECTOR_SEQUENCES, VECTOR_STATES, vector_rows
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.vectors import Pooling
from rbees.service import logs
from rbees.workerd.engine.backend import DecodeFailed, EmbedderFacts, Interrupted, LoadSpec, Rows, Span, Vectors
from rbees.workerd.engine.llama.adapters import put_in_force
from rbees.workerd.engine.llama.batch import BatchArrays
from rbees.workerd.engine.llama.context import Flag, common_params
from rbees.workerd.engine.llama.facts import metadata, sequence_length
from rbees.workerd.engine.llama.free_memory import with_available
from rbees.workerd.engine.llama.library import NotLoaded, ll, swift
from rbees.workerd.engine.llama.log import LibraryLog
from rbees.workerd.engine.llama.vocabulary import Vocabulary
from rbees.workerd.engine.shortage import Shortage

_seq_rm: Final = swift(ll.llama_memory_seq_rm)
_WARM_UP_ROWS: Final = 32
_EQUAL: Final = 1e-2
_RANK_BY_SHARES: Final = frozenset({"qwen3", "qwen3vl"})
"""llama.cpp puts a softmax behind the classifier of these (src/llama-graph.cpp, `build_pooling`)."""
_POOLINGS: Final[dict[Pooling, int]] = {
    "mean": ll.LLAMA_POOLING_TYPE_MEAN,
    "cls": ll.LLAMA_POOLING_TYPE_CLS,
    "last": ll.LLAMA_POOLING_TYPE_LAST,
    "rank": ll.LLAMA_POOLING_TYPE_RANK,
}
_PLACES: Final = ("{query}", "{document}")


class LlamaEmbedder:
    """Implements `Embedder`. `interrupt` of the backend that it belongs to breaks off its calls too."""

    def __init__(
        self,
        spec: LoadSpec,
        context: Any,
        facts: EmbedderFacts,
        log: LibraryLog,
        *,
        generates: bool,
        vocabulary_size: int,
        flag: Flag,
    ) -> None:
        self._spec = spec
        self._context = context
        self._log = log
        self._memory = ll.llama_get_memory(context)
        self._facts = facts
        self._vocabulary_size = vocabulary_size
        self._flag = flag
        """Held because the library calls it."""
        self._batch = BatchArrays(facts.max_rows)
        self.generates = generates
        """Whether the model makes text as well."""

    @property
    def facts(self) -> EmbedderFacts:
        """As `Embedder.facts`."""
        return self._facts

    @property
    def context(self) -> Any:
        """What it computes in."""
        return self._context

    def compute(self, spans: list[Span]) -> Vectors:
        """As `Embedder.compute`."""
        try:
            return self._compute(spans)
        except MemoryError:
            self._forget_all()
            raise DecodeFailed(with_available(Shortage(), self._spec)) from None

    def _compute(self, spans: list[Span]) -> Vectors:
        rows = self._rows(spans)
        # What was lacking earlier and then was not needed says nothing of this call.
        self._log.take_shortage()
        status = ll.llama_decode(self._context, self._batch.fill(rows))
        if status != 0:
            self._forget_all()
        if status == 2:
            raise Interrupted
        if status in {1, -2, -3}:
            logs.logger().error("llama_decode failed", action="embed_failed", status=status, rows=len(rows))
            shortage = self._log.take_shortage()
            raise DecodeFailed(with_available(shortage, self._spec) if shortage is not None else None)
        assert status == 0, f"llama_decode refused the batch with {status}"
        vectors = np.stack([self._vector(span.sequence) for span in spans])
        if self._facts.whole:
            self._forget_all()
        return vectors

    def forget(self, sequence: int) -> None:
        """As `Embedder.forget`."""
        assert 0 <= sequence < self._facts.max_sequences
        if self._memory:
            _seq_rm(self._memory, sequence, -1, -1)

    def warm_up(self) -> None:
        """Two equal texts through all kernels.

        Raises:
            RbeesError: MODEL_INCOMPATIBLE where a model without a classifier is to rank.
            DecodeFailed: also where memory for the largest call is lacking.
        """
        tokens = np.zeros(min(_WARM_UP_ROWS, self._facts.max_rows // 2, self._facts.ctx), dtype=np.int32)
        first, second = self.compute([Span(0, 0, tokens), Span(1, 0, tokens)])
        self.forget(0)
        self.forget(1)
        # Without a classifier the library takes numbers of a vector for scores, from another place for each sequence.
        if self._facts.pooling == "rank" and not np.allclose(first, second, rtol=_EQUAL, atol=_EQUAL):
            raise RbeesError(
                ErrorCode.MODEL_INCOMPATIBLE, "The model has no classifier that could rank; choose a reranker, or embed with it."
            )
        self._reserve_largest_call()

    def _reserve_largest_call(self) -> None:
        """Begin the largest call and break it off at its first node, for the memory that it has taken by then.

        That stays with the library, so no later call asks for more.
        """
        ctx, rows = self._facts.ctx, min(self._facts.max_rows, self._facts.ctx * self._facts.max_sequences)
        spans = [Span(n, 0, np.zeros(min(ctx, rows - n * ctx), dtype=np.int32)) for n in range(-(-rows // ctx))]
        self._flag.stop()
        try:
            with self._log.subdued(), contextlib.suppress(Interrupted):
                self.compute(spans)
        finally:
            self._flag.rearm()
        self._forget_all()

    def _rows(self, spans: list[Span]) -> Rows:
        lengths = [len(span.tokens) for span in spans]
        assert min(lengths) > 0
        assert sum(lengths) <= self._facts.max_rows
        numbers = np.array([span.sequence for span in spans], dtype=np.int32)
        assert len(set(numbers.tolist())) == len(spans) <= self._facts.max_sequences
        assert numbers.min() >= 0 and numbers.max() < self._facts.max_sequences  # noqa: PT018 - one condition
        positions = np.concatenate([np.arange(s.start, s.start + len(s.tokens), dtype=np.int32) for s in spans])
        assert positions.max() < self._facts.ctx
        tokens = np.concatenate([span.tokens for span in spans])
        assert tokens.min() >= 0 and tokens.max() < self._vocabulary_size  # noqa: PT018
        return Rows(np.repeat(numbers, lengths), positions, tokens, np.ones(len(tokens), dtype=np.bool_))

    def _vector(self, sequence: int) -> Vectors:
        found = ll.llama_get_embeddings_seq(self._context, sequence)
        assert found, "every sequence of the call was pooled"
        return np.ctypeslib.as_array(found, shape=(self._facts.dimensions,)).copy()

    def _forget_all(self) -> None:
        if self._memory:
            ll.llama_memory_clear(self._memory, False)


def make_embedder(spec: LoadSpec, model: Any, adapters: list[Any], log: LibraryLog, flag: Flag) -> LlamaEmbedder | None:
    """What makes vectors; None where neither the header nor `spec` says how.

    Raises:
        NotLoaded
        RbeesError: MODEL_INCOMPATIBLE
    """
    pooling = spec.pooling or header_pooling(model)
    if pooling is None:
        return None
    whole = not is_causal(model)
    context = _make_context(spec, model, flag, pooling, whole=whole)
    has_memory = bool(ll.llama_get_memory(context))
    if not whole and not has_memory:
        # Its header does not say that its attention is not causal, but only such models have no memory.
        ll.llama_free(context)
        whole = True
        context = _make_context(spec, model, flag, pooling, whole=whole)
    put_in_force(context, adapters, spec.adapters)
    vocabulary = Vocabulary(model)
    facts = _read_facts(spec, model, context, vocabulary, pooling, whole=whole)
    return LlamaEmbedder(spec, context, facts, log, generates=not whole, vocabulary_size=vocabulary.size, flag=flag)


def header_pooling(model: Any) -> Pooling | None:
    """How the header says that vectors are to be made."""
    stated = metadata(model, f"{metadata(model, 'general.architecture')}.pooling_type")
    return next((name for name, number in _POOLINGS.items() if stated == str(number)), None)


def is_causal(model: Any) -> bool:
    """Whether each token looks only at those before it, as far as the header says."""
    return metadata(model, f"{metadata(model, 'general.architecture')}.attention.causal") != "false"


def _make_context(spec: LoadSpec, model: Any, flag: Flag, pooling: Pooling, *, whole: bool) -> Any:
    ctx = sequence_length(spec, model)
    good = _good_rows(model)
    params = common_params(spec, model, flag)
    # All rows of a call go through the graph at once: the library pools within one pass.
    # The library wants as many rows for each sequence; with others it ends the process.
    rows = -(-max(ctx, good) // VECTOR_SEQUENCES) * VECTOR_SEQUENCES if whole else good
    params.n_batch = params.n_ubatch = rows
    params.n_ctx = params.n_batch if whole else ctx + good
    recurrent = ll.llama_model_is_recurrent(model) or ll.llama_model_is_hybrid(model)
    params.n_seq_max = VECTOR_STATES if recurrent else VECTOR_SEQUENCES
    params.embeddings = True
    params.pooling_type = _POOLINGS[pooling]
    context = ll.llama_init_from_model(model, params)
    if not context:
        raise NotLoaded(
            "llama.cpp cannot make a context for this model's embeddings; ask for a smaller context. "
            "The worker's log has the reason."
        )
    return context


def _good_rows(model: Any) -> int:
    return vector_rows(int(ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))))


def _read_facts(
    spec: LoadSpec, model: Any, context: Any, vocabulary: Vocabulary, pooling: Pooling, *, whole: bool
) -> EmbedderFacts:
    opening, closing = _around(vocabulary)
    template = ll.llama_model_chat_template(model, b"rerank")
    text = template.decode("utf-8", "replace") if template else None
    return EmbedderFacts(
        pooling=pooling,
        dimensions=ll.llama_model_n_cls_out(model) if pooling == "rank" else ll.llama_model_n_embd_out(model),
        ctx=sequence_length(spec, model),
        max_rows=ll.llama_n_ubatch(context),
        good_rows=_good_rows(model),
        max_sequences=ll.llama_n_seq_max(context),
        whole=whole,
        opening=opening,
        between=_between(model),
        closing=closing,
        scores_are_probabilities=metadata(model, "general.architecture") in _RANK_BY_SHARES,
        rerank_template=text if text is not None and all(text.count(place) == 1 for place in _PLACES) else None,
    )


def _around(vocabulary: Vocabulary) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before and behind a text, as it does with one."""
    plain = vocabulary.tokenize("a", add_special=False, parse_special=False)
    dressed = vocabulary.tokenize("a", add_special=True, parse_special=False)
    starts = [i for i in range(len(dressed)) if plain and dressed[i : i + len(plain)] == plain]
    return (tuple(dressed[: starts[0]]), tuple(dressed[starts[0] + len(plain) :])) if starts else ((), ())


def _between(model: Any) -> tuple[int, ...]:
    """What parts two texts (as llama.cpp's server does it, tools/server/server-common.cpp, `format_prompt_rerank`)."""
    vocab = ll.llama_model_get_vocab(model)
    end, separator = ll.llama_vocab_eos(vocab), ll.llama_vocab_sep(vocab)
    parting = [end if end >= 0 else separator] if ll.llama_vocab_get_add_eos(vocab) else []
    parting += [separator] if ll.llama_vocab_get_add_sep(vocab) else []
    return tuple(token for token in parting if token >= 0)
