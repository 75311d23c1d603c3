"""Small models of published shapes with real tokenizers and random weights: what they say means nothing, how they compute is real.

The tokenizers are those of llama.cpp's own tests, which `python -m scripts.llama_source` fetches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.support.vocabulary_files import Field, read_vocabulary


@dataclass(frozen=True)
class Shape:
    """What a model is like; everything else about it follows."""

    architecture: str
    tokenizer: str
    """Name of llama.cpp's vocabulary file."""
    layers: int = 3
    width: int = 64
    feed_forward: int = 160
    heads: int = 4
    heads_kv: int = 2
    head_width: int = 16
    window: int | None = None
    """Tokens that every other layer looks back."""


LLAMA: Final = Shape("llama", "llama-spm", layers=4, heads_kv=4)
QWEN2: Final = Shape("qwen2", "gpt-2", layers=3, width=48, heads=6, heads_kv=2, head_width=8)
GEMMA: Final = Shape("gemma", "llama-spm", layers=3, heads=2, heads_kv=1, head_width=48)
GEMMA2: Final = Shape("gemma2", "llama-spm", layers=4, window=48)
_TIED: Final = frozenset({"gemma", "gemma2"})
"""The output matrix is the embedding."""
_CONTEXT: Final = 4_096

_Tensor = tuple[str, NDArray[np.float16] | NDArray[np.float32]]


def write_shaped_gguf(path: Path, shape: Shape, *, seed: int = 0, tokenizer: Mapping[str, Field] | None = None) -> Path:
    """Write a model to `path`, with the shape's tokenizer or another. The same arguments always give the same weights."""
    fields = read_vocabulary(shape.tokenizer) if tokenizer is None else tokenizer
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_name(shape.architecture)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads_kv)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_layer_norm_rms_eps(1e-6)
    if shape.window is not None:
        writer.add_sliding_window(shape.window)
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
    for name, field in fields.items():
        writer.add_key_value(name, field.value, field.kind, sub_type=field.of)
    for name, values in _tensors(shape, len(fields["tokenizer.ggml.tokens"].value), np.random.default_rng(seed)):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(shape: Shape, tokens: int, rng: np.random.Generator) -> Iterator[_Tensor]:
    width, inner = shape.width, shape.feed_forward
    queries, keys = shape.heads * shape.head_width, shape.heads_kv * shape.head_width

    def matrix(name: str, rows: int, columns: int, scale: float = 0.3) -> _Tensor:
        return name, (rng.standard_normal((rows, columns), dtype=np.float32) * scale).astype(np.float16)

    def norm(name: str) -> _Tensor:
        return name, np.ones(width, dtype=np.float32)

    # Small beside what the layers add, or each token would be followed by itself where the output matrix is the same.
    yield matrix("token_embd.weight", tokens, width, 0.05)
    for i in range(shape.layers):
        yield norm(f"blk.{i}.attn_norm.weight")
        yield norm(f"blk.{i}.ffn_norm.weight")
        for name, rows in (("attn_q", queries), ("attn_k", keys), ("attn_v", keys)):
            yield matrix(f"blk.{i}.{name}.weight", rows, width)
            if shape.architecture == "qwen2":
                yield f"blk.{i}.{name}.bias", (rng.standard_normal(rows) * 0.1).astype(np.float32)
            if shape.architecture == "qwen3" and name != "attn_v":
                yield f"blk.{i}.{name}_norm.weight", np.ones(shape.head_width, dtype=np.float32)
        yield matrix(f"blk.{i}.attn_output.weight", width, queries)
        yield matrix(f"blk.{i}.ffn_gate.weight", inner, width)
        yield matrix(f"blk.{i}.ffn_up.weight", inner, width)
        yield matrix(f"blk.{i}.ffn_down.weight", width, inner)
        if shape.architecture == "gemma2":
            yield norm(f"blk.{i}.post_attention_norm.weight")
            yield norm(f"blk.{i}.post_ffw_norm.weight")
    yield norm("output_norm.weight")
    if shape.architecture not in _TIED:
        yield matrix("output.weight", tokens, width)
