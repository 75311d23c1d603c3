"""From a GGUF header, or from the description of a scripted model, to the facts that a pool reports about a model.

Key names are those of the GGUF specification (`<architecture>.context_length` and so on). What a file leaves out gets the
default that llama.cpp gives it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from rbees.host.gguf import ArrayValue, Header, TextValue, refusal
from rbees.host.gguf_types import FILE_TYPES
from rbees.host.memory_facts import ENCODERS, MemoryReader
from rbees.protocol import codec
from rbees.protocol.codec import Message
from rbees.protocol.errors import RbeesError
from rbees.protocol.pools import MemoryFacts, ModelFacts
from rbees.protocol.vectors import Capability, Pooling

SCRIPTED: Final = "scripted"
"""The architecture, and the backend, of `*.scripted.json` files."""
MAX_SCRIPTED_BYTES: Final = 1 << 20
SMALLEST_CONTEXT: Final = 16
"""The fewest tokens that a worker serves a sequence with."""
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_MAX_DIMENSION: Final = 1 << 31
_POOLINGS: Final[dict[int, Pooling]] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
"""By llama.cpp's `llama_pooling_type`."""
TEMPLATE_WORDS: Final = ("tools", "enable_thinking", "reasoning_effort", "</think>", "[/THINK]", "<|END_THINKING|>")
"""What of a chat template tells clients whether tools and thoughts make sense: variables, and marks behind a thought."""
_CLASSIFIER: Final = frozenset({"cls.weight", "cls.output.weight"})


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model file says of itself; sizes count tokens, layers, heads and vector elements."""

    architecture: str
    parameters: int
    quantization: str
    context_length: int
    vocabulary_size: int
    layers: int
    embedding_length: int
    head_count: int
    head_count_kv: int
    key_length: int
    value_length: int
    has_chat_template: bool
    pooling: Pooling | None
    generates: bool
    memory: MemoryFacts | None = None
    template_words: tuple[str, ...] = ()

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """What it can do."""
        able: dict[Capability, bool] = {
            "generate": self.generates,
            "chat": self.generates and self.has_chat_template,
            "embed": self.pooling not in {None, "rank"},
            "rerank": self.pooling == "rank",
        }
        return tuple(name for name, can in able.items() if can)


class ScriptedModel(Message, frozen=True, kw_only=True):
    """The part of a `*.scripted.json` file that a pool reads; the scripted backend reads the rest."""

    vocabulary_size: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 512
    context_length: Annotated[int, msgspec.Meta(ge=SMALLEST_CONTEXT, le=16_777_216)] = 131_072
    pooling: Pooling | None = None
    generates: bool = True
    chat_template: str | None = None


def facts(shape: Shape, *, ref: str, aliases: tuple[str, ...], sha256: str, file_name: str, size_bytes: int) -> ModelFacts:
    """The shape together with the file's identity."""
    return ModelFacts(
        ref=ref,
        aliases=aliases,
        sha256=sha256,
        file_name=file_name,
        size_bytes=size_bytes,
        architecture=shape.architecture,
        parameters=shape.parameters,
        quantization=shape.quantization,
        context_length=shape.context_length,
        vocabulary_size=shape.vocabulary_size,
        layers=shape.layers,
        embedding_length=shape.embedding_length,
        head_count=shape.head_count,
        head_count_kv=shape.head_count_kv,
        key_length=shape.key_length,
        value_length=shape.value_length,
        has_chat_template=shape.has_chat_template,
        pooling=shape.pooling,
        capabilities=shape.capabilities,
        memory=shape.memory,
        template_words=shape.template_words,
    )


def scripted_shape(document: bytes) -> Shape:
    """The shape of a scripted model: no layers, no weights.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE.
    """
    try:
        model = codec.decode(document, ScriptedModel)
    except RbeesError as error:
        raise refusal(f"is not a scripted model: {error.message.rstrip('.')}") from None
    return Shape(
        architecture=SCRIPTED,
        parameters=0,
        quantization=SCRIPTED,
        context_length=model.context_length,
        vocabulary_size=model.vocabulary_size,
        layers=0,
        embedding_length=0,
        head_count=0,
        head_count_kv=0,
        key_length=0,
        value_length=0,
        has_chat_template=True,
        pooling=model.pooling,
        generates=model.generates,
        template_words=_words_of(model.chat_template),
    )


def _words_of(template: str | None) -> tuple[str, ...]:
    return tuple(word for word in TEMPLATE_WORDS if template is not None and word in template)


def shape_of(header: Header, *further: Header) -> Shape:
    """The shape of a GGUF model; one that was split has the headers of its `further` parts, in order.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE: not a complete language model, or without a key that every one has.
    """
    _check_parts((header, *further))
    return _ShapeReader(header, further).shape()


def shape_at_first_sight(header: Header) -> Shape:
    """The same from the first part alone: the count of parameters may be too small. Raises as `shape_of`."""
    return _ShapeReader(header, ()).shape()


def _check_parts(headers: Sequence[Header]) -> None:
    """Refuse a part that lies alone, and parts that are not of one model."""
    for number, header in enumerate(headers):
        count = header.metadata.get("split.count", 1)
        if not isinstance(count, int) or max(count, 1) != len(headers):
            raise refusal(f"is one of {count} parts, and not all of them lie beside it; download the model again")
        if len(headers) > 1 and header.metadata.get("split.no") != number:
            raise refusal("has parts that are in the wrong order or belong to another model; download the model again")


class _ShapeReader:
    def __init__(self, header: Header, further: Sequence[Header]) -> None:
        self._header = header
        self._tensors = [tensor for part in (header, *further) for tensor in part.tensors]
        self._architecture = self._read_architecture()

    def shape(self) -> Shape:
        self._check_kind()
        embedding = self._required("embedding_length")
        heads = self._largest("attention.head_count", 0)
        head_length = embedding // heads if heads else 0
        return Shape(
            architecture=self._architecture,
            parameters=sum(tensor.elements for tensor in self._tensors),
            quantization=self._quantization(),
            context_length=self._context_length(),
            vocabulary_size=self._vocabulary_size(),
            layers=self._required("block_count"),
            embedding_length=embedding,
            head_count=heads,
            head_count_kv=self._largest("attention.head_count_kv", heads),
            key_length=self._largest("attention.key_length", head_length),
            value_length=self._largest("attention.value_length", head_length),
            has_chat_template=bool(self._text("tokenizer.chat_template")),
            pooling=self._pooling(),
            generates=self._architecture not in ENCODERS and self._metadata("attention.causal") is not False,
            memory=MemoryReader(self._architecture, self._header.metadata, self._tensors).read(),
            template_words=_words_of(self._text("tokenizer.chat_template")),
        )

    def _pooling(self) -> Pooling | None:
        """How vectors are made. Files of rerankers often say so only by the tensors of their classifier."""
        stated = self._metadata("pooling_type")
        if isinstance(stated, int) and stated in _POOLINGS:
            return _POOLINGS[stated]
        ranks = any(tensor.name in _CLASSIFIER for tensor in self._tensors)
        return "rank" if ranks else None

    def _context_length(self) -> int:
        length = self._required("context_length")
        if length < SMALLEST_CONTEXT:
            raise refusal(f"states a context of {length} tokens, too few to serve; convert the model again")
        return length

    def _read_architecture(self) -> str:
        name = self._text("general.architecture")
        if name is None or not _ARCHITECTURE.fullmatch(name):
            raise refusal("does not name its architecture")
        return name

    def _check_kind(self) -> None:
        kind = self._text("general.type") or "model"
        if kind != "model":
            raise refusal("is no language model of its own but an adapter, a projector or a vocabulary")

    def _quantization(self) -> str:
        number = self._header.metadata.get("general.file_type")
        if isinstance(number, int) and number in FILE_TYPES:
            return FILE_TYPES[number]
        sizes: Counter[str] = Counter()
        for tensor in self._tensors:
            sizes[tensor.type.name] += tensor.size_bytes
        return sizes.most_common(1)[0][0]

    def _vocabulary_size(self) -> int:
        tokens = self._header.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, ArrayValue):
            return tokens.length
        return self._required("vocab_size")

    def _required(self, key: str) -> int:
        value = self._largest(key, 0)
        if value < 1:
            raise refusal(f"does not state `{self._architecture}.{key}`")
        return value

    def _largest(self, key: str, default: int) -> int:
        """A count that some architectures give for each layer: the largest, so that an estimate is never too small."""
        value = self._header.metadata.get(f"{self._architecture}.{key}", default)
        numbers = (value.elements or ()) if isinstance(value, ArrayValue) else (value,)
        counts = [number for number in numbers if isinstance(number, int)]
        if not counts or not all(0 <= count < _MAX_DIMENSION for count in counts):
            raise refusal(f"states an impossible `{self._architecture}.{key}`")
        return max(counts)

    def _metadata(self, key: str) -> object:
        return self._header.metadata.get(f"{self._architecture}.{key}")

    def _text(self, key: str) -> str | None:
        value = self._header.metadata.get(key)
        return value.text if isinstance(value, TextValue) else None
