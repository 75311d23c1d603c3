"""llama.cpp as its own examples use it, beside an engine over the same file."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import llama_cpp as ll
import numpy as np
from numpy.typing import NDArray

from rbees.protocol.device_options import NOTHING_ASKED, DeviceOptions
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.backend import Backend, LoadSpec
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.sequence import Work
from rbees.workerd.loading import load_backend

THREADS: Final = 1
BATCH: Final = 512


def open_model(
    path: Path, *, slots: int = 4, ctx: int = 1_024, cells: int | None = None, options: DeviceOptions = NOTHING_ASKED
) -> Backend:
    """The model on the processor, with one thread."""
    return load_backend(LoadSpec(str(path), "cpu", "cpu", slots, ctx, cells, THREADS, options=options), lambda _: True)


def engine_over(backend: Backend, slots: int = 4, *, spill_bytes: int = 0) -> Engine:
    """An engine that takes real time."""
    return Engine(backend, slots=slots, now=time.monotonic, spill_bytes=spill_bytes)


def greedy(key: str, prompt: list[int], count: int, *, deterministic: bool = True, generated: tuple[int, ...] = ()) -> Work:
    """Work for `count` of the likeliest tokens, whatever ends an answer."""
    sampling = Sampling(temperature=0, ignore_eos=True)
    return Work(key, tuple(prompt), generated, count, sampling, deterministic)


class PlainLlama:
    """A context of its own for each answer: the prompt in one go, then token by token."""

    def __init__(self, path: Path, ctx: int) -> None:
        params = ll.llama_model_default_params()
        self._model = ll.llama_model_load_from_file(str(path).encode(), params)
        self._ctx = ctx
        vocab = ll.llama_model_get_vocab(self._model)
        self._size = ll.llama_vocab_n_tokens(vocab)
        self._eog = [i for i in range(self._size) if ll.llama_vocab_is_eog(vocab, i)]

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The `count` likeliest tokens behind `prompt`, none of which ends an answer."""
        answer: list[int] = []
        for row in self._rows(prompt, answer):
            answer.append(int(row.argmax()))
            if len(answer) == count:
                break
        return answer

    def shortfalls(self, prompt: list[int], answer: list[int]) -> list[float]:
        """For each token of an `answer` to `prompt`, by how many standard deviations of all logits it was not the likeliest.

        Where cells lie elsewhere or more rows are computed at once, sums round differently; that is worth some hundredths. A cell
        that should not be looked at, or is missing, is worth whole ones.
        """
        rows = self._rows(prompt, answer)
        return [float((row.max() - row[token]) / row[np.isfinite(row)].std()) for token, row in zip(answer, rows, strict=False)]

    def _rows(self, prompt: list[int], answer: list[int]) -> Iterator[NDArray[np.float32]]:
        """The logits behind the prompt, then behind each token of `answer`, which may grow meanwhile."""
        params = ll.llama_context_default_params()
        params.n_ctx = self._ctx
        params.n_batch = BATCH
        params.n_threads = params.n_threads_batch = THREADS
        context = ll.llama_init_from_model(self._model, params)
        try:
            for start in range(0, len(prompt), BATCH):
                self._decode(context, prompt[start : start + BATCH])
            yield self._logits(context)
            for token in answer:
                self._decode(context, [token])
                yield self._logits(context)
        finally:
            ll.llama_free(context)

    def _logits(self, context: object) -> NDArray[np.float32]:
        row = np.ctypeslib.as_array(ll.llama_get_logits_ith(context, -1), shape=(self._size,)).copy()
        row[self._eog] = -np.inf
        return row

    def close(self) -> None:
        """Give the memory back."""
        ll.llama_model_free(self._model)

    @staticmethod
    def _decode(context: object, tokens: list[int]) -> None:
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        assert ll.llama_decode(context, ll.llama_batch_get_one(array, len(tokens))) == 0
