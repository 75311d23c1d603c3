"""The metadata of llama.cpp's vocabulary files: hundreds of thousands of texts, which gguf's own reader takes ten seconds for."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from gguf import GGUFValueType as Kind

from scripts.llama_source import VOCABULARIES

ROOT: Final = Path(__file__).parents[2]
_SCALARS: Final = {
    Kind.UINT8: "B",
    Kind.INT8: "b",
    Kind.UINT16: "H",
    Kind.INT16: "h",
    Kind.UINT32: "I",
    Kind.INT32: "i",
    Kind.UINT64: "Q",
    Kind.INT64: "q",
    Kind.FLOAT32: "f",
    Kind.FLOAT64: "d",
    Kind.BOOL: "?",
}


class Field(NamedTuple):
    """A value, as `gguf.GGUFWriter.add_key_value` takes it."""

    value: Any
    kind: Kind
    of: Kind | None = None
    """Of the elements of an array."""


def read_vocabulary(name: str) -> dict[str, Field]:
    """What the vocabulary file of this name says about its tokenizer."""
    file = ROOT / VOCABULARIES / f"ggml-vocab-{name}.gguf"
    assert file.exists(), "llama.cpp's vocabularies are not here: fetch them with `python -m scripts.llama_source`."
    return {key: field for key, field in _Reader(file.read_bytes()).fields() if key.startswith("tokenizer.")}


class _Reader:
    """Reads a file that is known to be sound from front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 8

    def fields(self) -> Iterator[tuple[str, Field]]:
        _, count = self._take("2Q")
        for _ in range(count):
            yield self._text(), self._field(Kind(*self._take("I")))

    def _field(self, kind: Kind) -> Field:
        if kind is not Kind.ARRAY:
            return Field(self._text() if kind is Kind.STRING else self._take(_SCALARS[kind])[0], kind)
        number, length = self._take("IQ")
        of = Kind(number)
        values = [self._text() for _ in range(length)] if of is Kind.STRING else list(self._take(f"{length}{_SCALARS[of]}"))
        return Field(values, kind, of)

    def _text(self) -> str:
        (length,) = self._take("Q")
        self._at += length
        return self._data[self._at - length : self._at].decode()

    def _take(self, form: str) -> tuple[Any, ...]:
        packed = struct.Struct(f"<{form}")
        self._at += packed.size
        return packed.unpack_from(self._data, self._at - packed.size)
