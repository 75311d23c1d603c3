"""`rbees workerd try`: loads a model and decodes some tokens in this process, to see whether a backend really works here.

A build may hold a backend that this machine's driver or processor cannot run, which then kills the process; whoever wants to
know runs this and looks at how it ends.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.engine.backend import Backend, LoadSpec, Logits, Rows
from rbees.workerd.loading import load_backend

SENTENCE: Final = "The bees know the way."
TOKENS: Final = 16


class Trial(Message, frozen=True, kw_only=True):
    """What `rbees workerd try --json` prints."""

    backend: str
    device: str
    safe_mode: bool
    prompt_tokens: int
    decoded_tokens: int
    load_ms: int
    decode_ms: int
    """From the prompt to the last token."""
    memory_bytes: int


def try_out(spec: LoadSpec, tokens: int = TOKENS) -> Trial:
    """Load, compute a sentence, and go on with the likeliest tokens, whatever they are.

    Raises:
        RbeesError: as `load_backend`; BACKEND_UNAVAILABLE, where numbers come out that are none.
    """
    began_s = time.monotonic()
    backend = load_backend(spec, lambda _share: True)
    try:
        if not backend.facts.generates:
            raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, "This model makes vectors; name one that makes text.")
        loaded_s = time.monotonic()
        prompt = backend.tokenize(SENTENCE, add_special=True, parse_special=False)
        _decode(backend, prompt, tokens)
        ended_s = time.monotonic()
        return Trial(
            backend=spec.backend,
            device=spec.device,
            safe_mode=spec.safe_mode,
            prompt_tokens=len(prompt),
            decoded_tokens=tokens,
            load_ms=round((loaded_s - began_s) * 1000),
            decode_ms=round((ended_s - loaded_s) * 1000),
            memory_bytes=backend.memory_bytes(),
        )
    finally:
        backend.close()


def _decode(backend: Backend, prompt: list[int], tokens: int) -> None:
    logits = _computed(backend, 0, prompt)
    for position in range(len(prompt), len(prompt) + tokens - 1):
        logits = _computed(backend, position, [int(np.argmax(logits))])


def _computed(backend: Backend, position: int, tokens: list[int]) -> Logits:
    count = len(tokens)
    wanted = np.zeros(count, dtype=np.bool_)
    wanted[-1] = True
    rows = Rows(
        slots=np.zeros(count, dtype=np.int32),
        positions=np.arange(position, position + count, dtype=np.int32),
        tokens=np.array(tokens, dtype=np.int32),
        wants_logits=wanted,
    )
    logits: Logits = backend.decode(rows)[0]
    if not np.isfinite(logits).all():
        raise RbeesError(ErrorCode.BACKEND_UNAVAILABLE, "The backend computes, but what comes out are no numbers; try --safe-mode.")
    return logits
