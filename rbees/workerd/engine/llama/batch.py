"""Rows of a decode call as the library wants them: one array for each column, which it reads where they are."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from rbees.workerd.engine.backend import Rows
from rbees.workerd.engine.llama.library import ll


class BatchArrays:
    """A `llama_batch` over numpy arrays, filled by column instead of by row."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._slots = np.zeros(capacity, dtype=np.int32)
        self._slot_counts = np.ones(capacity, dtype=np.int32)
        self._wants = np.zeros(capacity, dtype=np.int8)
        # One pointer per row, each to that row's own slot.
        self._slot_pointers = self._slots.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        self._batch = ll.llama_batch()
        for name, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._slot_counts),
            ("seq_id", self._slot_pointers),
            ("logits", self._wants),
        ):
            field_type = dict(ll.llama_batch._fields_)[name]
            setattr(self._batch, name, ctypes.cast(array.ctypes.data, field_type))

    def fill(self, rows: Rows) -> Any:
        """The `llama_batch` of these rows, valid until the next call."""
        count = len(rows)
        self._tokens[:count] = rows.tokens
        self._positions[:count] = rows.positions
        self._slots[:count] = rows.slots
        self._wants[:count] = rows.wants_logits
        self._batch.n_tokens = count
        return self._batch
