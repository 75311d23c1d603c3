"""Random-weight GGUF models of BERT shape with a word-piece tokenizer, and their forward pass in numpy as a slow reference."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PAD, UNK, CLS, SEP, MASK = range(5)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?-[]"
WORDS = ("bee", "honey", "the", "of", "rain", "sea", "moth")
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"▁{c}" for c in _LETTERS), *_LETTERS, *(f"▁{w}" for w in WORDS)]
"""As GGUF has them: a piece that begins a word is marked, one that goes on with it is not."""
WIDTH, HEADS, LAYERS, FORWARD = 32, 4, 2, 64
EPSILON = 1e-12


@dataclass
class TinyBert:
    """The weights of one model, by their GGUF names."""

    context_length: int = 64
    seed: int = 0
    classifier: bool = False
    tensors: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)

        def random(name: str, *shape: int, around: float = 0.0) -> None:
            self.tensors[name] = (around + rng.standard_normal(shape) * 0.3).astype(np.float32)

        def norm(name: str) -> None:
            random(f"{name}.weight", WIDTH, around=1.0)
            random(f"{name}.bias", WIDTH)

        def linear(name: str, rows: int, columns: int) -> None:
            random(f"{name}.weight", rows, columns)
            random(f"{name}.bias", rows)

        random("token_embd.weight", len(TOKENS), WIDTH)
        random("token_types.weight", 2, WIDTH)
        random("position_embd.weight", self.context_length, WIDTH)
        norm("token_embd_norm")
        for i in range(LAYERS):
            for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
                linear(f"blk.{i}.{part}", WIDTH, WIDTH)
            norm(f"blk.{i}.attn_output_norm")
            linear(f"blk.{i}.ffn_up", FORWARD, WIDTH)
            linear(f"blk.{i}.ffn_down", WIDTH, FORWARD)
            norm(f"blk.{i}.layer_output_norm")
        if self.classifier:
            linear("cls", WIDTH, WIDTH)
            linear("cls.output", 1, WIDTH)

    def write(self, path: Path, pooling: gguf.PoolingType | None) -> Path:
        """The model as a file whose header says how vectors are made, or does not."""
        writer = gguf.GGUFWriter(path, "bert")
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        writer.add_context_length(self.context_length)
        writer.add_embedding_length(WIDTH)
        writer.add_block_count(LAYERS)
        writer.add_feed_forward_length(FORWARD)
        writer.add_head_count(HEADS)
        writer.add_layer_norm_eps(EPSILON)
        writer.add_causal_attention(False)
        if pooling is not None:
            writer.add_pooling_type(pooling)
        writer.add_token_type_count(2)
        writer.add_tokenizer_model("bert")
        writer.add_token_list(TOKENS)
        writer.add_token_types([gguf.TokenType.CONTROL] * 5 + [gguf.TokenType.NORMAL] * (len(TOKENS) - 5))
        writer.add_pad_token_id(PAD)
        writer.add_unk_token_id(UNK)
        writer.add_bos_token_id(CLS)
        writer.add_sep_token_id(SEP)
        writer.add_mask_token_id(MASK)
        for name, tensor in self.tensors.items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def hidden(self, ids: list[int]) -> Array:
        """The last layer's vectors: (tokens, width), in 64 bits."""
        x = self._of("token_embd.weight")[ids] + self._of("token_types.weight")[0] + self._of("position_embd.weight")[: len(ids)]
        x = self._norm("token_embd_norm", x)
        for i in range(LAYERS):
            x = self._norm(f"blk.{i}.attn_output_norm", x + self._attention(i, x))
            grown = self._linear(f"blk.{i}.ffn_up", x)
            # The library's form of GELU (ggml_gelu_f32, by tanh).
            grown = 0.5 * grown * (1 + np.tanh(math.sqrt(2 / math.pi) * grown * (1 + 0.044715 * grown * grown)))
            x = self._norm(f"blk.{i}.layer_output_norm", x + self._linear(f"blk.{i}.ffn_down", grown))
        return x

    def score(self, ids: list[int]) -> float:
        """What the classifier says of the first token's vector."""
        return float(self._linear("cls.output", np.tanh(self._linear("cls", self.hidden(ids)[:1])))[0, 0])

    def _attention(self, layer: int, x: Array) -> Array:
        q, k, v = (
            self._linear(f"blk.{layer}.attn_{part}", x).reshape(len(x), HEADS, -1).transpose(1, 0, 2) for part in ("q", "k", "v")
        )
        weights = q @ k.transpose(0, 2, 1) / math.sqrt(WIDTH // HEADS)
        weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
        mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        return self._linear(f"blk.{layer}.attn_output", mixed.transpose(1, 0, 2).reshape(len(x), WIDTH))

    def _linear(self, name: str, x: Array) -> Array:
        made: Array = x @ self._of(f"{name}.weight").T + self._of(f"{name}.bias")
        return made

    def _norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + EPSILON)
        made: Array = scaled * self._of(f"{name}.weight") + self._of(f"{name}.bias")
        return made

    def _of(self, name: str) -> Array:
        return self.tensors[name].astype(np.float64)
