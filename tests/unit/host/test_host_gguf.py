"""The bounded reader against well-formed, damaged and hostile headers."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from rbees.host.gguf import MAX_KEYS, MAX_STRINGS, MAX_TENSORS, ArrayValue, TextValue, read_header
from rbees.host.gguf_types import FILE_TYPES, TENSOR_TYPES
from rbees.host.model_facts import scripted_shape, shape_of
from rbees.protocol.errors import ErrorCode, RbeesError
from tests.support.tiny_bert import TinyBert
from tests.support.tiny_gguf import VOCABULARY_SIZE, write_tiny_gguf

U32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, type_: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", type_) + value


def tensor(name: str = "t", dimensions: tuple[int, ...] = (32,), type_: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, type_, offset)


def document(pairs: list[bytes], tensors: list[bytes], *, data: int = 4096, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    head = magic + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def refused(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(RbeesError) as caught:
        read_header(path)
    assert caught.value.code is ErrorCode.MODEL_INCOMPATIBLE
    assert caught.value.message.endswith(".")
    return caught.value.message


def test_facts_of_a_real_model(tmp_path: Path) -> None:
    header = read_header(write_tiny_gguf(tmp_path / "tiny.gguf", layers=3, width=64, heads=4, heads_kv=2, context_length=777))
    shape = shape_of(header)
    assert (shape.architecture, shape.quantization, shape.context_length) == ("llama", "F16", 777)
    assert (shape.layers, shape.embedding_length, shape.head_count, shape.head_count_kv) == (3, 64, 4, 2)
    assert (shape.key_length, shape.value_length) == (16, 16)
    assert shape.vocabulary_size == VOCABULARY_SIZE
    assert shape.parameters == sum(t.elements for t in header.tensors)
    assert shape.has_chat_template


def test_a_context_too_short_to_serve_is_refused(tmp_path: Path) -> None:
    assert shape_of(read_header(write_tiny_gguf(tmp_path / "16.gguf", context_length=16))).context_length == 16
    with pytest.raises(RbeesError) as caught:
        shape_of(read_header(write_tiny_gguf(tmp_path / "15.gguf", context_length=15)))
    assert caught.value.code is ErrorCode.MODEL_INCOMPATIBLE
    assert "15 tokens" in caught.value.message


def test_a_model_without_template_says_so(tmp_path: Path) -> None:
    assert not shape_of(read_header(write_tiny_gguf(tmp_path / "tiny.gguf", template=None))).has_chat_template


def test_facts_tell_what_a_chat_template_takes(tmp_path: Path) -> None:
    assert shape_of(read_header(write_tiny_gguf(tmp_path / "tiny.gguf", template="{{ messages }}"))).template_words == ()
    thinking = "{% if tools %}{% endif %}{% if enable_thinking %}<think>{% endif %}{{ x.split('</think>') }}"
    able = shape_of(read_header(write_tiny_gguf(tmp_path / "able.gguf", template=thinking)))
    assert able.template_words == ("tools", "enable_thinking", "</think>")
    assert scripted_shape(b'{"chat_template": "{{ reasoning_effort }}"}').template_words == ("reasoning_effort",)
    assert scripted_shape(b"{}").template_words == ()


def test_the_packaged_model_can_be_read() -> None:
    import rbees.service.catalog as catalog

    packaged = [entry.path for entry in catalog.load_catalog().values() if entry.path is not None]
    assert packaged
    for path in packaged:
        assert shape_of(read_header(path)).parameters > 0


def test_tables_are_those_of_the_gguf_package() -> None:
    ours = {number: (kind.block_elements, kind.block_bytes) for number, kind in TENSOR_TYPES.items()}
    theirs = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert ours == theirs
    names = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType if int(kind) < 1024}
    assert names == FILE_TYPES


def test_values_of_every_type(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "all.gguf", "llama")
    writer.add_uint8("a", 200)
    writer.add_int8("b", -3)
    writer.add_float64("c", 1.5)
    writer.add_bool("d", True)
    writer.add_int64("e", -(1 << 40))
    writer.add_string("f", "é")
    writer.add_array("g", [1, 2, 3])
    writer.add_array("h", ["x", "yy"])
    writer.add_tensor("t", np.zeros((2, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = read_header(tmp_path / "all.gguf").metadata
    assert [metadata[key] for key in "abcde"] == [200, -3, 1.5, True, -(1 << 40)]
    assert metadata["f"] == TextValue(2, "é")
    assert metadata["g"] == ArrayValue(3, (1, 2, 3))
    assert metadata["h"] == ArrayValue(2, None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not GGUF"),
        (b"GGU", "not GGUF"),
        (b"PK\x03\x04 a zip file", "not GGUF"),
        (b"GGUF", "truncated"),
        (document([], [tensor()], version=1), "version 1"),
        (document([], [tensor()], version=4), "version 4"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(64), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, MAX_KEYS + 1), "metadata keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, MAX_TENSORS + 1, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "0 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 63, 1 << 63), "metadata keys"),
        (document([pair("k", U32, bytes(4)), pair("k", U32, bytes(4))], [tensor()]), "twice"),
        (document([pair("k", 13, bytes(8))], [tensor()]), "unknown type 13"),
        (document([pair("k", ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(64))], [tensor()]), "array of arrays"),
        (document([pair("k", ARRAY, struct.pack("<IQ", 99, 1) + bytes(64))], [tensor()]), "unknown type 99"),
        (document([pair("k", ARRAY, struct.pack("<IQ", U32, 1 << 62))], [tensor()]), "truncated"),
        (document([pair("k", ARRAY, struct.pack("<IQ", STRING, MAX_STRINGS + 1))], [tensor()]), "strings"),
        (document([pair("k", ARRAY, struct.pack("<IQ", STRING, 1000))], [tensor()], data=64), "truncated"),
        (document([pair("k", ARRAY, struct.pack("<IQQ", STRING, 1, 1 << 60))], [tensor()]), "truncated"),
        (document([pair("k", STRING, struct.pack("<Q", (1 << 64) - 1))], [tensor()]), "truncated"),
        (document([struct.pack("<Q", 3) + b"\xff\xfe\xfd" + struct.pack("<II", U32, 1)], [tensor()]), "not UTF-8"),
        (document([pair("general.alignment", U32, struct.pack("<I", 0))], [tensor()]), "alignment"),
        (document([pair("general.alignment", U32, struct.pack("<I", 48))], [tensor()]), "alignment"),
        (document([pair("general.alignment", U32, struct.pack("<I", 1 << 31))], [tensor()]), "alignment"),
        (document([pair("general.alignment", 10, struct.pack("<Q", 32))], [tensor()]), "wrong type"),
        (document([], [tensor(dimensions=())]), "0 dimensions"),
        (document([], [tensor(dimensions=(1, 1, 1, 1, 1))]), "5 dimensions"),
        (document([], [tensor(dimensions=(0,))]), "zero or overflows"),
        (document([], [tensor(dimensions=(1 << 40, 1 << 40))]), "zero or overflows"),
        (document([], [tensor(dimensions=((1 << 64) - 1, (1 << 64) - 1))]), "zero or overflows"),
        (document([], [tensor(type_=4)]), "type 4"),
        (document([], [tensor(dimensions=(33,), type_=2)]), "whole blocks"),
        (document([], [tensor("t", offset=32)]), "gaps or overlaps"),
        (document([], [tensor("a"), tensor("a", offset=128)]), "same name"),
        (document([], [tensor("a"), tensor("b", offset=64)]), "gaps or overlaps"),
        (document([], [tensor(dimensions=(1 << 20,))], data=4096), "truncated"),
        (document([], [tensor("n" * 64)]), "at most 63"),
    ],
)
def test_refusals(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refused(tmp_path, content)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    for length in [*range(0, 200, 7), *range(200, len(whole), 4099), len(whole) - 1]:
        assert "truncated" in refused(tmp_path, whole[:length]) or length < 8


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([], "does not name its architecture"),
        ([pair("general.architecture", U32, bytes(4))], "does not name its architecture"),
        ([pair("general.architecture", STRING, text("../../etc"))], "does not name its architecture"),
        ([pair("general.architecture", STRING, text("llama"))], "llama.embedding_length"),
        ([pair("general.architecture", STRING, text("llama")), pair("general.type", STRING, text("adapter"))], "adapter"),
        ([pair("general.architecture", STRING, text("llama")), pair("split.count", 2, struct.pack("<H", 3))], "one of 3 parts"),
        (
            [pair("general.architecture", STRING, text("llama")), pair("llama.embedding_length", 5, struct.pack("<i", -5))],
            "impossible",
        ),
    ],
)
def test_headers_that_are_no_complete_model(tmp_path: Path, pairs: list[bytes], reason: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(document(pairs, [tensor()]))
    with pytest.raises(RbeesError, match=reason):
        shape_of(read_header(path))


def test_counts_given_for_each_layer_take_the_largest(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "layers.gguf", "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(3)
    writer.add_array("llama.attention.head_count", [4, 8, 4])
    writer.add_array("llama.attention.head_count_kv", [0, 2, 1])
    writer.add_vocab_size(99)
    writer.add_tensor("t", np.zeros((2, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shape = shape_of(read_header(tmp_path / "layers.gguf"))
    assert (shape.head_count, shape.head_count_kv, shape.key_length, shape.vocabulary_size) == (8, 2, 8, 99)
    assert shape.quantization == "F32"


def test_the_costliest_header_takes_a_moment(tmp_path: Path) -> None:
    """As many strings as are allowed, each with nothing in it: some tenths of a second here."""
    strings = struct.pack("<IQ", STRING, MAX_STRINGS) + bytes(8 * MAX_STRINGS)
    path = tmp_path / "x.gguf"
    path.write_bytes(document([pair("k", ARRAY, strings)], [tensor()]))
    begun = time.process_time()
    assert read_header(path).metadata["k"] == ArrayValue(MAX_STRINGS, None)
    assert time.process_time() - begun < 10.0


@pytest.mark.parametrize(
    ("pooling", "classifier", "expected"),
    [
        (gguf.PoolingType.MEAN, False, ("mean", ("embed",))),
        (gguf.PoolingType.CLS, True, ("cls", ("embed",))),
        (gguf.PoolingType.RANK, True, ("rank", ("rerank",))),
        (None, True, ("rank", ("rerank",))),
        (None, False, (None, ())),
        (gguf.PoolingType.NONE, False, (None, ())),
    ],
)
def test_what_a_bert_can_do(tmp_path: Path, pooling: gguf.PoolingType | None, classifier: bool, expected: object) -> None:
    shape = shape_of(read_header(TinyBert(classifier=classifier).write(tmp_path / "bert.gguf", pooling)))
    assert (shape.pooling, shape.capabilities) == expected


def test_what_a_decoder_can_do(tmp_path: Path) -> None:
    plain = shape_of(read_header(write_tiny_gguf(tmp_path / "plain.gguf")))
    assert (plain.pooling, plain.capabilities) == (None, ("generate", "chat"))
    both = shape_of(read_header(write_tiny_gguf(tmp_path / "both.gguf", pooling=gguf.PoolingType.LAST, template=None)))
    assert (both.pooling, both.capabilities) == ("last", ("generate", "embed"))
    scripted = scripted_shape(b'{"pooling": "mean", "generates": false}')
    assert (scripted.pooling, scripted.capabilities) == ("mean", ("embed",))
