"""Random-weight GGUF models of llama shape with a byte-level tokenizer, small enough to write in a test."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

BOS, EOS, USER = 256, 257, 258
VOCABULARY_SIZE = 264
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"


def write_tiny_gguf(
    path: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    heads_kv: int = 2,
    context_length: int = 2_048,
    template: str | None = TEMPLATE,
    tokenizer: bool = True,
    architecture: str = "llama",
    scale: float = 0.3,
    marks: tuple[str, ...] = (),
    pooling: gguf.PoolingType | None = None,
    rerank_template: str | None = None,
    labels: tuple[str, ...] = (),
) -> Path:
    """Write a model to `path`. The same arguments always give the same weights; `marks` are control tokens, from id 259 on.

    With `labels` (and the architecture `qwen3`) it has a classifier with so many outputs.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(context_length)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(width * 2)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads_kv)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY_SIZE)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    if labels:
        writer.add_classifier_output_labels(labels)
    if rerank_template is not None:
        writer.add_string("tokenizer.chat_template.rerank", rerank_template)
    if tokenizer:
        add_tokenizer(writer, template, marks)
    else:
        writer.add_tokenizer_model("none")
    rng, head = np.random.default_rng(seed), width // heads
    _add_weights(writer, rng, layers, width, head * heads_kv, scale)
    if labels:
        for i in range(layers):
            for part in ("q", "k"):
                writer.add_tensor(f"blk.{i}.attn_{part}_norm.weight", np.ones(head, dtype=np.float32))
        writer.add_tensor("cls.output.weight", rng.standard_normal((len(labels), width)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: gguf.GGUFWriter, template: str | None, marks: tuple[str, ...] = ()) -> None:
    """A byte-level tokenizer with a few control tokens, of which `marks` are the first spare ones."""
    alphabet = byte_alphabet()
    spare = [f"<|spare{i}|>" for i in range(VOCABULARY_SIZE - 259)]
    controls = ["<|bos|>", "<|eos|>", "<|user|>", *marks, *spare[len(marks) :]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([alphabet[i] for i in range(256)] + controls)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * len(controls))
    writer.add_token_merges([f"{alphabet[255]} {alphabet[254]}"])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(True)
    if template is not None:
        writer.add_chat_template(template)


def _add_weights(writer: gguf.GGUFWriter, rng: np.random.Generator, layers: int, width: int, width_kv: int, scale: float) -> None:
    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, (rng.standard_normal((rows, columns)) * scale).astype(np.float16))

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(width, dtype=np.float32))

    matrix("token_embd.weight", VOCABULARY_SIZE, width)
    for i in range(layers):
        norm(f"blk.{i}.attn_norm.weight")
        norm(f"blk.{i}.ffn_norm.weight")
        matrix(f"blk.{i}.attn_q.weight", width, width)
        matrix(f"blk.{i}.attn_k.weight", width_kv, width)
        matrix(f"blk.{i}.attn_v.weight", width_kv, width)
        matrix(f"blk.{i}.attn_output.weight", width, width)
        matrix(f"blk.{i}.ffn_gate.weight", width * 2, width)
        matrix(f"blk.{i}.ffn_up.weight", width * 2, width)
        matrix(f"blk.{i}.ffn_down.weight", width, width * 2)
    norm("output_norm.weight")
    matrix("output.weight", VOCABULARY_SIZE, width)


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes (openai/gpt-2 encoder.py, bytes_to_unicode)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def split_gguf(source: Path, folder: Path, count: int, *, bare_first: bool = False) -> list[Path]:
    """The tensors of a model in `count` files of their own, as `llama-gguf-split` divides them; the first has the metadata, and
    nothing else where it is `bare_first`."""
    folder.mkdir()
    reader = gguf.GGUFReader(source)
    share = -(-len(reader.tensors) // (count - bare_first))
    made = []
    for number in range(count):
        path = folder / f"part-{number + 1:05d}-of-{count:05d}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        if number == 0:
            for field in reader.fields.values():
                if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                    kind = field.types[0]
                    writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        begin = (number - bare_first) * share
        for tensor in reader.tensors[max(0, begin) : max(0, begin + share)]:
            writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        made.append(path)
    return made
