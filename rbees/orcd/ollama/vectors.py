"""PURE: `/api/embed`, and the older `/api/embeddings`, which takes one text and leaves its vector as long as the model makes it."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from rbees.orcd.door.collected import Collected
from rbees.orcd.door.model_names import Found
from rbees.orcd.ollama.options import ModelRequest
from rbees.orcd.ollama.text_answers import durations
from rbees.protocol.codec import Message
from rbees.protocol.events import Embedding
from rbees.protocol.jobs import JobRequest
from rbees.protocol.vectors import MAX_DIMENSIONS, MAX_INPUTS, EmbedRequest, Text


class EmbedTexts(ModelRequest, frozen=True, kw_only=True):
    """Texts to make vectors of. Without any the model is only loaded, or unloaded."""

    content: ClassVar[str] = "input"
    private: ClassVar[frozenset[str]] = frozenset({"input"})
    input: Annotated[
        str | Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_INPUTS)],
        msgspec.Meta(description=f"A text, or up to {MAX_INPUTS}. None or an empty one: the model is loaded, or unloaded."),
    ] = ()
    truncate: Annotated[
        bool | None, msgspec.Meta(description="Cut what is longer than the context, which is the default; false: refuse it.")
    ] = None
    dimensions: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=MAX_DIMENSIONS)] | None,
        msgspec.Meta(description="The first so many numbers, for models that were trained for that."),
    ] = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """One or more, or none."""
        return ((self.input,) if self.input else ()) if isinstance(self.input, str) else self.input


class EmbedPrompt(ModelRequest, frozen=True, kw_only=True):
    """A text to make a vector of. Without one the model is only loaded, or unloaded."""

    content: ClassVar[str] = "prompt"
    private: ClassVar[frozenset[str]] = frozenset({"prompt"})
    prompt: Annotated[str | None, msgspec.Meta(description="A text. Empty: the model is loaded, or unloaded.")] = None


class EmbedAnswer(Message, frozen=True, kw_only=True):
    """Vectors in the order of the texts."""

    private: ClassVar[frozenset[str]] = frozenset({"embeddings"})
    model: str
    embeddings: tuple[tuple[float, ...], ...] = ()
    total_duration: int = 0
    """In nanoseconds, as in other answers."""
    load_duration: int = 0
    prompt_eval_count: int = 0


class EmbeddingAnswer(Message, frozen=True, kw_only=True):
    """One vector."""

    private: ClassVar[frozenset[str]] = frozenset({"embedding"})
    embedding: tuple[float, ...] = ()


def embed_job(request: EmbedTexts, found: Found) -> JobRequest:
    """The job for texts, of which there are some."""
    truncate = request.truncate is not False
    embed = EmbedRequest(input=request.inputs, dimensions=request.dimensions, truncate=truncate)
    return JobRequest(kind="embed", model=found.reference, embed=embed, cancel_on_disconnect=True)


def prompt_job(request: EmbedPrompt, found: Found) -> JobRequest:
    """The job for a text, of which there is one."""
    embed = EmbedRequest(input=(request.prompt or "",), normalize=False, truncate=True)
    return JobRequest(kind="embed", model=found.reference, embed=embed, cancel_on_disconnect=True)


def embed_answer(request: EmbedTexts, collected: Collected) -> EmbedAnswer:
    """The answer of a job that has ended well; without vectors where it only loaded the model."""
    assert collected.usage is not None
    assert collected.timings is not None
    total, load = durations(collected.timings)
    return EmbedAnswer(
        model=request.model,
        embeddings=() if request.is_empty else tuple(_numbers(one) for one in collected.embeddings),
        total_duration=total,
        load_duration=load,
        prompt_eval_count=0 if request.is_empty else collected.usage.prompt_tokens,
    )


def embedding_answer(request: EmbedPrompt, collected: Collected) -> EmbeddingAnswer:
    """The same for one text."""
    return EmbeddingAnswer() if request.is_empty else EmbeddingAnswer(embedding=_numbers(collected.embeddings[0]))


def _numbers(one: Embedding) -> tuple[float, ...]:
    assert not isinstance(one.embedding, str), "numbers were asked for"
    return one.embedding
