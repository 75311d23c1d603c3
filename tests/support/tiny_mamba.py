"""A random-weight model of Mamba shape: its memory is a state without positions, which can be cut back nowhere."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests.support.tiny_gguf import VOCABULARY_SIZE, add_tokenizer

_CONV, _STATE = 4, 8


def write_tiny_mamba(path: Path, *, seed: int = 0, layers: int = 2, width: int = 64) -> Path:
    """Write a model to `path`. The same arguments always give the same weights."""
    inner, rank = 2 * width, width // 16
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(2_048)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_ssm_conv_kernel(_CONV)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_tokenizer(writer, None)
    rng = np.random.default_rng(seed)

    def random(name: str, *shape: int, scale: float = 0.3) -> None:
        writer.add_tensor(name, (rng.standard_normal(shape) * scale).astype(np.float32))

    random("token_embd.weight", VOCABULARY_SIZE, width)
    for i in range(layers):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(width, dtype=np.float32))
        random(f"blk.{i}.ssm_in.weight", 2 * inner, width)
        random(f"blk.{i}.ssm_conv1d.weight", inner, _CONV)
        random(f"blk.{i}.ssm_conv1d.bias", inner)
        random(f"blk.{i}.ssm_x.weight", rank + 2 * _STATE, inner)
        random(f"blk.{i}.ssm_dt.weight", inner, rank)
        random(f"blk.{i}.ssm_dt.bias", inner)
        # Of slow decay, so that what was long ago still counts.
        writer.add_tensor(f"blk.{i}.ssm_a", -np.exp(rng.standard_normal((inner, _STATE)) - 5).astype(np.float32))
        random(f"blk.{i}.ssm_d", inner)
        random(f"blk.{i}.ssm_out.weight", width, inner)
    writer.add_tensor("output_norm.weight", np.ones(width, dtype=np.float32))
    random("output.weight", VOCABULARY_SIZE, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
