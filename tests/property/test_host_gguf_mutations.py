"""Thousands of damaged model files: each is refused in time, or read the way the `gguf` package reads it."""

from __future__ import annotations

import os
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest

from rbees.host.gguf import Header, read_header
from rbees.host.model_facts import shape_of
from rbees.protocol.errors import ErrorCode, RbeesError
from tests.support.tiny_gguf import write_tiny_gguf

MUTATIONS = 3_000
ORACLE_EVERY = 12
"""The package takes far longer than our reader, so it judges only every so many of the accepted files."""
LIMIT_S = 1.0
INTERESTING = [
    0,
    1,
    2,
    3,
    8,
    9,
    31,
    32,
    255,
    256,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", layers=1, width=32, heads=2, heads_kv=1).read_bytes()


def mutate(original: bytes, draw: random.Random, header_bytes: int) -> bytes:
    data = bytearray(original)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(header_bytes)
        kind = draw.randrange(6)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] = draw.randrange(256)
        elif kind == 2:
            width = draw.choice((1, 2, 4, 8))
            value = draw.choice(INTERESTING) & ((1 << (8 * width)) - 1)
            data[at : at + width] = value.to_bytes(width, "little")
        elif kind == 3:
            del data[at : at + draw.randrange(1, 64)]
        elif kind == 4:
            data[at:at] = draw.randbytes(draw.randrange(1, 64))
        else:
            del data[draw.randrange(len(data)) :]
        if len(data) <= header_bytes:
            break
    return bytes(data)


def test_mutations_are_refused_or_read_alike(original: bytes, tmp_path: Path) -> None:
    seed = int(os.environ.get("TEST_SEED", "20260101"))
    print(f"seed {seed}")
    draw = random.Random(seed)
    path = tmp_path / "mutant.gguf"
    path.write_bytes(original)
    header_bytes = read_header(path).data_offset
    accepted = compared = 0
    for number in range(MUTATIONS):
        path.write_bytes(mutate(original, draw, header_bytes))
        begun = time.process_time()
        header = read_or_refuse(path)
        assert time.process_time() - begun < LIMIT_S, f"mutation {number} of seed {seed} took too long"
        if header is None:
            continue
        accepted += 1
        if accepted % ORACLE_EVERY == 0:
            compared += 1
            assert_read_alike(path, header, number)
    print(f"{accepted} of {MUTATIONS} accepted, {compared} compared with the gguf package")
    assert accepted < MUTATIONS
    assert compared > 10


def read_or_refuse(path: Path) -> Header | None:
    """The header, or None where it was refused; a refusal with any other code goes on to the test."""
    header = None
    with refusing():
        header = read_header(path)
    if header is not None:
        with refusing():
            shape_of(header)
    return header


@contextmanager
def refusing() -> Iterator[None]:
    try:
        yield
    except RbeesError as error:
        if error.code is not ErrorCode.MODEL_INCOMPATIBLE:
            raise


def assert_read_alike(path: Path, header: Header, number: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = gguf.GGUFReader(path)
    expected = {tensor.name: (int(tensor.n_elements), int(tensor.n_bytes), int(tensor.data_offset)) for tensor in oracle.tensors}
    found = {tensor.name: (tensor.elements, tensor.size_bytes, header.data_offset + tensor.offset) for tensor in header.tensors}
    assert found == expected, f"mutation {number}"
    keys = {name for name in oracle.fields if not name.startswith("GGUF.")}
    assert keys == set(header.metadata), f"mutation {number}"
    for name, value in header.metadata.items():
        if isinstance(value, int) and not isinstance(value, bool):
            assert int(np.asarray(oracle.fields[name].parts[-1])[0]) == value, f"mutation {number}: {name}"
