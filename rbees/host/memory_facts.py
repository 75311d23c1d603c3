"""What of a GGUF header decides how much memory a worker takes: cells, states, activations, weights outside the layers.

The rules are those of llama.cpp's `llama-hparams.cpp` and of its loaders of single architectures (`src/models`); the counts of
activations are what its graphs hold alive at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rbees.host.gguf import ArrayValue, Tensor, Value
from rbees.protocol.pools import MemoryFacts

_WINDOWED: Final = frozenset(
    {
        *("afmoe", "cohere2", "cohere2moe", "exaone-moe", "exaone4", "gemma-embedding", "gemma2", "gemma3", "gemma3n", "gemma4"),
        *("gpt-oss", "granite_swa", "laguna", "lfm2", "llama4", "maple", "mellum", "mimo2", "modern-bert", "muse-glimmer", "olmo2"),
        *("plamo3", "smallthinker", "spark2_5", "step35"),
    }
)
"""Architectures whose layers look back a window only, if the header names one. Others may name one that the library ignores."""
_WINDOWED_ANYHOW: Final = frozenset({"exaone-moe", "gemma2"})
"""Also where it names none."""
ENCODERS: Final = frozenset(
    {
        *("bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "nomic-bert"),
        "nomic-bert-moe",
    }
)
"""Architectures that make vectors and no text, whether their headers say that attention is not causal or not.
They keep no cells."""
_EVERYWHERE: Final = frozenset({"falcon-h1"})
"""Each layer has cells and a recurrent state."""
_ALTERNATING: Final = frozenset({"qwen3next", "qwen35", "qwen35moe"})
"""Of so many layers, the last one keeps cells and the others a state."""
_USUAL_INTERVAL: Final = 4
_GEMMA3N_KEEPS: Final = 20
"""Its later layers look at the cells of these."""
_STATE_BYTES: Final = 4
"""States are floats, whatever the KV types."""
MAX_LAYERS: Final = 512
"""The library refuses models with more."""
_MAX_DIMENSION: Final = 1 << 31
_MOST: Final = 1 << 60
"""What no machine has. A header that multiplies to more is no longer told apart."""


class MemoryReader:
    """Reads one header. `metadata` is the first part's, `tensors` are those of all parts."""

    def __init__(self, architecture: str, metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> None:
        self._architecture = architecture
        self._metadata = metadata
        self._tensors = tensors
        self._layers = min(self._number("block_count"), MAX_LAYERS)
        self._width = self._number("embedding_length")

    def read(self) -> MemoryFacts:
        """All of it."""
        keys, values = self._cells()
        state = self._state_elements() * len(self._recurrent_layers()) * _STATE_BYTES
        windowed = self._is_windowed()
        embedding = self._size_of("token_embd.weight")
        output = self._size_of("output.weight")
        return MemoryFacts(
            key_elements=min(keys, _MOST),
            value_elements=min(values, _MOST),
            state_bytes=min(state, _MOST),
            row_elements=min(self._row_elements(), _MOST),
            masks=2 if windowed else 1,
            divisible=not windowed and not state,
            embedding_bytes=embedding + self._size_of("per_layer_token_embd.weight"),
            output_bytes=output or embedding,
            is_tied=not output,
        )

    def _cells(self) -> tuple[int, int]:
        """Elements of keys and of values in one cell of all layers."""
        if self._architecture in ENCODERS:
            return 0, 0
        heads = self._each("attention.head_count_kv", self._number("attention.head_count"))
        kept = set(range(self._kept_layers())) - (set() if self._architecture in _EVERYWHERE else set(self._recurrent_layers()))
        keys = sum(heads[i] * self._length("key", i) for i in kept)
        # Compressed keys hold the values as well.
        values = 0 if self._number("attention.key_length_mla") else sum(heads[i] * self._length("value", i) for i in kept)
        return keys, values

    def _kept_layers(self) -> int:
        """Layers from the first one on that keep cells of their own."""
        if self._architecture == "gemma3n":
            return min(self._layers, _GEMMA3N_KEEPS)
        return max(0, self._layers - self._number("nextn_predict_layers") - self._number("attention.shared_kv_layers"))

    def _length(self, kind: str, layer: int) -> int:
        """Elements of one head's key or value in a layer."""
        heads = self._each("attention.head_count", 0)
        plain = self._number(f"attention.{kind}_length") or (self._width // heads[layer] if heads[layer] else 0)
        in_window = self._number(f"attention.{kind}_length_swa")
        pattern = self._metadata.get(f"{self._architecture}.attention.sliding_window_pattern")
        if not in_window or not isinstance(pattern, ArrayValue) or pattern.elements is None:
            return plain
        return in_window if layer < pattern.length and pattern.elements[layer] else plain

    def _recurrent_layers(self) -> Sequence[int]:
        if not self._state_elements():
            return ()
        layers = range(self._layers)
        if self._architecture in _ALTERNATING:
            interval = self._number("full_attention_interval") or _USUAL_INTERVAL
            return [i for i in layers if (i + 1) % interval]
        if self._architecture in _EVERYWHERE or f"{self._architecture}.attention.head_count_kv" not in self._metadata:
            return layers
        heads, forward = self._each("attention.head_count_kv", 0), self._each("feed_forward_length", 0)
        # Layers that do nothing but feed forward are listed without heads too.
        alone = self._architecture.startswith("nemotron_h")
        return [i for i in layers if not heads[i] and not (alone and forward[i])]

    def _state_elements(self) -> int:
        """Of one recurrent layer's state of one sequence: what is convolved, and the state proper."""
        if size := self._number("wkv.head_size"):
            return self._width * ((self._number("token_shift_count") or 2) + size)
        if window := self._number("shortconv.l_cache"):
            return self._width * (window - 1)
        before = max(0, (self._number("ssm.conv_kernel") or 1) - 1)
        if head := self._number("kda.head_dim"):
            heads = max(self._each("attention.head_count", 0), default=0)
            return heads * head * (3 * before + head)
        inner, state = self._number("ssm.inner_size"), self._number("ssm.state_size")
        return before * (inner + 2 * self._number("ssm.group_count") * state) + state * inner

    def _row_elements(self) -> int:
        """Numbers alive at once for each token, in the step of a layer that needs most."""
        forward = max(self._each("feed_forward_length", 0), default=0)
        used = self._number("expert_used_count")
        expert = max(self._each("expert_feed_forward_length", forward), default=0) * used
        inner = self._number("ssm.inner_size")
        return max(
            # Gate, up and their product; what came in, its norm and two that are on their way.
            3 * forward * (not expert) + 4 * self._width,
            3 * expert + 4 * self._width,
            # What each chosen expert gives, before and after it is weighted.
            expert + (2 * used + 3) * self._width if used else 0,
            # The gate and what is convolved come doubled.
            13 * inner // 2,
        )

    def _is_windowed(self) -> bool:
        if self._architecture in _WINDOWED_ANYHOW:
            return True
        if self._architecture == "llama4":
            return self._metadata.get("llama4.attention.sliding_window") != 0
        return self._architecture in _WINDOWED and self._number("attention.sliding_window") > 0

    def _number(self, key: str) -> int:
        """A count; 0 where the header does not state it as one."""
        value = self._metadata.get(f"{self._architecture}.{key}")
        return _count(value)

    def _each(self, key: str, default: int) -> Sequence[int]:
        """A count for each layer, of a header that may give one for all."""
        value = self._metadata.get(f"{self._architecture}.{key}", default)
        given = (value.elements or ()) if isinstance(value, ArrayValue) else (value,) * self._layers
        counts = [_count(number) for number in given]
        return (counts + [default] * self._layers)[: self._layers]

    def _size_of(self, name: str) -> int:
        return sum(tensor.size_bytes for tensor in self._tensors if tensor.name == name)


def _count(value: object) -> int:
    """`value` where it can be a count, else 0."""
    return value if isinstance(value, int) and 0 < value < _MAX_DIMENSION else 0
