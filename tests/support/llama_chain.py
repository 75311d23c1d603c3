"""llama.cpp's own sampler chain over a row of logits, by its low-level interface: a peer to compare and to measure with."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import llama_cpp as ll
import numpy as np
from numpy.typing import NDArray

from rbees.protocol.sampling import Sampling

_ENTRY = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class LlamaChain:
    """The steps that `sampling` turns on, in the order of `common_params_sampling`; XTC always acts where it is on.

    `vocab` is needed for DRY only. With `draws` the chain ends with a draw, as where llama.cpp generates; at temperature 0 it is
    the greedy sampler alone.
    """

    def __init__(self, sampling: Sampling, width: int, *, vocab: Any = None, draws: bool = False) -> None:
        self._entries = np.zeros(width, dtype=_ENTRY)
        self._ids = np.arange(width, dtype=np.int32)
        self._chain = ll.llama_sampler_chain_init(ll.llama_sampler_chain_default_params())
        for step in _steps(sampling, width, vocab, draws):
            ll.llama_sampler_chain_add(self._chain, step)

    def accept(self, tokens: Iterable[int]) -> None:
        """Let the penalties know what was there before."""
        for token in tokens:
            ll.llama_sampler_accept(self._chain, token)

    def apply(self, row: NDArray[np.float32]) -> ll.llama_token_data_array:
        """Candidates as the chain leaves them; they stand in memory of this object until the next call."""
        self._entries["id"], self._entries["logit"], self._entries["p"] = self._ids, row, 0.0
        data = self._entries.ctypes.data_as(ll.llama_token_data_p)
        array = ll.llama_token_data_array(data=data, size=len(self._entries), selected=-1, sorted=False)
        ll.llama_sampler_apply(self._chain, ctypes.byref(array))
        return array

    def survivors(self, row: NDArray[np.float32]) -> dict[int, float]:
        """Id to logit, after the temperature."""
        array = self.apply(row)
        return {array.data[i].id: array.data[i].logit for i in range(array.size)}

    def close(self) -> None:
        """Give the memory back."""
        ll.llama_sampler_free(self._chain)


def _steps(sampling: Sampling, width: int, vocab: Any, draws: bool) -> list[Any]:
    steps = []
    if sampling.logit_bias:
        biases = [ll.llama_logit_bias(token=token, bias=bias) for token, bias in sampling.logit_bias.items()]
        steps.append(ll.llama_sampler_init_logit_bias(width, len(biases), (ll.llama_logit_bias * len(biases))(*biases)))
    penalties = (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty)
    if penalties != (1.0, 0.0, 0.0):
        steps.append(ll.llama_sampler_init_penalties(width, sampling.penalty_last_n, *penalties))
    if sampling.dry_multiplier > 0.0:
        steps.append(_dry(sampling, vocab))
    if draws and sampling.temperature == 0.0:
        return [*steps, ll.llama_sampler_init_greedy()]
    if sampling.top_k:
        steps.append(ll.llama_sampler_init_top_k(sampling.top_k))
    if sampling.typical_p < 1.0:
        steps.append(ll.llama_sampler_init_typical(sampling.typical_p, 0))
    if sampling.top_p < 1.0:
        steps.append(ll.llama_sampler_init_top_p(sampling.top_p, 0))
    if sampling.min_p > 0.0:
        steps.append(ll.llama_sampler_init_min_p(sampling.min_p, 0))
    if sampling.xtc_probability > 0.0:
        steps.append(ll.llama_sampler_init_xtc(1.0, sampling.xtc_threshold, 0, 1))
    steps.append(ll.llama_sampler_init_temp(sampling.temperature))
    return [*steps, ll.llama_sampler_init_dist(1)] if draws else steps


def _dry(sampling: Sampling, vocab: Any) -> Any:
    breakers: Sequence[bytes] = [text.encode() for text in sampling.dry_sequence_breakers]
    return ll.llama_sampler_init_dry(
        vocab,
        sampling.dry_multiplier,
        sampling.dry_base,
        sampling.dry_allowed_length,
        sampling.dry_penalty_last_n,
        (ctypes.c_char_p * len(breakers))(*breakers),
        len(breakers),
    )
