"""The bounded reader of GGUF headers: nothing in a file can make it read far, allocate much or take long.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md. It refuses all that llama.cpp refuses (a wrong magic, duplicate
keys, nested arrays, gaps between tensors) and what a hostile file could use (counts and lengths beyond the file, overflow,
offsets outside). It reads the header only, through a small buffer and without mmap, so that a file which shrinks meanwhile
is an error and not a SIGBUS. It must not know models, catalogues or devices.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from rbees.host.gguf_types import ARRAY, SCALAR_FORMATS, STRING, TENSOR_TYPES, UINT32, TensorType
from rbees.protocol.errors import ErrorCode, RbeesError

MAGIC: Final = b"GGUF"
DEFAULT_ALIGNMENT: Final = 32
MAX_ALIGNMENT: Final = 1 << 20
MAX_HEADER_BYTES: Final = 256 << 20
MAX_KEYS: Final = 16_384
MAX_TENSORS: Final = 65_536
MAX_KEY_BYTES: Final = 1_024
MAX_NAME_BYTES: Final = 63
MAX_TEXT_BYTES: Final = 4 << 20
MAX_ARRAY_TEXT_BYTES: Final = 1 << 20
MAX_STRINGS: Final = 2_000_000
"""Most strings in all arrays of a file together; the largest vocabularies with merges have about 600 000."""
MAX_DIMENSIONS: Final = 4
MAX_KEPT_ELEMENTS: Final = 4_096
"""Longer arrays (vocabularies, scores) are walked over; only their length is kept."""
_KEPT_TEXT_BYTES: Final = 64 << 10
_MAX_INT64: Final = (1 << 63) - 1
_BUFFER_BYTES: Final = 256 << 10

Scalar = int | float | bool


@dataclass(frozen=True, slots=True)
class ArrayValue:
    """An array of the metadata: its length, and its elements where they are numbers and few."""

    length: int
    elements: tuple[Scalar, ...] | None


@dataclass(frozen=True, slots=True)
class TextValue:
    """A string of the metadata; `text` is cut to 64 KiB."""

    length_bytes: int
    text: str


Value = Scalar | ArrayValue | TextValue


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `dimensions` in ggml's order (fastest first), `offset` in bytes from the start of the data."""

    name: str
    type: TensorType
    dimensions: tuple[int, ...]
    elements: int
    size_bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """Everything the header says, checked against the size of the file."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    data_offset: int
    file_bytes: int


def read_header(path: Path) -> Header:
    """The header of the file at `path`.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE, with one sentence on what is wrong with the file.
        OSError: the file cannot be opened or read.
    """
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        return _HeaderReader(file, os.fstat(file.fileno()).st_size).read()


def refusal(reason: str) -> RbeesError:
    """The error for a file that cannot be served; `reason` completes "The model file …"."""
    return RbeesError(ErrorCode.MODEL_INCOMPATIBLE, f"The model file {reason}.")


def _truncated(where: str) -> RbeesError:
    return refusal(f"is truncated: it ends inside {where}; copy or download it again")


class _HeaderReader:
    """Reads one file from front to back, once."""

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self._file = file
        self._file_bytes = file_bytes
        self._end = min(file_bytes, MAX_HEADER_BYTES)
        self._position = 0
        self._strings_left = MAX_STRINGS

    def read(self) -> Header:
        version = self._read_preamble()
        tensor_count, key_count = self._unpack("<QQ", "the counts")
        if key_count > MAX_KEYS:
            raise refusal(f"claims {key_count} metadata keys; at most {MAX_KEYS} are accepted")
        if tensor_count > MAX_TENSORS:
            raise _tensor_count(tensor_count)
        metadata = self._read_metadata(key_count)
        if not tensor_count and not _is_part(metadata):
            raise _tensor_count(tensor_count)
        alignment = _alignment(metadata)
        tensors = self._read_tensors(tensor_count)
        data_offset = -(-self._position // alignment) * alignment
        self._check_layout(tensors, alignment, data_offset)
        return Header(version, metadata, tensors, data_offset, self._file_bytes)

    def _read_preamble(self) -> int:
        magic = self._file.read(4)
        self._position = len(magic)
        if magic != MAGIC:
            raise refusal("is not GGUF: it does not begin with the letters `GGUF`")
        (version,) = self._unpack("<I", "the version")
        if version & 0xFFFF == 0:
            raise refusal("is big-endian GGUF; convert it with `gguf_convert_endian`")
        if version not in (2, 3):
            raise refusal(f"has GGUF version {version}; versions 2 and 3 can be read")
        return int(version)

    def _read_metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for _ in range(count):
            key = self._read_name("a metadata key", MAX_KEY_BYTES)
            if key in metadata:
                raise refusal("holds a metadata key twice")
            (type_,) = self._unpack("<I", "a metadata value")
            metadata[key] = self._read_value(type_, key)
        return metadata

    def _read_value(self, type_: int, key: str) -> Value:
        if type_ == STRING:
            return self._read_text()
        if type_ == ARRAY:
            return self._read_array()
        if type_ not in SCALAR_FORMATS:
            raise refusal(f"holds a metadata value of the unknown type {type_}")
        (value,) = self._unpack(SCALAR_FORMATS[type_], "a metadata value")
        if key == "general.alignment" and type_ != UINT32:
            raise refusal("states its alignment in a wrong type")
        return value

    def _read_text(self) -> TextValue:
        length = self._read_length("a metadata string", MAX_TEXT_BYTES)
        kept = self._take(min(length, _KEPT_TEXT_BYTES), "a metadata string")
        self._skip(length - len(kept), "a metadata string")
        return TextValue(length, kept.decode("utf-8", errors="replace"))

    def _read_array(self) -> ArrayValue:
        type_, length = self._unpack("<IQ", "a metadata array")
        if type_ == STRING:
            self._walk_strings(length)
            return ArrayValue(length, None)
        if type_ == ARRAY:
            raise refusal("holds an array of arrays, which llama.cpp does not read")
        if type_ not in SCALAR_FORMATS:
            raise refusal(f"holds an array of the unknown type {type_}")
        format_ = SCALAR_FORMATS[type_]
        size = length * struct.calcsize(format_)
        if length > MAX_KEPT_ELEMENTS:
            self._skip(size, "a metadata array")
            return ArrayValue(length, None)
        return ArrayValue(length, struct.unpack(f"<{length}{format_[1]}", self._take(size, "a metadata array")))

    def _walk_strings(self, count: int) -> None:
        """Pass over `count` strings; the work is bounded by the count, which is checked first."""
        if count > self._strings_left:
            raise refusal(f"holds more than {MAX_STRINGS} strings in arrays")
        if count * 8 > self._end - self._position:
            raise _truncated("an array of strings")
        self._strings_left -= count
        # The one hot loop here: two reads of a buffered file for each string, and no method call that is not needed.
        read, unpack, position, end = self._file.read, struct.Struct("<Q").unpack, self._position, self._end
        for _ in range(count):
            prefix = read(8)
            if len(prefix) < 8:
                raise _truncated("an array of strings")
            (length,) = unpack(prefix)
            position += 8 + length
            if length > MAX_ARRAY_TEXT_BYTES or position > end:
                raise _truncated("an array of strings")
            if len(read(length)) < length:
                raise _truncated("an array of strings")
        self._position = position

    def _read_tensors(self, count: int) -> tuple[Tensor, ...]:
        names: set[str] = set()
        tensors = []
        for _ in range(count):
            tensor = self._read_tensor()
            if tensor.name in names:
                raise refusal("holds two tensors of the same name")
            names.add(tensor.name)
            tensors.append(tensor)
        return tuple(tensors)

    def _read_tensor(self) -> Tensor:
        name = self._read_name("a tensor's name", MAX_NAME_BYTES)
        (dimension_count,) = self._unpack("<I", "the tensor table")
        if not 1 <= dimension_count <= MAX_DIMENSIONS:
            raise refusal(f"holds a tensor with {dimension_count} dimensions; 1 to {MAX_DIMENSIONS} are possible")
        dimensions = self._unpack(f"<{dimension_count}Q", "the tensor table")
        type_number, offset = self._unpack("<IQ", "the tensor table")
        if type_number not in TENSOR_TYPES:
            raise refusal(f"holds a tensor of the type {type_number}, which this version of rbees does not know")
        type_ = TENSOR_TYPES[type_number]
        elements = _count_elements(dimensions)
        if dimensions[0] % type_.block_elements:
            raise refusal(f"holds a {type_.name} tensor whose rows are not whole blocks")
        size_bytes = elements // type_.block_elements * type_.block_bytes
        return Tensor(name, type_, dimensions, elements, size_bytes, offset)

    def _check_layout(self, tensors: tuple[Tensor, ...], alignment: int, data_offset: int) -> None:
        """Tensors follow each other without gap or overlap, each start aligned, and all lie inside the file."""
        expected = 0
        for tensor in tensors:
            if tensor.offset != expected:
                raise refusal("places its tensors with gaps or overlaps")
            if data_offset + expected + tensor.size_bytes > self._file_bytes:
                raise _truncated("its tensor data")
            expected += -(-tensor.size_bytes // alignment) * alignment

    def _read_name(self, what: str, limit: int) -> str:
        length = self._read_length(what, limit)
        try:
            return self._take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise refusal(f"holds {what} that is not UTF-8") from None

    def _read_length(self, what: str, limit: int) -> int:
        (length,) = self._unpack("<Q", what)
        if length > self._end - self._position:
            raise _truncated(what)
        if length > limit:
            raise refusal(f"holds {what} of {length} bytes; at most {limit} are accepted")
        return int(length)

    def _unpack(self, format_: str, what: str) -> tuple[int, ...]:
        return struct.unpack(format_, self._take(struct.calcsize(format_), what))

    def _take(self, count: int, what: str) -> bytes:
        if count > self._end - self._position:
            raise self._out_of_bounds(what)
        data = self._file.read(count)
        if len(data) < count:
            raise _truncated(what)
        self._position += count
        return data

    def _skip(self, count: int, what: str) -> None:
        if count > self._end - self._position:
            raise self._out_of_bounds(what)
        self._file.seek(count, os.SEEK_CUR)
        self._position += count

    def _out_of_bounds(self, what: str) -> RbeesError:
        if self._file_bytes > self._end:
            return refusal(f"has a header of more than {MAX_HEADER_BYTES >> 20} MiB")
        return _truncated(what)


def _count_elements(dimensions: tuple[int, ...]) -> int:
    elements = 1
    for dimension in dimensions:
        elements *= dimension
        # Checked at each step, so that the product stays small even for absurd dimensions.
        if not 0 < elements <= _MAX_INT64:
            raise refusal("holds a tensor whose size is zero or overflows")
    return elements


def _tensor_count(count: int) -> RbeesError:
    return refusal(f"claims {count} tensors; between 1 and {MAX_TENSORS} are accepted")


def _is_part(metadata: Mapping[str, Value]) -> bool:
    """True for a part of a model that was split; the first one may have the metadata alone."""
    count = metadata.get("split.count")
    return isinstance(count, int) and count > 1


def _alignment(metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise refusal("states an alignment that is not a power of two")
    return value
