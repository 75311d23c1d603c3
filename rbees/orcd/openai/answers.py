"""PURE: what every answer of this API has: who it is, what it took, and its frames in a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from rbees.protocol.codec import Message, encode
from rbees.protocol.events import Usage

DONE: Final = b"data: [DONE]\n\n"


class PromptDetails(Message, frozen=True, kw_only=True):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionDetails(Message, frozen=True, kw_only=True):
    """Of the answer's tokens."""

    reasoning_tokens: int


class TokenUsage(Message, frozen=True, kw_only=True):
    """Tokens that were computed or found in a cache."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


@dataclass(frozen=True, slots=True)
class Identity:
    """What all parts of one answer say alike."""

    id: str
    created: int
    """Seconds since 1970 at which the job was accepted."""
    model: str
    """As the client wrote it."""
    system_fingerprint: str | None
    """From the model's file: two answers with the same came from the same weights."""


def identity(prefix: str, job_id: str, created_at_ms: int, model: str, sha256: str | None) -> Identity:
    """Of the answer that a job makes."""
    return Identity(f"{prefix}-{job_id}", created_at_ms // 1000, model, f"fp_{sha256[:16]}" if sha256 else None)


def usage_of(usages: Iterable[Usage], thought_tokens: int) -> TokenUsage:
    """Of one or more jobs together."""
    told = tuple(usages)
    prompt, completion = sum(one.prompt_tokens for one in told), sum(one.completion_tokens for one in told)
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(cached_tokens=sum(one.cached_tokens for one in told)),
        completion_tokens_details=CompletionDetails(reasoning_tokens=thought_tokens),
    )


def frames(chunks: Sequence[Any]) -> bytes:
    """Chunks of a stream as they are sent; this API's events have neither names nor numbers."""
    return b"".join(b"data: %b\n\n" % encode(chunk) for chunk in chunks)


UsageField = TokenUsage | None | msgspec.UnsetType
"""Of a chunk: absent where nobody asked for it, null in all but the last."""
