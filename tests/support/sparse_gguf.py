"""Models of published shapes and full size whose weights are a hole in the file: enough to reckon with, and no room on the disk.

llama.cpp reads the header and the list of tensors where it is only asked what a model takes. Nothing can be computed with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from tests.support.tiny_gguf import byte_alphabet

_NORMED_HEADS: Final = frozenset({"qwen3", "qwen3moe", "gemma3", "lfm2"})
_BIASED_HEADS: Final = frozenset({"qwen2", "gpt-oss"})
_AFTER_NORMS: Final = frozenset({"gemma2", "gemma3"})

Entry = tuple[str, tuple[int, ...], Type]
"""A tensor's name, its dimensions in ggml's order (fastest first), and how it is stored."""


@dataclass(frozen=True, kw_only=True)
class SparseShape:
    """The numbers of a model's card; sizes count tokens, layers, heads and vector elements."""

    architecture: str
    layers: int
    width: int
    feed_forward: int
    heads: int = 0
    heads_kv: int = 0
    head_width: int = 0
    vocabulary: int
    context: int
    weights: Type = Type.Q4_0
    output: Type = Type.Q6_K
    tied: bool = False
    """The output matrix is the embedding."""
    window: int = 0
    """Tokens that layers with a sliding window look back."""
    experts: int = 0
    experts_used: int = 0
    state: int = 0
    """Mamba: elements of the state of each inner channel."""
    convolution: int = 4
    latent: int = 0
    """Deepseek: elements of the compressed keys and values."""
    rotated: int = 64
    """Deepseek: elements of a head that carry the position."""
    attends: tuple[int, ...] = ()
    """LFM2: the layers that look at other tokens; the others convolve."""


SHAPES: Final[dict[str, SparseShape]] = {
    "llama-3.1-8b": SparseShape(
        architecture="llama",
        layers=32,
        width=4096,
        feed_forward=14336,
        heads=32,
        heads_kv=8,
        head_width=128,
        vocabulary=128256,
        context=131072,
    ),
    "tinyllama-1.1b": SparseShape(
        architecture="llama",
        layers=22,
        width=2048,
        feed_forward=5632,
        heads=32,
        heads_kv=4,
        head_width=64,
        vocabulary=32000,
        context=2048,
        weights=Type.Q8_0,
        output=Type.Q8_0,
    ),
    "mixtral-8x7b": SparseShape(
        architecture="llama",
        layers=32,
        width=4096,
        feed_forward=14336,
        heads=32,
        heads_kv=8,
        head_width=128,
        vocabulary=32000,
        context=32768,
        experts=8,
        experts_used=2,
    ),
    "qwen2.5-7b": SparseShape(
        architecture="qwen2",
        layers=28,
        width=3584,
        feed_forward=18944,
        heads=28,
        heads_kv=4,
        head_width=128,
        vocabulary=152064,
        context=32768,
        output=Type.Q8_0,
    ),
    "qwen2.5-0.5b-f16": SparseShape(
        architecture="qwen2",
        layers=24,
        width=896,
        feed_forward=4864,
        heads=14,
        heads_kv=2,
        head_width=64,
        vocabulary=151936,
        context=32768,
        weights=Type.F16,
        output=Type.F16,
        tied=True,
    ),
    "qwen3-4b": SparseShape(
        architecture="qwen3",
        layers=36,
        width=2560,
        feed_forward=9728,
        heads=32,
        heads_kv=8,
        head_width=128,
        vocabulary=151936,
        context=40960,
        tied=True,
    ),
    "qwen3-30b-a3b": SparseShape(
        architecture="qwen3moe",
        layers=48,
        width=2048,
        feed_forward=768,
        heads=32,
        heads_kv=4,
        head_width=128,
        vocabulary=151936,
        context=40960,
        experts=128,
        experts_used=8,
    ),
    "gemma-2-9b": SparseShape(
        architecture="gemma2",
        layers=42,
        width=3584,
        feed_forward=14336,
        heads=16,
        heads_kv=8,
        head_width=256,
        vocabulary=256000,
        context=8192,
        window=4096,
        tied=True,
    ),
    "gemma-3-4b": SparseShape(
        architecture="gemma3",
        layers=34,
        width=2560,
        feed_forward=10240,
        heads=8,
        heads_kv=4,
        head_width=256,
        vocabulary=262208,
        context=131072,
        window=1024,
        tied=True,
    ),
    "phi-3-mini": SparseShape(
        architecture="phi3",
        layers=32,
        width=3072,
        feed_forward=8192,
        heads=32,
        heads_kv=32,
        head_width=96,
        vocabulary=32064,
        context=4096,
        output=Type.Q8_0,
    ),
    "mamba-2.8b": SparseShape(
        architecture="mamba",
        layers=64,
        width=2560,
        feed_forward=0,
        vocabulary=50280,
        context=2048,
        weights=Type.F16,
        output=Type.F16,
        state=16,
    ),
    "lfm2-1.2b": SparseShape(
        architecture="lfm2",
        layers=16,
        width=2048,
        feed_forward=8192,
        heads=32,
        heads_kv=8,
        head_width=64,
        vocabulary=65536,
        context=128000,
        tied=True,
        convolution=3,
        attends=(2, 5, 8, 10, 12, 14),
    ),
    "gpt-oss-20b": SparseShape(
        architecture="gpt-oss",
        layers=24,
        width=2880,
        feed_forward=2880,
        heads=64,
        heads_kv=8,
        head_width=64,
        vocabulary=201088,
        context=131072,
        weights=Type.MXFP4,
        output=Type.Q8_0,
        window=128,
        experts=32,
        experts_used=4,
    ),
    "deepseek-v2-lite": SparseShape(
        architecture="deepseek2",
        layers=27,
        width=2048,
        feed_forward=1408,
        heads=16,
        heads_kv=1,
        head_width=192,
        vocabulary=102400,
        context=163840,
        experts=64,
        experts_used=6,
        latent=512,
    ),
}


def write_sparse_gguf(path: Path, shape: SparseShape) -> Path:
    """Write the model to `path`; its file is as long as the real one and takes a few MB for its vocabulary."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_hyperparameters(writer, shape)
    _add_vocabulary(writer, shape.vocabulary)
    end = 0
    for name, dimensions, kind in _tensors(shape):
        elements = 1
        for length in dimensions:
            elements *= length
        per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        size = elements // per_block * block_bytes
        writer.add_tensor_info(name, dimensions[::-1], np.dtype(np.float32), size, raw_dtype=kind)
        end += -(-size // writer.data_alignment) * writer.data_alignment
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    begin = -(-path.stat().st_size // writer.data_alignment) * writer.data_alignment
    os.truncate(path, begin + end)
    return path


def _add_hyperparameters(writer: gguf.GGUFWriter, shape: SparseShape) -> None:
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_rms_eps(1e-6)
    if shape.architecture == "mamba":
        writer.add_ssm_conv_kernel(shape.convolution)
        writer.add_ssm_inner_size(2 * shape.width)
        writer.add_ssm_state_size(shape.state)
        writer.add_ssm_time_step_rank(shape.width // 16)
        return
    if shape.attends:
        writer.add_shortconv_l_cache(shape.convolution)
        writer.add_head_count_kv([shape.heads_kv * (i in shape.attends) for i in range(shape.layers)])
    else:
        writer.add_head_count_kv(shape.heads_kv)
    writer.add_rope_dimension_count(shape.rotated if shape.latent else shape.head_width)
    writer.add_key_length(shape.latent + shape.rotated if shape.latent else shape.head_width)
    writer.add_value_length(shape.latent or shape.head_width)
    if shape.window:
        writer.add_sliding_window(shape.window)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
        writer.add_expert_feed_forward_length(shape.feed_forward)
    if shape.latent:
        writer.add_key_length_mla(shape.head_width)
        writer.add_value_length_mla(shape.head_width - shape.rotated)
        writer.add_kv_lora_rank(shape.latent)
        writer.add_leading_dense_block_count(0)
        writer.add_expert_shared_count(2)
        writer.add_expert_weights_scale(1.0)


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    alphabet = byte_alphabet()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([alphabet[i] if i < 256 else f"<{i}>" for i in range(size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    writer.add_token_merges([f"{alphabet[255]} {alphabet[254]}"])
    writer.add_bos_token_id(size - 2)
    writer.add_eos_token_id(size - 1)


def _tensors(shape: SparseShape) -> Iterator[Entry]:
    yield "token_embd.weight", (shape.width, shape.vocabulary), shape.output if shape.tied else shape.weights
    for i in range(shape.layers):
        layer = _mamba_layer(shape) if shape.architecture == "mamba" else _layer(shape, i)
        yield from ((f"blk.{i}.{name}", dimensions, kind) for name, dimensions, kind in layer)
    yield "token_embd_norm.weight" if shape.architecture == "lfm2" else "output_norm.weight", (shape.width,), Type.F32
    if not shape.tied:
        yield "output.weight", (shape.width, shape.vocabulary), shape.output


def _layer(shape: SparseShape, number: int) -> Iterator[Entry]:
    yield "attn_norm.weight", (shape.width,), Type.F32
    yield "post_attention_norm.weight" if shape.architecture == "gpt-oss" else "ffn_norm.weight", (shape.width,), Type.F32
    if shape.architecture in _AFTER_NORMS:
        yield "post_attention_norm.weight", (shape.width,), Type.F32
        yield "post_ffw_norm.weight", (shape.width,), Type.F32
    if shape.attends and number not in shape.attends:
        yield "shortconv.conv.weight", (shape.convolution, shape.width), Type.F32
        yield "shortconv.in_proj.weight", (shape.width, 3 * shape.width), shape.weights
        yield "shortconv.out_proj.weight", (shape.width, shape.width), shape.weights
    else:
        yield from _latent_attention(shape) if shape.latent else _attention(shape)
    if shape.experts:
        yield from _experts(shape)
        return
    if shape.architecture == "phi3":
        yield "ffn_up.weight", (shape.width, 2 * shape.feed_forward), shape.weights
    else:
        yield "ffn_gate.weight", (shape.width, shape.feed_forward), shape.weights
        yield "ffn_up.weight", (shape.width, shape.feed_forward), shape.weights
    yield "ffn_down.weight", (shape.feed_forward, shape.width), shape.weights


def _attention(shape: SparseShape) -> Iterator[Entry]:
    queries, keys = shape.heads * shape.head_width, shape.heads_kv * shape.head_width
    if shape.architecture == "phi3":
        yield "attn_qkv.weight", (shape.width, queries + 2 * keys), shape.weights
    else:
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"attn_{name}.weight", (shape.width, rows), shape.weights
            if shape.architecture in _BIASED_HEADS:
                yield f"attn_{name}.bias", (rows,), Type.F32
    if shape.architecture in _NORMED_HEADS:
        yield "attn_q_norm.weight", (shape.head_width,), Type.F32
        yield "attn_k_norm.weight", (shape.head_width,), Type.F32
    yield "attn_output.weight", (queries, shape.width), shape.weights
    if shape.architecture == "gpt-oss":
        yield "attn_output.bias", (shape.width,), Type.F32
        yield "attn_sinks.weight", (shape.heads,), Type.F32


def _latent_attention(shape: SparseShape) -> Iterator[Entry]:
    plain = shape.head_width - shape.rotated
    yield "attn_kv_a_norm.weight", (shape.latent,), Type.F32
    yield "attn_q.weight", (shape.width, shape.heads * shape.head_width), shape.weights
    yield "attn_kv_a_mqa.weight", (shape.width, shape.latent + shape.rotated), shape.weights
    yield "attn_k_b.weight", (plain, shape.latent, shape.heads), shape.weights
    yield "attn_v_b.weight", (shape.latent, plain, shape.heads), shape.weights
    yield "attn_output.weight", (shape.heads * plain, shape.width), shape.weights


def _experts(shape: SparseShape) -> Iterator[Entry]:
    inner, outer = (shape.width, shape.feed_forward, shape.experts), (shape.feed_forward, shape.width, shape.experts)
    yield "ffn_gate_inp.weight", (shape.width, shape.experts), Type.F32
    yield "ffn_gate_exps.weight", inner, shape.weights
    yield "ffn_up_exps.weight", inner, shape.weights
    yield "ffn_down_exps.weight", outer, shape.weights
    if shape.architecture == "gpt-oss":
        yield "ffn_gate_inp.bias", (shape.experts,), Type.F32
        for name, length in (("gate", shape.feed_forward), ("up", shape.feed_forward), ("down", shape.width)):
            yield f"ffn_{name}_exps.bias", (length, shape.experts), Type.F32
    if shape.latent:
        yield "ffn_gate_shexp.weight", (shape.width, 2 * shape.feed_forward), shape.weights
        yield "ffn_up_shexp.weight", (shape.width, 2 * shape.feed_forward), shape.weights
        yield "ffn_down_shexp.weight", (2 * shape.feed_forward, shape.width), shape.weights


def _mamba_layer(shape: SparseShape) -> Iterator[Entry]:
    inner, rank = 2 * shape.width, shape.width // 16
    yield "attn_norm.weight", (shape.width,), Type.F32
    yield "ssm_in.weight", (shape.width, 2 * inner), shape.weights
    yield "ssm_conv1d.weight", (shape.convolution, inner), Type.F32
    yield "ssm_conv1d.bias", (inner,), Type.F32
    yield "ssm_x.weight", (inner, rank + 2 * shape.state), shape.weights
    yield "ssm_dt.weight", (rank, inner), shape.weights
    yield "ssm_dt.bias", (inner,), Type.F32
    yield "ssm_a", (shape.state, inner), Type.F32
    yield "ssm_d", (inner,), Type.F32
    yield "ssm_out.weight", (inner, shape.width), shape.weights
