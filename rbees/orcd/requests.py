"""PURE: a job's request as others need it: the worker that carries it out, and the scheduler, which reads no content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from rbees.protocol.jobs import JobRequest
from rbees.protocol.prefix_chain import HASH_BYTES, canonical, chain_of
from rbees.protocol.workers import ExecuteRequest, GivenChoice

BYTES_PER_TOKEN: Final = 4
"""About, where a client sends tokens."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a job asks for."""

    prompt_bytes: int
    prefixes: bytes
    """The names of the prompt's beginnings one after the other, the shortest first."""

    @property
    def names(self) -> tuple[str, ...]:
        """The beginnings by name, as workers know them."""
        return tuple(self.prefixes[start : start + HASH_BYTES].hex() for start in range(0, len(self.prefixes), HASH_BYTES))


def extent_of(request: JobRequest) -> Extent:
    """The extent of a request that was checked."""
    if request.embed is not None:
        sizes = [_size(text) if isinstance(text, str) else BYTES_PER_TOKEN * len(text) for text in request.embed.input]
        return Extent(sum(sizes), b"")
    if request.rerank is not None:
        query = _size(request.rerank.query)
        return Extent(sum(query + _size(document) for document in request.rerank.documents), b"")
    execute = execute_request("", 1, request, [()] * request.n)
    names = b"".join(bytes.fromhex(link.hash) for link in execute.prefix_chain)
    return Extent(len(canonical(execute)), names)


def execute_request(job_id: str, epoch: int, request: JobRequest, generated: Sequence[tuple[int, ...]]) -> ExecuteRequest:
    """What a worker is sent for a job that makes text, with the tokens of each of its answers that are known already."""
    execute = ExecuteRequest(
        job_id=job_id,
        epoch=epoch,
        prompt=request.prompt,
        messages=request.messages,
        token_ids=request.token_ids,
        tools=request.tools,
        tool_choice=request.tool_choice,
        template_options=request.template_options,
        generated_token_ids=generated[0] if request.n == 1 else (),
        choices=tuple(GivenChoice(generated_token_ids=ids) for ids in generated) if request.n > 1 else (),
        max_tokens=request.max_tokens,
        fit_context=request.fit_context,
        sampling=request.sampling(request.seed or 0),
        response_format=request.response_format,
        deterministic=request.deterministic,
    )
    return replace(execute, prefix_chain=chain_of(execute))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
