"""`llorch embed|rerank`: a job of that kind, handed over and followed as `jobs submit` does."""

from __future__ import annotations

from typing import Any

import msgspec

from rbees.ctl.submit import run_job
from rbees.ctl.target import Target
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job


async def embed(target: Target, *, texts: tuple[str, ...], no_normalize: bool, as_json: bool, **options: Any) -> int | None:
    """Show a vector of each text. Returns the exit code; a job that fails raises its error."""
    job = build_job("embed", {"input": texts, "normalize": not no_normalize}, ("dimensions", "truncate"), options)
    return await run_job(target, job, as_json=as_json)


async def rerank(target: Target, *, query: str, documents: tuple[str, ...], as_json: bool, **options: Any) -> int | None:
    """Show the documents, best first. Returns the exit code; a job that fails raises its error."""
    job = build_job("rerank", {"query": query, "documents": documents}, ("top_n", "truncate"), options)
    return await run_job(target, job, as_json=as_json, documents=documents)


def build_job(kind: str, content: dict[str, Any], own: tuple[str, ...], options: dict[str, Any]) -> JobRequest:
    """The request that the options describe: those named in `own` belong to its content. What was not given keeps its default.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    given = {name: value for name, value in options.items() if value is not None}
    inner = {**content, **{name: given.pop(name) for name in own if name in given}}
    try:
        job = msgspec.convert({"kind": kind, kind: inner, **given}, JobRequest)
    except msgspec.ValidationError as error:
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"The job does not fit: {error}.") from None
    check_job(job)
    return job
