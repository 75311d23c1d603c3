"""Vectors in JSON: no bit is lost, no number is longer than the bound that results are measured by."""

from __future__ import annotations

import base64

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rbees.protocol import codec
from rbees.protocol.vectors import NUMBER_BYTES
from rbees.workerd.vector_numbers import numbers, scaled, short

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20)


@given(FLOATS)
def test_a_number_reads_back_as_the_same_float_and_is_short(values: list[float]) -> None:
    given_values = np.array(values, dtype=np.float32)
    written = codec.encode(short(given_values).tolist())
    np.testing.assert_array_equal(np.array(codec.decode(written, list[float]), dtype=np.float32), given_values)
    assert max(len(codec.encode(one)) for one in short(given_values).tolist()) < NUMBER_BYTES["float"]


@given(FLOATS)
def test_base64_holds_the_very_bytes(values: list[float]) -> None:
    row = np.array([values], dtype=np.float32)
    (text,) = numbers(row, "base64")
    assert isinstance(text, str)
    assert base64.b64decode(text) == row.tobytes()
    assert len(text) <= NUMBER_BYTES["base64"] * len(values) + 4


@given(FLOATS)
def test_scaled_vectors_have_length_one_unless_they_are_zero(values: list[float]) -> None:
    row = np.array([values], dtype=np.float32)
    length = float(np.linalg.norm(scaled(row, normalize=True).astype(np.float64)))
    assert abs(length - 1) < 1e-5 if row.any() else length == 0
    np.testing.assert_array_equal(scaled(row, normalize=False), row)
