"""Models of a real shape and the real Qwen2 tokenizer, with random weights: what they say means nothing, what they cost is real.

Written once into build/peer/models. `python -m tests.bench.engine.models` writes both and says where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.bench.engine import peer

FOLDER: Final = peer.FOLDER / "models"
VOCABULARY_SIZE: Final = 151_936
CONTEXT: Final = 32_768
_VOCABULARY: Final = "models/ggml-vocab-qwen2.gguf"


@dataclass(frozen=True)
class Shape:
    """A Qwen2 model; its output matrix is the embedding."""

    name: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    heads_kv: int
    matrices: gguf.GGMLQuantizationType
    embedding: gguf.GGMLQuantizationType
    file_type: gguf.LlamaFileType


HALF_BILLION: Final = Shape(
    name="qwen2.5-0.5b-shape-q4_0",
    layers=24,
    width=896,
    feed_forward=4_864,
    heads=14,
    heads_kv=2,
    matrices=gguf.GGMLQuantizationType.Q4_0,
    # What llama.cpp's own quantizer makes of an embedding that is the output matrix too.
    embedding=gguf.GGMLQuantizationType.Q8_0,
    file_type=gguf.LlamaFileType.MOSTLY_Q4_0,
)
TINY: Final = Shape(
    name="tiny-f16",
    layers=4,
    width=256,
    feed_forward=1_024,
    heads=8,
    heads_kv=4,
    matrices=gguf.GGMLQuantizationType.F16,
    embedding=gguf.GGMLQuantizationType.F16,
    file_type=gguf.LlamaFileType.MOSTLY_F16,
)


def path_of(shape: Shape) -> Path:
    """The model's file; written where it is not there yet."""
    path = (FOLDER / f"{shape.name}.gguf").absolute()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        _write(shape, unfinished)
        unfinished.rename(path)
    return path


def spelling(path: Path) -> Callable[[tuple[int, ...]], str]:
    """What token ids of this model's tokenizer spell; what is no whole character is left out."""
    pieces = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    byte_of = {char: byte for byte, char in _byte_level().items()}

    def spell(ids: tuple[int, ...]) -> str:
        return bytes(byte_of[char] for token in ids for char in pieces[token]).decode(errors="ignore")

    return spell


def _byte_level() -> dict[int, str]:
    """The character by which a byte-level vocabulary writes each byte (GPT-2's `bytes_to_unicode`)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


def _write(shape: Shape, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name(shape.name)
    writer.add_file_type(shape.file_type)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads_kv)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    _add_tokenizer(writer)
    for name, values, kind in _tensors(shape, np.random.default_rng(20)):
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """Everything that the vocabulary file of llama.cpp's own tests says about the tokenizer."""
    for name, field in gguf.GGUFReader(peer.source() / _VOCABULARY).fields.items():
        if name.startswith("tokenizer."):
            kind, *of = field.types
            writer.add_key_value(name, field.contents(), kind, sub_type=of[0] if of else None)


_Tensor = tuple[str, NDArray[np.float32], gguf.GGMLQuantizationType]


def _tensors(shape: Shape, rng: np.random.Generator) -> Iterator[_Tensor]:
    width, feed_forward, width_kv = shape.width, shape.feed_forward, shape.width // shape.heads * shape.heads_kv
    full = gguf.GGMLQuantizationType.F32

    def matrix(name: str, rows: int, columns: int) -> _Tensor:
        return name, rng.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns), shape.matrices

    yield "token_embd.weight", rng.standard_normal((VOCABULARY_SIZE, width), dtype=np.float32) * 0.05, shape.embedding
    for i in range(shape.layers):
        yield f"blk.{i}.attn_norm.weight", np.ones(width, np.float32), full
        yield f"blk.{i}.ffn_norm.weight", np.ones(width, np.float32), full
        for name, rows in (("attn_q", width), ("attn_k", width_kv), ("attn_v", width_kv)):
            yield matrix(f"blk.{i}.{name}.weight", rows, width)
            yield f"blk.{i}.{name}.bias", np.zeros(rows, np.float32), full
        yield matrix(f"blk.{i}.attn_output.weight", width, width)
        yield matrix(f"blk.{i}.ffn_gate.weight", feed_forward, width)
        yield matrix(f"blk.{i}.ffn_up.weight", feed_forward, width)
        yield matrix(f"blk.{i}.ffn_down.weight", width, feed_forward)
    yield "output_norm.weight", np.ones(width, np.float32), full


if __name__ == "__main__":
    for made in (HALF_BILLION, TINY):
        print(path_of(made))
